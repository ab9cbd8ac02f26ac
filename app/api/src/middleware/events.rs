//! How many events were sent, and what clients were told of them.
//!
//! It is the edge's side of a ledger: what was received was rejected here, or the store was asked and
//! accounts for it (`adapters::email_domains::Accounting`).

use business::email_domains::{model::EventKind, service::Receipt};
use foundation::telemetry::Metrics;
use prometheus::{IntCounter, IntCounterVec, Opts};

/// The counters of all events of one server. Clones share them.
#[derive(Clone)]
pub(super) struct EventMetrics {
    received: IntCounterVec,
    rejected: IntCounterVec,
    told: IntCounterVec,
}

/// The counters of one kind of event.
#[derive(Clone)]
pub(super) struct EventCounters {
    pub(super) received: IntCounter,
    /// Answered, or left by its client, before the store was asked.
    pub(super) rejected: IntCounter,
    pub(super) counted: IntCounter,
    pub(super) duplicate: IntCounter,
    pub(super) spooled: IntCounter,
    pub(super) refused: IntCounter,
    pub(super) failed: IntCounter,
}

/// Counts the events of requests that carry many.
///
/// A request that is not understood counts none: how many events it has, and of which kind, may be
/// just what is wrong with it. It shows among the requests.
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

impl EventMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// When their names are taken.
    pub(super) fn register(metrics: &Metrics) -> prometheus::Result<Self> {
        let received = IntCounterVec::new(
            Opts::new(
                "catchall_events_received_total",
                "Events that came in: a PUT when it is read; those of a bulk request when it is \
                 understood.",
            ),
            &["kind"],
        )?;
        let rejected = IntCounterVec::new(
            Opts::new(
                "catchall_events_rejected_total",
                "Events of these that were answered, or left by their client, before the store was \
                 asked.",
            ),
            &["kind"],
        )?;
        let told = IntCounterVec::new(
            Opts::new(
                "catchall_events_total",
                "Events answered: counted, duplicate (counted before, under the same key), spooled \
                 (202: to be counted later), refused (4xx), or failed (5xx, or the client left), \
                 which may have been counted.",
            ),
            &["kind", "outcome"],
        )?;
        for counters in [&received, &rejected, &told] {
            metrics.register(counters.clone())?;
        }
        Ok(Self {
            received,
            rejected,
            told,
        })
    }
}

impl EventCounters {
    pub(super) fn new(events: &EventMetrics, kind: EventKind) -> Self {
        let kind = kind.as_str();
        let counter = |outcome| events.told.with_label_values(&[kind, outcome]);
        Self {
            received: events.received.with_label_values(&[kind]),
            rejected: events.rejected.with_label_values(&[kind]),
            counted: counter("counted"),
            duplicate: counter("duplicate"),
            spooled: counter("spooled"),
            refused: counter("refused"),
            failed: counter("failed"),
        }
    }
}

impl BulkEvents {
    pub(super) fn new(events: &EventMetrics) -> Self {
        Self {
            delivered: EventCounters::new(events, EventKind::Delivered),
            bounced: EventCounters::new(events, EventKind::Bounced),
        }
    }

    /// They came in, and the store is about to be asked.
    pub(crate) fn given(&self, (delivered, bounced): (u64, u64)) -> Given<'_> {
        self.delivered.received.inc_by(delivered);
        self.bounced.received.inc_by(bounced);
        Given {
            counters: self,
            delivered,
            bounced,
        }
    }
}

impl Given<'_> {
    /// They are refused, for what is wrong with their key: by the store, or before it was asked.
    pub(crate) fn refused(mut self, store_asked: bool) {
        let BulkEvents { delivered, bounced } = self.counters;
        for (counters, events) in [
            (delivered, std::mem::take(&mut self.delivered)),
            (bounced, std::mem::take(&mut self.bounced)),
        ] {
            counters.refused.inc_by(events);
            if !store_asked {
                counters.rejected.inc_by(events);
            }
        }
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
