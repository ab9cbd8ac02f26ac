use std::time::{SystemTime, UNIX_EPOCH};

use business::kernel::{Clock, UnixSeconds};

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that all others are given"
    )]
    fn now(&self) -> UnixSeconds {
        // A clock before 1970 tells nothing; the epoch is the nearest that can be said.
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        UnixSeconds::saturating_from(since.as_secs())
    }
}
