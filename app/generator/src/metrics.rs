//! The run as it goes, for Prometheus: `--metrics-addr` serves it beside the server's own.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Histogram, IntCounter, IntCounterVec, IntGauge, Registry, TEXT_FORMAT, TextEncoder,
    register_histogram_with_registry, register_int_counter_vec_with_registry,
    register_int_counter_with_registry, register_int_gauge_with_registry,
};

use crate::client::Failure;
use crate::stream::{Event, Kind};

/// Upper bounds, in seconds: as fine as the server's own, so that the two can be laid side by side.
const DURATION_SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0,
];

const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What is shown of a run. Clones share it.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    delivered: IntCounter,
    bounced: IntCounter,
    acknowledged: IntCounter,
    refused: IntCounter,
    failed: IntCounter,
    requests: IntCounterVec,
    retries: IntCounter,
    in_flight: IntGauge,
    duration: Histogram,
}

impl Metrics {
    /// Of a run that is to send so many events a second, or as many as go.
    pub(crate) fn new(rate: Option<NonZeroU32>) -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let created = register_int_counter_vec_with_registry!(
            "create_events_created_total",
            "Events drawn from the stream, to be sent.",
            &["kind"],
            registry
        )?;
        let ended = register_int_counter_vec_with_registry!(
            "create_events_events_total",
            "Events that came to their end: acknowledged (2xx), refused (another status) or failed \
             (no answer).",
            &["outcome"],
            registry
        )?;
        let requests = register_int_counter_vec_with_registry!(
            "create_events_requests_total",
            "Requests sent, each attempt, by the status of the answer; `none` without one, \
             `unconfirmed` if it is 2xx and does not confirm the events.",
            &["status"],
            registry
        )?;
        for status in ["none", "unconfirmed"] {
            requests.with_label_values(&[status]);
        }
        let target = register_int_gauge_with_registry!(
            "create_events_target_rate",
            "Events a second that are to be sent; 0 is as many as go.",
            registry
        )?;
        target.set(rate.map_or(0, |rate| rate.get().into()));
        Ok(Self {
            delivered: created.with_label_values(&[Kind::Delivered.as_str()]),
            bounced: created.with_label_values(&[Kind::Bounced.as_str()]),
            acknowledged: ended.with_label_values(&["acknowledged"]),
            refused: ended.with_label_values(&["refused"]),
            failed: ended.with_label_values(&["failed"]),
            requests,
            retries: register_int_counter_with_registry!(
                "create_events_retries_total",
                "Requests that were sent again, each time.",
                registry
            )?,
            in_flight: register_int_gauge_with_registry!(
                "create_events_requests_in_flight",
                "Requests that wait for their answer.",
                registry
            )?,
            duration: register_histogram_with_registry!(
                "create_events_request_duration_seconds",
                "How long requests took with all attempts: from when one was sent, or with --rate \
                 from when its first event was due.",
                DURATION_SECONDS.to_vec(),
                registry
            )?,
            registry,
        })
    }

    /// Serves them to whoever asks, until the process ends.
    pub(crate) fn serve(&self, address: SocketAddr) -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let metrics = self.clone();
        thread::Builder::new()
            .name("metrics".into())
            .spawn(move || runtime.block_on(metrics.answer_all(listener)))?;
        Ok(address)
    }

    async fn answer_all(self, listener: TcpListener) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let metrics = Arc::new(self);
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // As when there are too many open files: it may pass.
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            };
            let metrics = Arc::clone(&metrics);
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = metrics.answer(request.uri().path());
                async { Ok::<_, Infallible>(answer) }
            });
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // Whoever hangs up asks again.
            tokio::spawn(async { serving.await.ok() });
        }
    }

    fn answer(&self, path: &str) -> Response<String> {
        let text = (path == "/metrics")
            .then(|| TextEncoder::new().encode_to_string(&self.registry.gather()));
        let (status, text) = match text {
            Some(Ok(text)) => (StatusCode::OK, text),
            Some(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            None => (StatusCode::NOT_FOUND, "see /metrics\n".to_owned()),
        };
        let mut answer = Response::new(text);
        *answer.status_mut() = status;
        let media_type = HeaderValue::from_static(TEXT_FORMAT);
        answer.headers_mut().insert(CONTENT_TYPE, media_type);
        answer
    }

    /// These events are about to be sent.
    pub(crate) fn created(&self, events: &[Event]) {
        let bounced = events.iter().filter(|event| event.kind == Kind::Bounced);
        let bounced = bounced.count() as u64;
        self.bounced.inc_by(bounced);
        self.delivered.inc_by(events.len() as u64 - bounced);
    }

    /// A request is sent, for the first time or again.
    pub(crate) fn sent(&self, again: bool) {
        self.in_flight.inc();
        self.retries.inc_by(again.into());
    }

    /// It was answered, or never will be.
    pub(crate) fn answered(&self, outcome: Result<StatusCode, Failure>) {
        self.in_flight.dec();
        let status = match &outcome {
            Ok(status) => status.as_str(),
            Err(Failure::Unconfirmed) => "unconfirmed",
            Err(Failure::NotConnected | Failure::Lost | Failure::TimedOut) => "none",
        };
        self.requests.with_label_values(&[status]).inc();
    }

    /// So many events came to their end with the last attempt.
    pub(crate) fn ended(&self, events: u64, began: Instant, outcome: Result<StatusCode, Failure>) {
        self.duration.observe(began.elapsed().as_secs_f64());
        let counter = match outcome {
            Ok(status) if status.is_success() => &self.acknowledged,
            Ok(_) => &self.refused,
            Err(_) => &self.failed,
        };
        counter.inc_by(events);
    }
}
