use std::time::{Duration, SystemTime, UNIX_EPOCH};

use business::kernel::{Clock, UnixSeconds};
use foundation::planted::clock_error_s;

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixSeconds {
        UnixSeconds::saturating_from(since_epoch().as_secs())
    }
}

/// Milliseconds since the epoch by the machine's wall clock.
pub fn system_millis() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the clock that all others are given"
)]
fn since_epoch() -> Duration {
    // A clock before 1970 tells nothing; the epoch is the nearest that can be said.
    let told = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    match clock_error_s() {
        0 => told,
        ahead @ 1.. => told + Duration::from_secs(ahead.unsigned_abs()),
        behind => told.saturating_sub(Duration::from_secs(behind.unsigned_abs())),
    }
}
