//! Alive, ready, and in numbers: what an orchestrator and a monitoring system ask.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix_web::{HttpRequest, HttpResponse, http::header::ContentType, web::Data};
use business::kernel::PortError;
use foundation::{supervision::Shutdown, telemetry::Metrics};

use crate::{
    problem::{FieldError, Problem},
    server::State,
};

/// How long the store has to answer a probe.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether the server wants requests. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    draining: Arc<AtomicBool>,
    workers: Shutdown,
}

impl Readiness {
    /// Of a process whose workers are looked after so.
    pub fn of(workers: &Shutdown) -> Self {
        Self {
            draining: Arc::default(),
            workers: workers.clone(),
        }
    }

    /// From now on `/readyz` answers 503, so that no new requests are sent here. Those that come
    /// all the same are served.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether it is on its way out.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// Whether the process works at all. Asks nothing else, so that a store that is down does not
/// get the server restarted.
#[utoipa::path(
    get, path = "/livez", tag = "operation",
    responses((status = 200, description = "It does.", body = String, example = "ok\n"))
)]
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// Whether requests should be sent here: not while the server drains, the store does not answer
/// within a second, or its disk is nearly full, and not while a worker in the background is late.
#[utoipa::path(
    get, path = "/readyz", tag = "operation",
    params((
        "verbose" = Option<String>, Query, example = "",
        description = "With this parameter, of whatever value, each check is listed.",
    )),
    responses((
        status = 200, description = "They should.", content_type = "text/plain", body = String,
        example = "[+]serving ok\n[+]workers ok\n[+]store ok\nreadyz check passed\n",
    ))
)]
pub(crate) async fn readyz(
    request: HttpRequest,
    state: Data<State>,
) -> Result<HttpResponse, Problem> {
    let (failed, cause) = failed_checks(&state).await;
    if !failed.is_empty() {
        return Err(Problem::not_ready(failed, cause));
    }
    let text = if is_verbose(request.query_string()) {
        "[+]serving ok\n[+]workers ok\n[+]store ok\nreadyz check passed\n"
    } else {
        "ok\n"
    };
    Ok(HttpResponse::Ok()
        .content_type(ContentType::plaintext())
        .body(text))
}

/// Why no requests should be sent here, if there is a reason, and the error behind it, for the log.
pub(crate) async fn failed_checks(state: &State) -> (Vec<FieldError>, Option<PortError>) {
    let mut failed = Vec::new();
    let mut cause = None;
    if state.readiness.is_draining() {
        failed.push(FieldError::new("serving", "the server is stopping"));
    }
    if let Some(worker) = state.readiness.workers.late_worker() {
        failed.push(FieldError::new("workers", format!("{worker} is late")));
    }
    match tokio::time::timeout(PROBE_TIMEOUT, state.email_domains.probe()).await {
        Ok(Ok(probe)) if probe.full => {
            failed.push(FieldError::new(
                "store",
                "no room to write, on its disk or in its spool",
            ));
        }
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            failed.push(FieldError::new("store", error.kind().as_str()));
            cause = Some(error);
        }
        Err(_) => failed.push(FieldError::new("store", "no answer within a second")),
    }
    (failed, cause)
}

/// The metrics of the server and its process, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operation",
    responses((
        status = 200, description = "In the text format, version 0.0.4.",
        content_type = "text/plain", body = String,
        example = "# TYPE catchall_events_total counter\n\
                   catchall_events_total{kind=\"delivered\",outcome=\"counted\"} 12\n",
    ))
)]
pub(crate) async fn metrics(state: Data<State>) -> HttpResponse {
    state.sampled.take(&state.email_domains).await;
    HttpResponse::Ok()
        .content_type(Metrics::CONTENT_TYPE)
        .body(state.metrics.render())
}

fn is_verbose(query: &str) -> bool {
    query
        .split('&')
        .any(|pair| pair == "verbose" || pair.starts_with("verbose="))
}
