use std::time::Duration;

/// Failures in a row that open it.
const FAILURES: u32 = 3;
/// How long nobody asks; then one does.
const OPEN_FOR: Duration = Duration::from_millis(500);
/// How long that one is waited for, before another asks. A store that is back is found within this and
/// the time before.
const ASKING_FOR: Duration = Duration::from_secs(1);

/// Whether to ask a store that failed. It stops asking after a few failures in a row, so that
/// callers need not wait for one more, and lets one in now and then to find out (a *circuit breaker*).
///
/// It has no clock: moments are given, as times since any beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Breaker {
    /// Everybody asks. So many calls in a row failed.
    Closed { failures: u32 },
    /// Nobody asks, until this moment.
    Open { until: Duration },
    /// One asks. If it is not heard of until this moment, another may.
    HalfOpen { until: Duration },
}

impl Breaker {
    pub(super) const NEW: Self = Self::Closed { failures: 0 };

    /// Whether a call may be made now.
    pub(super) fn admit(&mut self, now: Duration) -> bool {
        match *self {
            Self::Closed { .. } => true,
            Self::Open { until } | Self::HalfOpen { until } if now < until => false,
            Self::Open { .. } | Self::HalfOpen { .. } => {
                *self = Self::HalfOpen {
                    until: now + ASKING_FOR,
                };
                true
            }
        }
    }

    /// The store answered.
    pub(super) fn answered(&mut self) {
        *self = Self::NEW;
    }

    /// The store could not be reached, or was lost.
    pub(super) fn failed(&mut self, now: Duration) {
        let open = Self::Open {
            until: now + OPEN_FOR,
        };
        *self = match *self {
            Self::Closed { failures } if failures + 1 < FAILURES => Self::Closed {
                failures: failures + 1,
            },
            // One that was under way when it opened says nothing new.
            Self::Open { until } => Self::Open { until },
            Self::Closed { .. } | Self::HalfOpen { .. } => open,
        };
    }

    /// 0 when everybody asks, 1 when one does, 2 when nobody does: as a metric.
    pub(super) fn level(self) -> i64 {
        match self {
            Self::Closed { .. } => 0,
            Self::HalfOpen { .. } => 1,
            Self::Open { .. } => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn opened(at: Duration) -> Breaker {
        let mut breaker = Breaker::NEW;
        (0..FAILURES).for_each(|_| breaker.failed(at));
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_others_do_not() {
        let mut breaker = Breaker::NEW;
        for _ in 0..100 {
            breaker.failed(ms(1));
            breaker.failed(ms(2));
            breaker.answered();
        }
        assert!(breaker.admit(ms(3)));
        (0..FAILURES).for_each(|_| breaker.failed(ms(10)));
        assert!(!breaker.admit(ms(11)));
        assert!(!breaker.admit(ms(509)));
    }

    #[test]
    fn one_asks_for_all_and_decides() {
        let mut breaker = opened(ms(0));
        assert!(breaker.admit(ms(500)));
        assert!(!breaker.admit(ms(501)), "one is enough");
        breaker.failed(ms(600));
        assert!(!breaker.admit(ms(1_099)));
        assert!(breaker.admit(ms(1_100)));
        breaker.answered();
        assert_eq!(breaker, Breaker::NEW);
    }

    #[test]
    fn one_that_is_never_heard_of_is_replaced() {
        let mut breaker = opened(ms(0));
        assert!(breaker.admit(ms(500)));
        assert!(!breaker.admit(ms(1_499)));
        assert!(breaker.admit(ms(1_500)));
    }

    #[test]
    fn late_failures_do_not_keep_it_open() {
        let mut breaker = opened(ms(0));
        breaker.failed(ms(499));
        assert!(breaker.admit(ms(500)));
    }
}
