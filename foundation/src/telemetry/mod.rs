//! What the process tells about itself: logs, traces and metrics.
//!
//! [`init`] sets up [logs](LogSettings) and [traces](TraceSettings) once, for the whole process.
//! [`Metrics`] stands apart: it is a registry that is handed to whoever counts, so that two
//! servers in one test do not share counters.

pub mod metrics;

mod logs;
mod spans;
mod traces;

use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::Deserialize;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer};

pub use logs::{LogFormat, LogSettings};
pub use metrics::Metrics;
use spans::Sampling;
pub use spans::{Caller, inner_span, request_span, root_span, shared_span};
pub use traces::{SHUTDOWN_TIMEOUT, TraceSettings};

/// How much is told, and to whom.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetrySettings {
    /// Lines on stderr.
    pub logs: LogSettings,
    /// Spans for a collector.
    pub traces: TraceSettings,
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter of the logs or of the traces cannot be read.
    #[error("a filter of logs or traces is not valid")]
    Filter(#[from] ParseError),
    /// The share of traces is not between 0 and 1.
    #[error("the sample ratio of traces must be between 0 and 1, not {0}")]
    SampleRatio(f64),
    /// The collector's address cannot be used.
    #[error("traces cannot be exported")]
    Exporter(#[from] ExporterBuildError),
    /// Traces are sent by tasks, so that they need a runtime to be set up in.
    #[error("traces can only be set up inside a tokio runtime")]
    NoRuntime,
    /// The process has telemetry already.
    #[error("telemetry is already set up")]
    Twice(#[from] TryInitError),
}

/// Sets up logs and traces for the whole process. `version` is that of the program.
///
/// Keep the guard and [`shutdown`](TelemetryGuard::shutdown) it last, or the final spans are lost.
///
/// # Errors
/// See [`TelemetryError`]; nothing is set up then.
pub fn init(
    settings: &TelemetrySettings,
    version: &'static str,
) -> Result<TelemetryGuard, TelemetryError> {
    let logged = EnvFilter::builder().parse(&settings.logs.filter)?;
    let traced = EnvFilter::builder().parse(&settings.traces.filter)?;
    let traces = traces::provider(&settings.traces, version)?;
    let sampling = Sampling {
        ratio: settings.traces.sample_ratio,
        // All spans are at debug, save for those of libraries.
        logged: logged.max_level_hint() >= Some(LevelFilter::DEBUG),
    };
    // A filter a layer: without a collector, nothing but what is logged is even looked at.
    tracing_subscriber::registry()
        .with(logs::layer(settings.logs.format).with_filter(logged))
        .with(
            traces
                .as_ref()
                .map(|provider| traces::layer(provider, traced, sampling)),
        )
        .try_init()?;
    Ok(TelemetryGuard { traces })
}

/// Holds what must be flushed before the process ends.
#[derive(Debug)]
#[must_use = "the last spans are lost unless it is kept and shut down"]
pub struct TelemetryGuard {
    traces: Option<SdkTracerProvider>,
}

impl TelemetryGuard {
    /// Sends the spans that still wait, for [`SHUTDOWN_TIMEOUT`] at most. A failure is logged:
    /// there is nobody left who could act on it.
    pub async fn shutdown(self) {
        if let Some(provider) = self.traces {
            traces::shutdown(provider).await;
        }
    }
}
