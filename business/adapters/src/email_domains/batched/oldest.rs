use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use prometheus::{
    Gauge, GaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use rustix::time::{ClockId, clock_gettime};

/// Milliseconds of a clock that never goes back, a few of them late. It is read for every request,
/// so it is the one that costs least: the kernel's own, as of its last tick.
pub(super) fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    let millis = now.tv_sec * 1_000 + now.tv_nsec / 1_000_000;
    millis.cast_unsigned()
}

/// When the oldest request of a queue came. Requests and their committer share it.
///
/// Whoever finds the queue empty marks its own moment *before* it queues, and the committer settles
/// the mark after it took all; so every mark is settled, and none is left behind over an empty
/// queue. One that is made while the committer settles may be lost: the next request then counts as
/// the oldest.
pub(super) struct Oldest(AtomicU64);

/// Nobody waits.
const NOBODY: u64 = u64::MAX;

impl Oldest {
    pub(super) fn nobody() -> Self {
        Self(AtomicU64::new(NOBODY))
    }

    /// How long the oldest one has waited, in milliseconds.
    pub(super) fn waited_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.0.load(Ordering::Relaxed))
    }

    /// A request is about to queue.
    pub(super) fn queue(&self, now_ms: u64) {
        if self.0.load(Ordering::Relaxed) == NOBODY {
            self.0.store(now_ms, Ordering::Relaxed);
        }
    }

    /// The committer took all, save the one that came at this moment and what stands behind it.
    pub(super) fn settle(&self, left_ms: Option<u64>) {
        self.0.store(left_ms.unwrap_or(NOBODY), Ordering::Relaxed);
    }
}

/// How long the oldest requests wait, as of the moment somebody asks: also when their committer is
/// stuck.
pub(super) struct OldestWait {
    seconds: GaugeVec,
    queues: Vec<(Arc<Oldest>, Gauge)>,
}

impl OldestWait {
    /// In the queues of all committers, in their order.
    pub(super) fn new(queues: impl Iterator<Item = Arc<Oldest>>) -> prometheus::Result<Self> {
        let seconds = GaugeVec::new(
            Opts::new(
                "catchall_queue_oldest_seconds",
                "How long the oldest request has waited for a committer to take it.",
            ),
            &["committer"],
        )?;
        let queues = queues.enumerate().map(|(number, oldest)| {
            let gauge = seconds.with_label_values(&[&number.to_string()]);
            (oldest, gauge)
        });
        let queues = queues.collect();
        Ok(Self { seconds, queues })
    }
}

impl Collector for OldestWait {
    fn desc(&self) -> Vec<&Desc> {
        self.seconds.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let now_ms = now_ms();
        for (oldest, gauge) in &self.queues {
            gauge.set(oldest.waited_ms(now_ms) as f64 / 1_000.0);
        }
        self.seconds.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_queue_is_the_oldest_until_it_is_taken() {
        let oldest = Oldest::nobody();
        assert_eq!(oldest.waited_ms(1_000), 0);
        oldest.queue(1_000);
        oldest.queue(1_700);
        assert_eq!(oldest.waited_ms(2_000), 1_000);
        oldest.settle(Some(1_700));
        assert_eq!(oldest.waited_ms(2_000), 300);
        oldest.settle(None);
        assert_eq!(oldest.waited_ms(2_000), 0);
        oldest.queue(3_000);
        // The clock of another core may be a tick behind.
        assert_eq!(oldest.waited_ms(2_996), 0);
    }

    #[test]
    fn the_clock_goes_on() {
        let (coarse, started) = (now_ms(), std::time::Instant::now());
        while now_ms() < coarse + 20 {
            assert!(started.elapsed().as_secs() < 20);
        }
        assert!(started.elapsed().as_millis() >= 10);
    }
}
