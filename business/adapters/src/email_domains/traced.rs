use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use business::{
    email_domains::{
        model::{DomainName, Group, Outcome, Tally},
        ports::{DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, Totals},
        verdict::Verdict,
    },
    kernel::PortError,
};
use foundation::telemetry::metrics::DURATION_SECONDS;
use prometheus::{
    HistogramVec, IntCounter, IntCounterVec, Registry, register_histogram_vec_with_registry,
    register_int_counter_vec_with_registry,
};
use tracing::Instrument;

/// Shows what a store does: a span and a duration a call, its errors by kind, the outcomes of
/// members and the changes of verdicts.
pub struct Traced {
    inner: Arc<dyn DomainTallies>,
    store: &'static str,
    seconds: HistogramVec,
    errors: IntCounterVec,
    members: [(Outcome, IntCounter); 3],
    verdict_changes: [(Verdict, IntCounter); 3],
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
        Ok(Self {
            inner,
            store,
            seconds,
            errors,
            members: [
                (Outcome::Counted, members.with_label_values(&["counted"])),
                (
                    Outcome::Duplicate,
                    members.with_label_values(&["duplicate"]),
                ),
                (Outcome::Mismatch, members.with_label_values(&["mismatch"])),
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

    fn finished<T>(
        &self,
        operation: &'static str,
        started: Instant,
        result: Result<T, PortError>,
    ) -> Result<T, PortError> {
        let elapsed = started.elapsed().as_secs_f64();
        self.seconds
            .with_label_values(&[self.store, operation])
            .observe(elapsed);
        result.inspect_err(|error| {
            self.errors
                .with_label_values(&[self.store, operation, error.kind().as_str()])
                .inc();
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
        let recorded = self.finished("record", started, result)?;
        for (outcome, counter) in &self.members {
            let count = recorded
                .outcomes
                .iter()
                .filter(|found| *found == outcome)
                .count();
            counter.inc_by(count as u64);
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
        self.finished("get", started, result)
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        let started = Instant::now();
        let span = tracing::debug_span!("page", store = self.store, limit = request.limit);
        let result = self.inner.page(request).instrument(span).await;
        self.finished("page", started, result)
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        let started = Instant::now();
        let span = tracing::debug_span!("totals", store = self.store);
        let result = self.inner.totals().instrument(span).await;
        self.finished("totals", started, result)
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        let started = Instant::now();
        let result = self.inner.probe().await;
        self.finished("probe", started, result)
    }
}
