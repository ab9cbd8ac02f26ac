use business::{
    email_domains::model::{Group, Outcome, Outcomes},
    kernel::UnixSeconds,
};
use prometheus::{
    IntCounter, IntGauge, Registry, register_int_counter_vec_with_registry,
    register_int_counter_with_registry, register_int_gauge_with_registry,
};

/// What is shown of a spool.
pub(super) struct Metrics {
    bytes: IntGauge,
    oldest: IntGauge,
    spooled: IntCounter,
    drained: [(Outcome, IntCounter); 4],
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let drained = register_int_counter_vec_with_registry!(
            "catchall_spool_drained_events_total",
            "Events from the spool that were settled, by what became of them.",
            &["outcome"],
            registry
        )?;
        let drained = [
            (Outcome::Counted, "counted"),
            (Outcome::Duplicate, "duplicate"),
            (Outcome::Mismatch, "mismatch"),
            (Outcome::Expired, "expired"),
        ]
        .map(|(outcome, label)| (outcome, drained.with_label_values(&[label])));
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
        })
    }
}

impl Metrics {
    pub(super) fn sized(&self, bytes: u64, oldest: Option<UnixSeconds>) {
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.oldest.set(oldest.unwrap_or_default().get().into());
    }

    pub(super) fn spooled(&self, group: &Group, outcomes: &Outcomes) {
        self.spooled
            .inc_by(events(group, outcomes, Outcome::Spooled));
    }

    /// Says how many events will never count, though they were acknowledged: their keys had been
    /// used before for something else, or are too old.
    pub(super) fn drained(&self, group: &Group, outcomes: &Outcomes) -> u64 {
        let mut refused = 0;
        for (outcome, counter) in &self.drained {
            let events = events(group, outcomes, *outcome);
            counter.inc_by(events);
            if matches!(outcome, Outcome::Mismatch | Outcome::Expired) {
                refused += events;
            }
        }
        refused
    }
}

/// How many events of the group have this outcome.
fn events(group: &Group, outcomes: &Outcomes, outcome: Outcome) -> u64 {
    let members = group.members.iter().zip(outcomes);
    members
        .filter(|(_, found)| **found == outcome)
        .map(|(member, _)| member.changes.sums())
        .map(|(delivered, bounced)| delivered + bounced)
        .sum()
}
