use crate::kernel::UnixSeconds;

/// What happened to a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EventKind {
    /// The receiving server took it.
    Delivered,
    /// The receiving server refused it.
    Bounced,
}

impl EventKind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Delivered, Self::Bounced];

    /// The word used in routes, payloads and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Bounced => "bounced",
        }
    }
}

/// When a domain's events were recorded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Seen {
    /// The earliest.
    pub first: UnixSeconds,
    /// The latest.
    pub last: UnixSeconds,
}

impl Seen {
    /// Both at one moment.
    pub fn at(moment: UnixSeconds) -> Self {
        Self {
            first: moment,
            last: moment,
        }
    }

    /// Widened to hold `moment`; moments may come in any order.
    pub fn including(self, moment: UnixSeconds) -> Self {
        Self {
            first: self.first.min(moment),
            last: self.last.max(moment),
        }
    }
}

/// All that is known of one domain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Tally {
    /// Messages taken.
    pub delivered: u64,
    /// Messages refused.
    pub bounced: u64,
    /// When; `None` as long as nothing was recorded.
    pub seen: Option<Seen>,
}

impl Tally {
    /// Where counts stop. They never wrap; a store with signed 64-bit counters holds it too, so
    /// that all stores stop at the same number.
    pub const MAX_COUNT: u64 = i64::MAX.unsigned_abs();

    /// A domain that was never seen.
    pub const ZERO: Self = Self {
        delivered: 0,
        bounced: 0,
        seen: None,
    };

    /// The tally after `delivered` and `bounced` more events recorded at `moment`.
    #[must_use]
    pub fn plus(self, delivered: u64, bounced: u64, moment: UnixSeconds) -> Self {
        Self {
            delivered: self
                .delivered
                .saturating_add(delivered)
                .min(Self::MAX_COUNT),
            bounced: self.bounced.saturating_add(bounced).min(Self::MAX_COUNT),
            seen: Some(
                self.seen
                    .map_or(Seen::at(moment), |seen| seen.including(moment)),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_stop_at_the_limit_and_never_wrap() {
        let at = UnixSeconds::from(5);
        let full = Tally::ZERO
            .plus(u64::MAX, Tally::MAX_COUNT, at)
            .plus(1, 1, at);
        assert_eq!(
            (full.delivered, full.bounced),
            (Tally::MAX_COUNT, Tally::MAX_COUNT)
        );
    }

    #[test]
    fn seen_widens_both_ways() {
        let tally = Tally::ZERO
            .plus(1, 0, UnixSeconds::from(20))
            .plus(1, 0, UnixSeconds::from(10))
            .plus(1, 0, UnixSeconds::from(15));
        assert_eq!(
            tally.seen,
            Some(Seen {
                first: UnixSeconds::from(10),
                last: UnixSeconds::from(20)
            })
        );
    }

    #[test]
    fn time_is_held_at_its_limit() {
        assert_eq!(
            UnixSeconds::saturating_from(u64::MAX),
            UnixSeconds::from(u32::MAX)
        );
    }
}
