//! Reads, held against what was acknowledged before them and sent until their end.

use super::{Seen, Violation};
use crate::history::{Fate, History, Kind, Read};

/// The clocks of a cache tell milliseconds.
const ROUNDING_US: u64 = 2_000;

/// The reads that show too little or too much. One that a cache may have answered may be as old as
/// `cache_us`.
///
/// A read shows what was acknowledged before it began; nothing that was not sent when it ended, nor
/// what was refused; and, past the caches, no less than any read that had ended before it began.
pub fn stale_reads(history: &History, cache_us: u64) -> Vec<Violation> {
    let mut wrong = Vec::new();
    for (place, domain) in history.domains.iter().enumerate() {
        let mut reads: Vec<&Read> = history.reads.iter().filter(|r| r.domain == place).collect();
        if reads.is_empty() {
            continue;
        }
        reads.sort_unstable_by_key(|read| read.began_us);
        for kind in Kind::ALL {
            let (mut acknowledged, mut sent) = (Vec::new(), Vec::new());
            for member in &history.members {
                let count = member
                    .events
                    .iter()
                    .filter(|event| **event == (place, kind))
                    .count();
                if count == 0 || member.fate == Fate::Refused {
                    continue;
                }
                sent.push((member.began_us, count as u64));
                if let Fate::Acknowledged(at_us) = member.fate {
                    acknowledged.push((at_us, count as u64));
                }
            }
            let (acknowledged, sent) = (Steps::of(acknowledged), Steps::of(sent));
            let ends = reads
                .iter()
                .map(|read| (read.ended_us, read.seen[kind as usize]));
            let most_seen = Highest::of(ends.collect());
            for read in &reads {
                let seen = read.seen[kind as usize];
                let of = |bound| Seen {
                    domain: domain.clone(),
                    kind,
                    seen,
                    bound,
                    began_us: read.began_us,
                };
                let age_us = if read.latest {
                    0
                } else {
                    cache_us + ROUNDING_US
                };
                let least = acknowledged.before(read.began_us.saturating_sub(age_us));
                let most = sent.before(read.ended_us + 1);
                if seen < least {
                    wrong.push(Violation::Stale(of(least)));
                } else if seen > most {
                    wrong.push(Violation::Foreseen(of(most)));
                } else if read.latest && seen < most_seen.before(read.began_us) {
                    wrong.push(Violation::WentBack(of(most_seen.before(read.began_us))));
                }
            }
        }
    }
    wrong
}

/// Sums over time.
struct Steps(Vec<(u64, u64)>);

impl Steps {
    fn of(mut steps: Vec<(u64, u64)>) -> Self {
        steps.sort_unstable();
        let mut sum = 0;
        for (_, count) in &mut steps {
            sum += *count;
            *count = sum;
        }
        Self(steps)
    }

    /// The sum of all before a moment.
    fn before(&self, at_us: u64) -> u64 {
        let after = self.0.partition_point(|(step_us, _)| *step_us < at_us);
        after.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

/// The highest so far, over time.
struct Highest(Steps);

impl Highest {
    fn of(mut steps: Vec<(u64, u64)>) -> Self {
        steps.sort_unstable();
        let mut highest = 0;
        for (_, value) in &mut steps {
            highest = highest.max(*value);
            *value = highest;
        }
        Self(Steps(steps))
    }

    fn before(&self, at_us: u64) -> u64 {
        self.0.before(at_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Member;

    /// One event acknowledged at 10, one sent at 20 whose outcome is unknown, one refused at 30.
    fn history(reads: &[(u64, u64, u64, bool)]) -> History {
        let member = |began_us, fate| Member {
            events: vec![(0, Kind::Bounced)],
            keyed: false,
            began_us,
            fate,
        };
        let reads = reads
            .iter()
            .map(|&(began_us, ended_us, seen, latest)| Read {
                domain: 0,
                began_us,
                ended_us,
                seen: [0, seen],
                latest,
            });
        History {
            domains: vec!["a".into()],
            members: vec![
                member(5, Fate::Acknowledged(10)),
                member(20, Fate::Unknown),
                member(30, Fate::Refused),
            ],
            reads: reads.collect(),
        }
    }

    #[test]
    fn what_may_be_seen_is_right() {
        let right = [
            (1, 2, 0, true),
            (3, 40, 2, true),
            (11, 15, 1, true),
            (50, 60, 2, true),
        ];
        assert_eq!(stale_reads(&history(&right), 0), []);
    }

    #[test]
    fn a_read_that_misses_what_was_acknowledged_is_stale() {
        let wrong = stale_reads(&history(&[(11, 12, 0, true)]), 0);
        assert!(matches!(&wrong[..], [Violation::Stale(_)]), "{wrong:?}");
    }

    #[test]
    fn a_cached_read_may_be_as_old_as_the_cache_and_no_older() {
        let at = |began_us| history(&[(began_us, began_us + 1, 0, false)]);
        assert_eq!(stale_reads(&at(10 + 3_000), 1_000), []);
        let wrong = stale_reads(&at(11 + 3_000), 1_000);
        assert!(matches!(&wrong[..], [Violation::Stale(_)]), "{wrong:?}");
    }

    #[test]
    fn what_was_not_sent_yet_or_was_refused_cannot_be_seen() {
        for (began_us, seen) in [(11, 2), (50, 3)] {
            let wrong = stale_reads(&history(&[(began_us, began_us + 1, seen, true)]), 0);
            assert!(matches!(&wrong[..], [Violation::Foreseen(_)]), "{wrong:?}");
        }
    }

    #[test]
    fn who_has_seen_it_sees_it_again() {
        let reads = [(21, 22, 2, true), (23, 24, 1, true)];
        let wrong = stale_reads(&history(&reads), 0);
        assert!(matches!(&wrong[..], [Violation::WentBack(_)]), "{wrong:?}");
        // Not when it comes from a cache.
        let reads = [(21, 22, 2, true), (23, 24, 1, false)];
        assert_eq!(stale_reads(&history(&reads), 1_000), []);
    }
}
