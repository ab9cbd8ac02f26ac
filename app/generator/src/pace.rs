//! The open loop: events become due by the clock, whether or not the server keeps up.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

const NANOS: u128 = 1_000_000_000;

/// When each event is meant to be sent: evenly, `rate` a second, the first at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    rate: u128,
}

impl Schedule {
    /// `rate` is in events a second.
    pub(crate) fn new(rate: NonZeroU32) -> Self {
        Self {
            rate: u128::from(rate.get()),
        }
    }

    /// The time at which event `index`, from 0, is due, from the start of the run.
    pub(crate) fn due_at(self, index: u64) -> Duration {
        let nanos = (u128::from(index) * NANOS).div_ceil(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many events are due once `elapsed` has passed.
    fn due_after(self, elapsed: Duration) -> u64 {
        let whole = elapsed.as_nanos() * self.rate / NANOS;
        u64::try_from(whole).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// Hands out one turn for each request whose events are all due.
///
/// A thread keeps the time, since the timers of the runtime are no finer than a millisecond: as
/// much as the latencies to be measured.
#[derive(Debug)]
pub(crate) struct Pacer {
    schedule: Schedule,
    /// Events a turn.
    batch: u32,
    /// A permit for each event that is due.
    due: Semaphore,
}

impl Pacer {
    /// Wakes no more often than this, so that keeping time costs little of a core.
    const MIN_PAUSE: Duration = Duration::from_micros(200);

    /// `batch` is how many events a turn is for.
    pub(crate) fn new(schedule: Schedule, batch: u32) -> Self {
        Self {
            schedule,
            batch,
            due: Semaphore::new(0),
        }
    }

    pub(crate) fn schedule(&self) -> Schedule {
        self.schedule
    }

    /// Starts the clock. Once all `events` are due, the last turn, which may be for fewer events
    /// than the others, and another `waiters` follow at once, so that each of them learns that there
    /// is nothing left to do.
    pub(crate) fn start(self: &Arc<Self>, start: Instant, events: u64, waiters: usize) {
        let pacer = Arc::clone(self);
        thread::spawn(move || {
            let mut released = 0;
            while released < events {
                let due = pacer.schedule.due_after(start.elapsed()).min(events);
                pacer.release(due - released);
                released = due;
                let next = start + pacer.schedule.due_at(released);
                thread::sleep(
                    next.saturating_duration_since(Instant::now())
                        .max(Self::MIN_PAUSE),
                );
            }
            pacer.due.add_permits((waiters + 1) * pacer.batch as usize);
        });
    }

    /// Waits until the events of one more turn are due.
    pub(crate) async fn turn(&self) {
        // An error would say that the semaphore was closed, and nothing closes it.
        if let Ok(turn) = self.due.acquire_many(self.batch).await {
            turn.forget();
        }
    }

    fn release(&self, events: u64) {
        self.due
            .add_permits(usize::try_from(events).unwrap_or(Semaphore::MAX_PERMITS));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn schedule(rate: u32) -> Schedule {
        Schedule::new(NonZeroU32::new(rate).unwrap())
    }

    #[test]
    fn events_are_due_at_even_distances() {
        let four = schedule(4);
        let due: Vec<u128> = (0..4).map(|i| four.due_at(i).as_millis()).collect();
        assert_eq!(due, [0, 250, 500, 750]);
        assert_eq!(
            schedule(10_000).due_at(36_000_000),
            Duration::from_secs(3_600)
        );
    }

    #[test]
    fn an_event_is_due_from_its_time_on_and_not_before() {
        for rate in [1, 3, 7, 9_999, 1_000_000] {
            let schedule = schedule(rate);
            for index in [0, 1, 2, 10, 1_000_003] {
                let at = schedule.due_at(index);
                assert!(schedule.due_after(at) > index, "rate {rate}, event {index}");
                if let Some(before) = at.checked_sub(Duration::from_nanos(1)) {
                    assert!(
                        schedule.due_after(before) <= index,
                        "rate {rate}, event {index}"
                    );
                }
            }
        }
    }

    #[tokio::test]
    async fn a_turn_never_comes_before_its_event_is_due() {
        let pacer = Arc::new(Pacer::new(schedule(500), 1));
        let start = Instant::now();
        pacer.start(start, 10, 1);
        for index in 0..10 {
            pacer.turn().await;
            assert!(start.elapsed() >= pacer.schedule().due_at(index));
        }
        // The one that says that nothing is left.
        pacer.turn().await;
    }

    #[tokio::test]
    async fn a_turn_for_many_comes_when_the_last_of_them_is_due() {
        let pacer = Arc::new(Pacer::new(schedule(500), 4));
        let start = Instant::now();
        pacer.start(start, 10, 2);
        for last in [3, 7, 9] {
            pacer.turn().await;
            assert!(start.elapsed() >= pacer.schedule().due_at(last));
        }
        // Those that say that nothing is left.
        for _ in 0..2 {
            let turn = tokio::time::timeout(Duration::from_secs(10), pacer.turn());
            turn.await.unwrap();
        }
    }
}
