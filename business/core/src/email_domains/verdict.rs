//! The rule: when is a domain a catch-all?

use std::num::NonZeroU64;

use super::model::{DomainName, Tally};

/// What is known about a domain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verdict {
    /// It accepts anything: enough was delivered and nothing bounced.
    CatchAll,
    /// It refused something once, so it does not accept anything. Final.
    NotCatchAll,
    /// Nothing bounced, but too little was delivered to tell.
    Unknown,
}

impl Verdict {
    /// All three.
    pub const ALL: [Self; 3] = [Self::CatchAll, Self::NotCatchAll, Self::Unknown];
}

/// How much must be delivered, without a bounce, to call a domain a catch-all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerdictPolicy {
    threshold: NonZeroU64,
}

impl VerdictPolicy {
    /// A policy with this threshold. It cannot be zero: a domain nobody ever mailed would be a
    /// catch-all.
    pub const fn new(threshold: NonZeroU64) -> Self {
        Self { threshold }
    }

    /// Messages that must be delivered.
    pub const fn threshold(self) -> u64 {
        self.threshold.get()
    }

    /// The verdict on a domain with this tally. Any bounce: not a catch-all. Otherwise enough
    /// delivered: a catch-all. Otherwise: unknown.
    pub fn verdict(self, tally: &Tally) -> Verdict {
        if tally.bounced > 0 {
            Verdict::NotCatchAll
        } else if tally.delivered >= self.threshold() {
            Verdict::CatchAll
        } else {
            Verdict::Unknown
        }
    }

    /// How the verdict changed between two tallies of one domain, if it did: from, to.
    pub fn change(self, before: &Tally, after: &Tally) -> Option<(Verdict, Verdict)> {
        let (from, to) = (self.verdict(before), self.verdict(after));
        (from != to).then_some((from, to))
    }
}

impl Default for VerdictPolicy {
    /// 1,000 delivered.
    fn default() -> Self {
        const DEFAULT: NonZeroU64 = NonZeroU64::MIN.saturating_add(999);
        Self::new(DEFAULT)
    }
}

/// A domain whose verdict a group changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerdictChange {
    /// The domain.
    pub domain: DomainName,
    /// The verdict before the group.
    pub from: Verdict,
    /// The verdict after it.
    pub to: Verdict,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::UnixSeconds;

    fn tally(delivered: u64, bounced: u64) -> Tally {
        Tally::ZERO.plus(delivered, bounced, UnixSeconds::from(1))
    }

    #[test]
    fn the_rule() {
        let policy = VerdictPolicy::default();
        for (delivered, bounced, verdict) in [
            (0, 0, Verdict::Unknown),
            (999, 0, Verdict::Unknown),
            (1_000, 0, Verdict::CatchAll),
            (1_001, 0, Verdict::CatchAll),
            (0, 1, Verdict::NotCatchAll),
            (1_000_000, 1, Verdict::NotCatchAll),
        ] {
            assert_eq!(
                policy.verdict(&tally(delivered, bounced)),
                verdict,
                "{delivered}, {bounced}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_bounce_is_final(delivered: u64, bounced in 1u64.., more: u64) {
            let policy = VerdictPolicy::default();
            let before = tally(delivered, bounced);
            prop_assert_eq!(policy.verdict(&before.plus(more, 0, UnixSeconds::from(2))), Verdict::NotCatchAll);
        }
    }
}
