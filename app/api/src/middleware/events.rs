//! How many events were sent, and what became of them.

use business::email_domains::{model::EventKind, service::Receipt};
use prometheus::{IntCounter, IntCounterVec};

/// The counters of one kind of event.
#[derive(Clone)]
pub(super) struct EventCounters {
    pub(super) counted: IntCounter,
    pub(super) duplicate: IntCounter,
    pub(super) spooled: IntCounter,
    pub(super) refused: IntCounter,
    pub(super) failed: IntCounter,
}

/// Counts the events of requests that carry many.
///
/// A request that is refused counts none: how many events it has, and of which kind, may be just
/// what is wrong with it. It shows among the requests.
#[derive(Clone)]
pub(crate) struct BulkEvents {
    delivered: EventCounters,
    bounced: EventCounters,
}

/// The events of one request, which the store has been given. Dropped without a receipt they
/// failed, or the client left, and they may have been counted.
pub(crate) struct Given<'a> {
    counters: &'a BulkEvents,
    delivered: u64,
    bounced: u64,
}

impl EventCounters {
    pub(super) fn new(events: &IntCounterVec, kind: EventKind) -> Self {
        let counter = |outcome| events.with_label_values(&[kind.as_str(), outcome]);
        Self {
            counted: counter("counted"),
            duplicate: counter("duplicate"),
            spooled: counter("spooled"),
            refused: counter("refused"),
            failed: counter("failed"),
        }
    }
}

impl BulkEvents {
    pub(super) fn new(events: &IntCounterVec) -> Self {
        Self {
            delivered: EventCounters::new(events, EventKind::Delivered),
            bounced: EventCounters::new(events, EventKind::Bounced),
        }
    }

    pub(crate) fn given(&self, (delivered, bounced): (u64, u64)) -> Given<'_> {
        Given {
            counters: self,
            delivered,
            bounced,
        }
    }
}

impl Given<'_> {
    /// They are refused, for what is wrong with their key.
    pub(crate) fn refused(mut self) {
        (self.delivered, self.bounced) = (0, 0);
    }

    /// They count, had been counted before, or will be.
    pub(crate) fn settled(mut self, receipt: &Receipt) {
        (self.delivered, self.bounced) = (0, 0);
        let BulkEvents { delivered, bounced } = self.counters;
        delivered.counted.inc_by(receipt.counted.delivered);
        bounced.counted.inc_by(receipt.counted.bounced);
        delivered.duplicate.inc_by(receipt.duplicates.delivered);
        bounced.duplicate.inc_by(receipt.duplicates.bounced);
        delivered.spooled.inc_by(receipt.spooled.delivered);
        bounced.spooled.inc_by(receipt.spooled.bounced);
    }
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        self.counters.delivered.failed.inc_by(self.delivered);
        self.counters.bounced.failed.inc_by(self.bounced);
    }
}
