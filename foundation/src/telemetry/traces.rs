//! Traces: spans sent to an OpenTelemetry collector, over gRPC (OTLP).

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde::Deserialize;
use tokio::runtime::Handle;
use tracing::{Metadata, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use super::TelemetryError;

/// How long the process waits at its end for the last spans to be sent.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Where spans are sent, and how many.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceSettings {
    /// The collector, as `http://host:4317` (no TLS: a collector stands beside the server). Absent
    /// or empty means no traces, at no cost.
    pub endpoint: Option<String>,
    /// The name the traces are filed under.
    pub service_name: String,
    /// The share of traces that are kept, 0 to 1. It decides only for those that begin here: a
    /// caller's decision is followed.
    pub sample_ratio: f64,
    /// Which spans are sent, in the syntax of
    /// [`EnvFilter`](tracing_subscriber::EnvFilter), as in `api=debug`.
    pub filter: String,
}

/// What makes and sends the spans, or `None` when nobody wants them.
pub(super) fn provider(
    settings: &TraceSettings,
    version: &'static str,
) -> Result<Option<SdkTracerProvider>, TelemetryError> {
    if !(0.0..=1.0).contains(&settings.sample_ratio) {
        return Err(TelemetryError::SampleRatio(settings.sample_ratio));
    }
    let Some(endpoint) = settings
        .endpoint
        .as_deref()
        .filter(|endpoint| !endpoint.is_empty())
    else {
        return Ok(None);
    };
    // The exporter's channel spawns a task and would panic.
    Handle::try_current().map_err(|_| TelemetryError::NoRuntime)?;
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
            settings.sample_ratio,
        ))))
        .with_resource(
            Resource::builder()
                .with_service_name(settings.service_name.clone())
                .with_attribute(KeyValue::new("service.version", version))
                .build(),
        )
        .build();
    Ok(Some(provider))
}

/// The layer that turns `tracing` spans into those of OpenTelemetry.
pub(super) fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("tracing"))
        .with_filter(filter_fn(is_ours))
}

/// Sending spans makes spans of its own; to send those too would never end.
fn is_ours(metadata: &Metadata<'_>) -> bool {
    const SENDERS: [&str; 5] = ["opentelemetry", "tonic", "tower", "hyper", "h2"];
    let root = metadata.target().split("::").next().unwrap_or_default();
    !SENDERS.iter().any(|sender| root.starts_with(sender))
}

/// Makes a span part of its caller's trace, given the two headers of W3C Trace Context. Call it
/// before the span is entered. Without a `traceparent`, or without traces, nothing happens.
pub fn continue_trace(span: &Span, traceparent: Option<&str>, tracestate: Option<&str>) {
    if traceparent.is_some() {
        let caller = Caller {
            traceparent,
            tracestate,
        };
        // Refused when the span is not recorded or already begun: it then has no caller to show.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&caller));
    }
}

struct Caller<'h> {
    traceparent: Option<&'h str>,
    tracestate: Option<&'h str>,
}

impl Extractor for Caller<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        match name {
            "traceparent" => self.traceparent,
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

/// Flushes and ends the sending. It blocks, and the sending needs the runtime: so it is done on
/// a thread beside it.
pub(super) async fn shutdown(provider: SdkTracerProvider) {
    let flush =
        tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT));
    match tokio::time::timeout(SHUTDOWN_TIMEOUT, flush).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(%error, "the last spans were not sent"),
        Ok(Err(_)) | Err(_) => tracing::warn!("the last spans were not sent"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use opentelemetry::trace::TraceContextExt;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn settings(endpoint: Option<&str>, sample_ratio: f64) -> TraceSettings {
        TraceSettings {
            endpoint: endpoint.map(Into::into),
            service_name: "test".into(),
            sample_ratio,
            filter: "info".to_owned(),
        }
    }

    #[test]
    fn without_a_collector_there_are_no_traces() {
        for endpoint in [None, Some("")] {
            assert!(provider(&settings(endpoint, 1.0), "1").unwrap().is_none());
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for ratio in [-0.1, 1.1, f64::NAN] {
            let refused = provider(&settings(None, ratio), "1");
            assert!(matches!(refused, Err(TelemetryError::SampleRatio(_))));
        }
        let refused = provider(&settings(Some("http://127.0.0.1:4317"), 1.0), "1");
        assert!(matches!(refused, Err(TelemetryError::NoRuntime)));
    }

    #[tokio::test]
    async fn an_address_that_needs_tls_is_refused() {
        let refused = provider(&settings(Some("https://127.0.0.1:4317"), 1.0), "1");
        assert!(matches!(refused, Err(TelemetryError::Exporter(_))));
    }

    #[test]
    fn a_span_joins_the_trace_of_its_caller() {
        const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        // Nothing is kept that begins here, so what is sampled is so by the caller's decision.
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(0.0)));
        let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
        let subscriber = tracing_subscriber::registry().with(layer(&provider));
        tracing::subscriber::with_default(subscriber, || {
            for (caller, sampled) in [(Some(CALLER), true), (None, false)] {
                let span = tracing::info_span!("request");
                continue_trace(&span, caller, None);
                let context = span.context();
                let found = context.span().span_context().clone();
                assert_eq!(found.is_sampled(), sampled);
                let id = found.trace_id().to_string();
                assert_eq!(id == "0af7651916cd43dd8448eb211c80319c", sampled);
            }
        });
    }
}
