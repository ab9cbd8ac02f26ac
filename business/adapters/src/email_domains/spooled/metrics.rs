use business::{
    email_domains::{model::Group, verdict::VerdictChange},
    kernel::UnixSeconds,
};
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, Registry, register_int_counter_vec_with_registry,
    register_int_counter_with_registry, register_int_gauge_with_registry,
};

use super::spool::Spool;
use crate::email_domains::{
    Accounting,
    accounting::{Settled, events_of},
};

/// What is shown of a spool.
pub(super) struct Metrics {
    bytes: IntGauge,
    oldest: IntGauge,
    spooled: IntCounter,
    drained: IntCounterVec,
    accounting: Accounting,
}

impl Metrics {
    pub(super) fn register(
        registry: &Registry,
        accounting: &Accounting,
        max_bytes: u64,
    ) -> prometheus::Result<Self> {
        let drained = register_int_counter_vec_with_registry!(
            "catchall_spool_drained_events_total",
            "Events that have left the spool, by what became of them; a segment at a time.",
            &["outcome"],
            registry
        )?;
        for (label, _) in Settled::default().by_label() {
            drained.with_label_values(&[label]);
        }
        let limit = register_int_gauge_with_registry!(
            "catchall_spool_limit_bytes",
            "What may wait for the store; with more, events are refused.",
            registry
        )?;
        limit.set(i64::try_from(max_bytes).unwrap_or(i64::MAX));
        Ok(Self {
            bytes: register_int_gauge_with_registry!(
                "catchall_spool_bytes",
                "What waits for the store.",
                registry
            )?,
            oldest: register_int_gauge_with_registry!(
                "catchall_spool_oldest_timestamp_seconds",
                "When the oldest event that waits for the store was recorded; 0 when none does.",
                registry
            )?,
            spooled: register_int_counter_with_registry!(
                "catchall_spooled_events_total",
                "Events that were acknowledged before they count.",
                registry
            )?,
            drained,
            accounting: accounting.clone(),
        })
    }
}

impl Metrics {
    pub(super) fn sized(&self, spool: &Spool) {
        self.bytes
            .set(i64::try_from(spool.bytes()).unwrap_or(i64::MAX));
        let oldest = spool.oldest().unwrap_or_default();
        self.oldest.set(oldest.get().into());
        self.accounting.waiting(spool.events());
    }

    /// The spool is open, and holds what an earlier life left.
    pub(super) fn opened(&self, spool: &Spool) {
        self.accounting.recovered(spool.events());
    }

    /// A group waits.
    pub(super) fn spooled(&self, group: &Group) {
        self.spooled.inc_by(events_of(group));
    }

    /// A segment is settled and gone.
    pub(super) fn drained(&self, settled: &Settled) {
        for (label, events) in settled.by_label() {
            self.drained.with_label_values(&[label]).inc_by(events);
        }
        self.accounting.settled(settled);
    }

    /// Verdicts have changed for what waited.
    pub(super) fn verdicts_changed(&self, formed_at: UnixSeconds, changes: &[VerdictChange]) {
        self.accounting.verdicts_changed(formed_at, changes);
    }
}
