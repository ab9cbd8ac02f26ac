use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use business::{
    email_domains::{
        model::{DomainName, Group, Tally},
        ports::{DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, Totals},
    },
    kernel::{ErrorKind, PortError},
};
use foundation::telemetry::{inner_span, metrics::DURATION_SECONDS};
use prometheus::{
    Histogram, IntCounter, Registry, register_histogram_vec_with_registry,
    register_int_counter_vec_with_registry,
};
use tracing::{Instrument, Span, field};

use super::Accounting;

/// Shows what a store does: a duration a call, its errors by kind, a span a read, and accounts for the
/// events it is given. Whoever forms a group makes its span: who shares it is known there.
pub struct Traced {
    inner: Arc<dyn DomainTallies>,
    store: &'static str,
    record: Operation,
    get: Operation,
    page: Operation,
    totals: Operation,
    probe: Operation,
    accounting: Accounting,
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
        accounting: &Accounting,
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
            accounting: accounting.clone(),
        })
    }
}

/// Says in a span of work on a store why it failed.
pub(super) fn show_failure(span: &Span, error: &PortError) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", error.kind().as_str());
}

impl Operation {
    /// Awaits a read, within its span.
    async fn asked<T>(
        &self,
        span: Span,
        read: impl Future<Output = Result<T, PortError>> + Send,
    ) -> Result<T, PortError> {
        let started = Instant::now();
        let result = read.instrument(span.clone()).await;
        if let Err(error) = &result {
            show_failure(&span, error);
        }
        self.finished(started, result)
    }

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
        let recording = self.accounting.recording(group);
        let result = self.inner.record(group).await;
        recording.ended(&result);
        self.record.finished(started, result)
    }

    async fn get(
        &self,
        domains: &[DomainName],
        freshness: Freshness,
    ) -> Result<Vec<Tally>, PortError> {
        let span = inner_span(|| {
            tracing::debug_span!(
                "get",
                store = self.store,
                domains = domains.len(),
                otel.status_code = field::Empty,
                error.type = field::Empty,
            )
        });
        self.get
            .asked(span, self.inner.get(domains, freshness))
            .await
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        let span = inner_span(|| {
            tracing::debug_span!(
                "page",
                store = self.store,
                limit = request.limit,
                otel.status_code = field::Empty,
                error.type = field::Empty,
            )
        });
        self.page.asked(span, self.inner.page(request)).await
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        let span = inner_span(|| {
            tracing::debug_span!(
                "totals",
                store = self.store,
                otel.status_code = field::Empty,
                error.type = field::Empty,
            )
        });
        self.totals.asked(span, self.inner.totals()).await
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        let started = Instant::now();
        let result = self.inner.probe().await;
        self.probe.finished(started, result)
    }
}
