use std::{collections::VecDeque, iter::zip, sync::Arc};

use business::{
    email_domains::{
        model::{Group, Member, Outcome, Outcomes},
        ports::{Recorded, VerdictChanges},
        verdict::{Verdict, VerdictChange},
    },
    kernel::{ErrorKind, PortError, UnixSeconds},
};
use parking_lot::Mutex;
use prometheus::{
    IntCounter, IntGauge, Registry, register_int_counter_vec_with_registry,
    register_int_counter_with_registry, register_int_gauge_with_registry,
};

/// What became of the events that the stores of one server were given. Clones share it.
///
/// It is one side of a ledger; what came in at the edge is the other. What came in, and what the spool
/// held at the start, was turned away at the edge, or is settled, in flight, or waits in the spool.
#[derive(Clone)]
pub struct Accounting {
    outcomes: [(Outcome, IntCounter); 4],
    overloaded: IntCounter,
    failed: IntCounter,
    unknown: IntCounter,
    outdated: IntCounter,
    in_flight: IntGauge,
    waiting: IntGauge,
    recovered: IntCounter,
    verdict_changes: [(Verdict, IntCounter); 3],
    latest_changes: Arc<Mutex<VecDeque<(UnixSeconds, VerdictChange)>>>,
}

/// A group that is being recorded. Dropped before that has ended, nobody knows what became of it.
pub(super) struct Recording<'a> {
    accounting: &'a Accounting,
    group: Option<&'a Group>,
}

/// Events of groups that were recorded, by what became of them.
#[derive(Clone, Copy, Default)]
pub(super) struct Settled {
    by_outcome: [u64; 4],
    /// The store has them from an earlier try.
    pub(super) outdated: u64,
}

/// How many changes of verdicts are kept to be looked at.
const LATEST_CHANGES: usize = 20;

/// The outcomes that settle an event, and their labels.
const SETTLED: [(Outcome, &str); 4] = [
    (Outcome::Counted, "counted"),
    (Outcome::Duplicate, "duplicate"),
    (Outcome::Mismatch, "mismatch"),
    (Outcome::Expired, "expired"),
];

/// How many events a caller's member has.
pub(super) fn events(member: &Member) -> u64 {
    let (delivered, bounced) = member.changes.sums();
    delivered + bounced
}

/// How many events a group has.
pub(super) fn events_of(group: &Group) -> u64 {
    group.members.iter().map(|member| events(member)).sum()
}

impl Accounting {
    /// Shows it in this registry.
    ///
    /// # Errors
    /// When the metrics are registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let settled = register_int_counter_vec_with_registry!(
            "catchall_store_events_total",
            "Events that were settled, by what the store said of them, also those from the spool: \
             counted; duplicate; mismatch or expired (of their key); overloaded (refused by a full \
             queue); failed (certainly not counted); unknown; outdated (from the spool, and counted \
             or refused by an earlier try).",
            &["outcome"],
            registry
        )?;
        let verdict_changes = register_int_counter_vec_with_registry!(
            "catchall_verdict_changes_total",
            "Domains whose verdict changed, by the new one.",
            &["to"],
            registry
        )?;
        let settled = |outcome| settled.with_label_values(&[outcome]);
        Ok(Self {
            outcomes: SETTLED.map(|(outcome, label)| (outcome, settled(label))),
            overloaded: settled("overloaded"),
            failed: settled("failed"),
            unknown: settled("unknown"),
            outdated: settled("outdated"),
            in_flight: register_int_gauge_with_registry!(
                "catchall_events_in_flight",
                "Events that are queued or being recorded.",
                registry
            )?,
            waiting: register_int_gauge_with_registry!(
                "catchall_spool_events",
                "Events that wait in the spool.",
                registry
            )?,
            recovered: register_int_counter_with_registry!(
                "catchall_spool_recovered_events_total",
                "Events that were found in the spool at the start.",
                registry
            )?,
            verdict_changes: [
                (Verdict::CatchAll, "catch_all"),
                (Verdict::NotCatchAll, "not_catch_all"),
                (Verdict::Unknown, "unknown"),
            ]
            .map(|(to, label)| (to, verdict_changes.with_label_values(&[label]))),
            latest_changes: Arc::default(),
        })
    }

    /// Events are queued.
    pub(super) fn queued(&self, events: u64) {
        self.in_flight.add(events.cast_signed());
    }

    /// Events that were queued are with their store, or lost with who recorded them.
    pub(super) fn dequeued(&self, events: u64) {
        self.in_flight.sub(events.cast_signed());
    }

    /// Events that were not queued, or not recorded.
    pub(super) fn refused(&self, events: u64, kind: ErrorKind) {
        let counter = match kind {
            ErrorKind::Overloaded => &self.overloaded,
            ErrorKind::Ambiguous => &self.unknown,
            ErrorKind::Unavailable
            | ErrorKind::Invalid
            | ErrorKind::Outdated
            | ErrorKind::Corrupt
            | ErrorKind::Unexpected => &self.failed,
        };
        counter.inc_by(events);
    }

    /// A group is about to be recorded.
    pub(super) fn recording<'a>(&'a self, group: &'a Group) -> Recording<'a> {
        Recording {
            accounting: self,
            group: Some(group),
        }
    }

    /// So many events wait in the spool.
    pub(super) fn waiting(&self, events: u64) {
        self.waiting.set(events.cast_signed());
    }

    /// So many events were there before this process.
    pub(super) fn recovered(&self, events: u64) {
        self.recovered.inc_by(events);
    }

    /// Events were recorded, or have left the spool.
    pub(super) fn settled(&self, settled: &Settled) {
        for ((_, counter), events) in zip(&self.outcomes, settled.by_outcome) {
            counter.inc_by(events);
        }
        self.outdated.inc_by(settled.outdated);
    }

    /// A group that was formed then changed verdicts.
    pub(super) fn verdicts_changed(&self, formed_at: UnixSeconds, changes: &[VerdictChange]) {
        if changes.is_empty() {
            return;
        }
        for change in changes {
            let known = self.verdict_changes.iter().find(|(to, _)| *to == change.to);
            if let Some((_, counter)) = known {
                counter.inc();
            }
        }
        let mut latest = self.latest_changes.lock();
        for change in changes.iter().rev().take(LATEST_CHANGES).rev() {
            latest.push_front((formed_at, change.clone()));
        }
        latest.truncate(LATEST_CHANGES);
    }
}

impl VerdictChanges for Accounting {
    fn latest(&self) -> Vec<(UnixSeconds, VerdictChange)> {
        self.latest_changes.lock().iter().cloned().collect()
    }
}

impl Settled {
    /// Adds the events of a group. What went to the spool is not settled.
    pub(super) fn add(&mut self, group: &Group, outcomes: &Outcomes) {
        for (member, outcome) in zip(&group.members, outcomes) {
            let place = SETTLED.iter().position(|(settled, _)| settled == outcome);
            if let Some(place) = place {
                self.by_outcome[place] += events(member);
            }
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (events, more) in zip(&mut self.by_outcome, other.by_outcome) {
            *events += more;
        }
        self.outdated += other.outdated;
    }

    /// By the labels of their outcomes.
    pub(super) fn by_label(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let labels = SETTLED.map(|(_, label)| label);
        zip(labels, self.by_outcome).chain([("outdated", self.outdated)])
    }

    /// How many will never count, for their key was used before for something else, or is too old.
    pub(super) fn refused(&self) -> u64 {
        let [_counted, _duplicate, mismatch, expired] = self.by_outcome;
        mismatch + expired
    }
}

impl Recording<'_> {
    /// What became of it.
    pub(super) fn ended(mut self, recorded: &Result<Recorded, PortError>) {
        let Some(group) = self.group.take() else {
            return;
        };
        match recorded {
            Ok(recorded) => {
                let mut settled = Settled::default();
                settled.add(group, &recorded.outcomes);
                self.accounting.settled(&settled);
                self.accounting
                    .verdicts_changed(group.formed_at, &recorded.verdict_changes);
            }
            Err(error) => self.accounting.refused(events_of(group), error.kind()),
        }
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            self.accounting
                .refused(events_of(group), ErrorKind::Ambiguous);
        }
    }
}
