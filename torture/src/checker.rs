//! What must hold of a run, whatever befell it: a pure function of what the clients know and what the
//! store says in the end.

mod reads;

use std::{collections::BTreeMap, fmt};

pub use self::reads::stale_reads;
use crate::history::{Fate, History, Kind, Tallies};

/// A promise that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Violation {
    /// Less is counted than was acknowledged.
    Lost(Count),
    /// More is counted than was acknowledged or may have been: something counts twice, or was
    /// refused and counts all the same.
    Double(Count),
    /// A domain that nobody named.
    Phantom(String),
    /// A read that does not show what was acknowledged before it began.
    Stale(Seen),
    /// A read that shows less than one that had ended before it began.
    WentBack(Seen),
    /// A read that shows more than was sent until it ended.
    Foreseen(Seen),
    /// The sums are not those of the domains.
    Sums(String),
    /// What the store is made of says something else than it answers.
    Fold(String),
    /// What no store may do, in words.
    Broken(String),
}

/// Of the events of one kind for one domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Count {
    /// Whose.
    pub domain: String,
    /// Which.
    pub kind: Kind,
    /// What the store says.
    pub counted: u64,
    /// What was acknowledged.
    pub acknowledged: u64,
    /// What may have been counted besides.
    pub unknown: u64,
}

/// What a read showed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Of which domain.
    pub domain: String,
    /// Which kind.
    pub kind: Kind,
    /// What it showed.
    pub seen: u64,
    /// What it should have shown, at the least or at the most.
    pub bound: u64,
    /// When it began, in microseconds since the run did.
    pub began_us: u64,
}

impl Violation {
    /// How many acknowledged events are missing.
    pub fn lost(&self) -> u64 {
        match self {
            Self::Lost(count) => count.acknowledged - count.counted,
            _ => 0,
        }
    }

    /// How many events are counted that should not be.
    pub fn double(&self) -> u64 {
        match self {
            Self::Double(count) => count.counted - count.acknowledged - count.unknown,
            _ => 0,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(count) => write!(f, "lost: {count}"),
            Self::Double(count) => write!(f, "double: {count}"),
            Self::Phantom(domain) => write!(f, "phantom: {domain} was never sent"),
            Self::Stale(seen) => write!(f, "stale read: {seen} at least"),
            Self::WentBack(seen) => write!(f, "a read went back: {seen} at least"),
            Self::Foreseen(seen) => write!(f, "a read of what was never sent: {seen} at most"),
            Self::Sums(told) => write!(f, "wrong sums: {told}"),
            Self::Fold(told) => write!(f, "the fold differs: {told}"),
            Self::Broken(told) => f.write_str(told),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            kind,
            counted,
            acknowledged,
            unknown,
        } = self;
        let kind = kind.as_str();
        write!(
            f,
            "{domain} {kind}: {counted} of {acknowledged}, and up to {unknown} more"
        )
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            kind,
            seen,
            bound,
            began_us,
        } = self;
        let kind = kind.as_str();
        write!(
            f,
            "{domain} {kind} showed {seen} at {began_us} us, and should {bound}"
        )
    }
}

/// What is wrong with what a store says in the end. Of every domain and kind it has counted all that
/// was acknowledged, and no more than that and what may have been counted.
pub fn wrong_counts(history: &History, counted: &Tallies) -> Vec<Violation> {
    #[derive(Default)]
    struct Known {
        acknowledged: u64,
        unknown: u64,
    }
    let mut known: BTreeMap<(&str, Kind), Known> = BTreeMap::new();
    for member in &history.members {
        for (domain, kind) in &member.events {
            let known = known.entry((&history.domains[*domain], *kind)).or_default();
            match member.fate {
                Fate::Acknowledged(_) => known.acknowledged += 1,
                Fate::Unknown => known.unknown += 1,
                Fate::Refused => {}
            }
        }
    }
    let mut wrong = Vec::new();
    for domain in counted
        .keys()
        .filter(|domain| !history.domains.contains(domain))
    {
        wrong.push(Violation::Phantom(domain.clone()));
    }
    for domain in &history.domains {
        for kind in Kind::ALL {
            let Known {
                acknowledged,
                unknown,
            } = known.remove(&(domain.as_str(), kind)).unwrap_or_default();
            let counts = counted.get(domain).copied().unwrap_or_default();
            let count = Count {
                domain: domain.clone(),
                kind,
                counted: counts[kind as usize],
                acknowledged,
                unknown,
            };
            if count.counted < acknowledged {
                wrong.push(Violation::Lost(count));
            } else if count.counted > acknowledged + unknown {
                wrong.push(Violation::Double(count));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Member;

    fn history(fates: &[(Fate, usize)]) -> History {
        let members = fates.iter().map(|(fate, domain)| Member {
            events: vec![(*domain, Kind::Delivered)],
            keyed: false,
            began_us: 0,
            fate: *fate,
        });
        History {
            domains: vec!["a".into(), "b".into()],
            members: members.collect(),
            reads: Vec::new(),
        }
    }

    fn of(a: u64, b: u64) -> Tallies {
        Tallies::from([("a".into(), [a, 0]), ("b".into(), [b, 0])])
    }

    const OK: Fate = Fate::Acknowledged(1);

    #[test]
    fn all_between_what_was_acknowledged_and_what_may_have_been_is_right() {
        let history = history(&[(OK, 0), (OK, 0), (Fate::Unknown, 0), (Fate::Refused, 1)]);
        for a in 2..=3 {
            assert_eq!(wrong_counts(&history, &of(a, 0)), []);
        }
        assert_eq!(
            wrong_counts(&history, &Tallies::from([("a".into(), [2, 0])])),
            []
        );
    }

    #[test]
    fn what_is_missing_is_lost_and_what_is_too_much_is_double() {
        let history = history(&[(OK, 0), (OK, 0), (Fate::Unknown, 0), (OK, 1)]);
        let wrong = wrong_counts(&history, &of(1, 1));
        assert!(
            matches!(&wrong[..], [Violation::Lost(_)]) && wrong[0].lost() == 1,
            "{wrong:?}"
        );
        let wrong = wrong_counts(&history, &of(5, 1));
        assert!(matches!(&wrong[..], [Violation::Double(_)]) && wrong[0].double() == 2);
        let wrong = wrong_counts(&history, &Tallies::new());
        assert_eq!(wrong.iter().map(Violation::lost).sum::<u64>(), 3);
    }

    #[test]
    fn what_was_refused_must_not_count() {
        let history = history(&[(Fate::Refused, 1)]);
        assert_eq!(wrong_counts(&history, &of(0, 1))[0].double(), 1);
    }

    #[test]
    fn a_domain_that_nobody_named_is_a_phantom() {
        let mut counted = of(0, 0);
        counted.insert("c".into(), [1, 0]);
        assert_eq!(
            wrong_counts(&history(&[]), &counted),
            [Violation::Phantom("c".into())]
        );
    }

    #[test]
    fn a_kind_is_not_the_other() {
        let history = history(&[(OK, 0)]);
        let wrong = wrong_counts(&history, &Tallies::from([("a".into(), [0, 1])]));
        assert!(
            matches!(&wrong[..], [Violation::Lost(_), Violation::Double(_)]),
            "{wrong:?}"
        );
    }
}
