//! Traces: spans sent to an OpenTelemetry collector, over gRPC (OTLP).

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde::Deserialize;
use tokio::runtime::Handle;
use tracing::Subscriber;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use super::TelemetryError;
use super::spans::Sampling;

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
        // What is not kept does not get here.
        .with_sampler(Sampler::AlwaysOn)
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
pub(super) fn layer<S>(
    provider: &SdkTracerProvider,
    filter: EnvFilter,
    sampling: Sampling,
) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("tracing"))
        // Seven attributes of each span otherwise, which cost here and at the collector, and are of no
        // use to who reads it: its name tells where it was made, and the thread means nothing.
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        // In this order, or [`Sampling`] is not found.
        .with_filter(sampling)
        .with_filter(filter)
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
}
