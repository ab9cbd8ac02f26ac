//! What a domain must hold after the run, and whether it does.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use indicatif::HumanCount;

use super::Counts;
use super::plan::Plan;
use super::read::DomainState;
use crate::stream::Kind;
use crate::tally::Miss;
use crate::verdict::Verdict;

/// How a domain compares.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Exact,
    /// Possible, but not certain: events without an answer may have counted.
    WithinBounds,
    /// Says what is wrong.
    Different(String),
}

/// What every domain of a plan must hold.
#[derive(Debug)]
pub(super) struct Expected {
    /// By place: before the run plus acknowledged, the least that must be there.
    least: Vec<Counts>,
    /// By place, where there are any: events that may have counted on top.
    maybe: HashMap<usize, Counts>,
}

impl Expected {
    pub(super) fn new(plan: &Plan, before: &[Counts], misses: &[Miss]) -> Self {
        let mut least: Vec<Counts> = before
            .iter()
            .enumerate()
            .map(|(place, before)| Counts {
                delivered: before.delivered + plan.sent(place, Kind::Delivered),
                bounced: before.bounced + plan.sent(place, Kind::Bounced),
            })
            .collect();
        let mut maybe: HashMap<usize, Counts> = HashMap::new();
        for miss in misses {
            let Some(place) = plan.place(miss.domain) else {
                continue;
            };
            *least[place].of_mut(miss.kind) -= 1;
            if miss.maybe_counted {
                *maybe.entry(place).or_default().of_mut(miss.kind) += 1;
            }
        }
        Self { least, maybe }
    }

    /// Compares what the server says about the domain at `place`, whose canonical name is `name`.
    pub(super) fn judge(
        &self,
        place: usize,
        name: &str,
        state: Result<&DomainState, &anyhow::Error>,
        threshold: u64,
    ) -> Finding {
        let state = match state {
            Ok(state) => state,
            Err(error) => return Finding::Different(format!("cannot be read: {error:#}")),
        };
        let least = self.least[place];
        let maybe = self.maybe.get(&place).copied().unwrap_or_default();
        let delivered = least.delivered..=least.delivered + maybe.delivered;
        let bounced = least.bounced..=least.bounced + maybe.bounced;
        let found = state.counts();

        let mut problems = Vec::new();
        if state.domain != name {
            problems.push(format!("calls itself {}", state.domain));
        }
        if !delivered.contains(&found.delivered) {
            problems.push(differs("delivered", found.delivered, &delivered));
        }
        if !bounced.contains(&found.bounced) {
            problems.push(differs("bounced", found.bounced, &bounced));
        }
        let verdict = Verdict::of(found.delivered, found.bounced, threshold);
        if state.verdict != verdict {
            problems.push(format!("verdict {} instead of {verdict}", state.verdict));
        }
        if !problems.is_empty() {
            Finding::Different(problems.join(", "))
        } else if maybe == Counts::default() {
            Finding::Exact
        } else {
            Finding::WithinBounds
        }
    }
}

impl Counts {
    fn of_mut(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Delivered => &mut self.delivered,
            Kind::Bounced => &mut self.bounced,
        }
    }
}

fn differs(what: &str, found: u64, expected: &RangeInclusive<u64>) -> String {
    let (low, high) = (HumanCount(*expected.start()), HumanCount(*expected.end()));
    let found = HumanCount(found);
    if expected.start() == expected.end() {
        format!("{what} {found} instead of {low}")
    } else {
        format!("{what} {found} instead of {low} to {high}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Shape, Stream};

    /// A plan of one domain with `events` deliveries, of which `misses` were not acknowledged, upon
    /// a history of 1,000 deliveries; and what the server says afterwards.
    fn judge(events: u64, misses: &[bool], verdict: &str, counts: [u64; 2]) -> Finding {
        let shape = Shape::Uniform {
            domains: 1,
            in_order: false,
            bounce_rate: 0.0,
        };
        let plan = Plan::of(Stream::new(shape, 1), events);
        let name = plan.name(0).to_string();
        let misses: Vec<Miss> = misses
            .iter()
            .map(|maybe_counted| Miss {
                domain: 0,
                kind: Kind::Delivered,
                maybe_counted: *maybe_counted,
            })
            .collect();
        let before = Counts {
            delivered: 1_000,
            bounced: 0,
        };
        let state = serde_json::json!({
            "domain": name, "verdict": verdict, "delivered": counts[0], "bounced": counts[1],
        });
        let state: DomainState = serde_json::from_value(state).unwrap();
        Expected::new(&plan, &[before], &misses).judge(0, &name, Ok(&state), 1_000)
    }

    fn different(problem: &str) -> Finding {
        Finding::Different(problem.into())
    }

    #[test]
    fn every_acknowledged_event_must_be_there_once() {
        assert_eq!(judge(5, &[], "catch-all", [1_005, 0]), Finding::Exact);
        assert_eq!(
            judge(5, &[], "catch-all", [1_004, 0]),
            different("delivered 1,004 instead of 1,005")
        );
        assert_eq!(
            judge(5, &[], "catch-all", [1_006, 0]),
            different("delivered 1,006 instead of 1,005")
        );
        assert_eq!(
            judge(5, &[], "not catch-all", [1_005, 1]),
            different("bounced 1 instead of 0")
        );
    }

    #[test]
    fn the_verdict_must_follow_from_the_counts() {
        assert_eq!(
            judge(5, &[], "unknown", [1_005, 0]),
            different("verdict unknown instead of catch-all")
        );
    }

    #[test]
    fn what_was_refused_for_certain_must_not_be_there() {
        assert_eq!(judge(5, &[false], "catch-all", [1_004, 0]), Finding::Exact);
        assert_eq!(
            judge(5, &[false], "catch-all", [1_005, 0]),
            different("delivered 1,005 instead of 1,004")
        );
    }

    #[test]
    fn what_had_no_answer_may_be_there() {
        for delivered in [1_003, 1_004, 1_005] {
            let finding = judge(5, &[true, true], "catch-all", [delivered, 0]);
            assert_eq!(finding, Finding::WithinBounds);
        }
        for delivered in ["1,002", "1,006"] {
            let count = delivered.replace(',', "").parse().unwrap();
            assert_eq!(
                judge(5, &[true, true], "catch-all", [count, 0]),
                different(&format!("delivered {delivered} instead of 1,003 to 1,005"))
            );
        }
    }
}
