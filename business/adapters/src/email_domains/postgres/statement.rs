//! What a trace shows of a statement, by OpenTelemetry's conventions for databases.

use std::future::Future;

use foundation::telemetry::inner_span;
use sqlx::Error;
use tracing::{Instrument, Span, field};

/// Awaits a statement, as a span of the trace it is for, if that is kept. `summary` is what it does and
/// to which tables; nothing that is bound to it.
pub(super) async fn traced<T>(
    summary: &'static str,
    statement: impl Future<Output = Result<T, Error>> + Send,
) -> Result<T, Error> {
    let span = inner_span(|| {
        tracing::debug_span!(
            "sql",
            otel.name = summary,
            otel.kind = "client",
            otel.status_code = field::Empty,
            db.system.name = "postgresql",
            db.operation.name = summary.split(' ').next(),
            db.query.summary = summary,
            db.response.status_code = field::Empty,
            error.type = field::Empty,
        )
    });
    let mut pending = Pending(Some(&span));
    let result = statement.instrument(span.clone()).await;
    pending.0 = None;
    if let Err(error) = &result {
        failed(&span, error);
    }
    result
}

/// The span of a statement that has not ended. Dropped before, nobody waits for it any longer: a
/// deadline is over, or a client has left.
struct Pending<'a>(Option<&'a Span>);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(span) = self.0 {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", "cancelled");
        }
    }
}

fn failed(span: &Span, error: &Error) {
    span.record("otel.status_code", "ERROR");
    match error {
        Error::Database(error) => {
            span.record("db.response.status_code", error.code().as_deref());
            span.record("error.type", error.code().as_deref());
        }
        Error::Io(_) => {
            span.record("error.type", "io");
        }
        _ => {
            span.record("error.type", "_OTHER");
        }
    }
}
