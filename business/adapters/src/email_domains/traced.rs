use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use business::{
    email_domains::{
        model::{DomainName, Group, Outcome, Tally},
        ports::{DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, Totals},
        verdict::Verdict,
    },
    kernel::{ErrorKind, PortError},
};
use foundation::telemetry::metrics::DURATION_SECONDS;
use prometheus::{
    Histogram, IntCounter, Registry, register_histogram_vec_with_registry,
    register_int_counter_vec_with_registry,
};
use tracing::Instrument;

/// Shows what a store does: a span and a duration a call, its errors by kind, the outcomes of
/// members and the changes of verdicts.
pub struct Traced {
    inner: Arc<dyn DomainTallies>,
    store: &'static str,
    record: Operation,
    get: Operation,
    page: Operation,
    totals: Operation,
    probe: Operation,
    members: [(Outcome, IntCounter); 5],
    verdict_changes: [(Verdict, IntCounter); 3],
}

/// What is counted of one operation, its labels looked up beforehand.
struct Operation {
    seconds: Histogram,
    errors: [(ErrorKind, IntCounter); 7],
}

impl Traced {
    /// Shows `inner` under the name `store`.
    ///
    /// # Errors
    /// When the metrics are registered already.
    pub fn new(
        inner: Arc<dyn DomainTallies>,
        store: &'static str,
        registry: &Registry,
    ) -> prometheus::Result<Self> {
        let seconds = register_histogram_vec_with_registry!(
            "catchall_store_operation_seconds",
            "How long the store takes, by operation; `record` is the commit of one group.",
            &["store", "operation"],
            DURATION_SECONDS.to_vec(),
            registry
        )?;
        let errors = register_int_counter_vec_with_registry!(
            "catchall_store_errors_total",
            "Failed operations of the store, by operation and kind.",
            &["store", "operation", "kind"],
            registry
        )?;
        let members = register_int_counter_vec_with_registry!(
            "catchall_members_total",
            "What became of the members of groups.",
            &["outcome"],
            registry
        )?;
        let changes = register_int_counter_vec_with_registry!(
            "catchall_verdict_changes_total",
            "Domains whose verdict changed, by the new one.",
            &["to"],
            registry
        )?;
        let operation = |name| Operation {
            seconds: seconds.with_label_values(&[store, name]),
            errors: ErrorKind::ALL.map(|kind| {
                (
                    kind,
                    errors.with_label_values(&[store, name, kind.as_str()]),
                )
            }),
        };
        Ok(Self {
            inner,
            store,
            record: operation("record"),
            get: operation("get"),
            page: operation("page"),
            totals: operation("totals"),
            probe: operation("probe"),
            members: [
                (Outcome::Counted, members.with_label_values(&["counted"])),
                (
                    Outcome::Duplicate,
                    members.with_label_values(&["duplicate"]),
                ),
                (Outcome::Mismatch, members.with_label_values(&["mismatch"])),
                (Outcome::Expired, members.with_label_values(&["expired"])),
                (Outcome::Spooled, members.with_label_values(&["spooled"])),
            ],
            verdict_changes: [
                (Verdict::CatchAll, changes.with_label_values(&["catch_all"])),
                (
                    Verdict::NotCatchAll,
                    changes.with_label_values(&["not_catch_all"]),
                ),
                (Verdict::Unknown, changes.with_label_values(&["unknown"])),
            ],
        })
    }
}

impl Operation {
    fn finished<T>(&self, started: Instant, result: Result<T, PortError>) -> Result<T, PortError> {
        self.seconds.observe(started.elapsed().as_secs_f64());
        result.inspect_err(|error| {
            if let Some((_, count)) = self.errors.iter().find(|(kind, _)| *kind == error.kind()) {
                count.inc();
            }
        })
    }
}

#[async_trait]
impl DomainTallies for Traced {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        let started = Instant::now();
        let span = tracing::debug_span!(
            "record",
            otel.name = "commit group",
            store = self.store,
            members = group.members.len(),
        );
        let result = self.inner.record(group).instrument(span).await;
        let recorded = self.record.finished(started, result)?;
        for (outcome, counter) in &self.members {
            let count = recorded
                .outcomes
                .iter()
                .filter(|found| *found == outcome)
                .count();
            if count > 0 {
                counter.inc_by(count as u64);
            }
        }
        for change in &recorded.verdict_changes {
            if let Some((_, counter)) = self.verdict_changes.iter().find(|(to, _)| *to == change.to)
            {
                counter.inc();
            }
        }
        Ok(recorded)
    }

    async fn get(
        &self,
        domains: &[DomainName],
        freshness: Freshness,
    ) -> Result<Vec<Tally>, PortError> {
        let started = Instant::now();
        let span = tracing::debug_span!("get", store = self.store, domains = domains.len());
        let result = self.inner.get(domains, freshness).instrument(span).await;
        self.get.finished(started, result)
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        let started = Instant::now();
        let span = tracing::debug_span!("page", store = self.store, limit = request.limit);
        let result = self.inner.page(request).instrument(span).await;
        self.page.finished(started, result)
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        let started = Instant::now();
        let span = tracing::debug_span!("totals", store = self.store);
        let result = self.inner.totals().instrument(span).await;
        self.totals.finished(started, result)
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        let started = Instant::now();
        let result = self.inner.probe().await;
        self.probe.finished(started, result)
    }
}
