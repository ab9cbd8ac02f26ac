//! What happens to every request, in one pass: its id, its limits, its panics, its metrics and
//! its line in the log.

mod body;
mod content;
mod events;
mod observation;
mod request_id;

use std::{any::Any, panic::AssertUnwindSafe, rc::Rc, sync::Arc, time::Instant};

use actix_web::{
    Error, HttpMessage as _, HttpResponse,
    body::BoxBody,
    dev::{Payload, RequestHead, ServiceRequest, ServiceResponse},
    http::{ConnectionType, header::HeaderName},
    middleware::Next,
};
use foundation::telemetry::request_span;
use futures_util::FutureExt;
use tracing::{Instrument, field};

pub(crate) use body::{Bodies, Body, Held};
pub(crate) use events::BulkEvents;
pub(crate) use observation::HttpMetrics;
pub(crate) use request_id::RequestId;

use crate::{
    connection::{Answering, Watched},
    health::Readiness,
    limits::Settings,
    problem::{Kind, Problem},
    routes::Route,
};
use observation::{Observer, bounded};

/// The header fields by which a trace goes on (W3C Trace Context).
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The header field of what is to be counted once (draft-ietf-httpapi-idempotency-key-header-07).
pub(crate) static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header field of an answer to what had been counted before, under the same key.
pub(crate) const REPLAYED: &str = "idempotency-replayed";

/// Among the extensions of a request that has an [`IDEMPOTENCY_KEY`]. All fields of a head are passed
/// over anyway, for its size; to look this one up would cost every event that has none.
pub(crate) struct Keyed;

/// What all routes of a server share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    pub(crate) metrics: HttpMetrics,
    pub(crate) bodies: Bodies,
    pub(crate) readiness: Readiness,
}

/// Stands before the handlers of one route, in one worker.
pub(crate) struct Gate {
    route: Route,
    settings: Arc<Settings>,
    bodies: Bodies,
    readiness: Readiness,
    observer: Observer,
}

/// A request that is not let through, and what of its content was not read.
struct Refused {
    problem: Problem,
    unread: Payload,
}

impl Gate {
    pub(crate) fn new(route: Route, shared: &Shared) -> Rc<Self> {
        Rc::new(Self {
            route,
            settings: Arc::clone(&shared.settings),
            bodies: shared.bodies.clone(),
            readiness: shared.readiness.clone(),
            observer: Observer::new(route, &shared.metrics, shared.settings.request_log),
        })
    }

    /// Answers one request. Never an error: what failed is an answer too.
    pub(crate) async fn pass(
        self: Rc<Self>,
        request: ServiceRequest,
        next: Next<BoxBody>,
    ) -> Result<ServiceResponse, Error> {
        let connection = request.request().conn_data::<Rc<Watched>>();
        let connection = connection.map(Watched::answer);
        let id = RequestId::of(request.headers());
        let headers = request.headers();
        let traceparent = || headers.get(&TRACEPARENT)?.to_str().ok();
        let tracestate = || headers.get(&TRACESTATE)?.to_str().ok();
        // At debug, so that it costs nothing unless asked for: traces switch it on by its target.
        let span = request_span(traceparent, tracestate, || {
            tracing::debug_span!(
                target: "api::request",
                "request",
                otel.name = %format_args!("{} {}", bounded(request.method()), self.route.template),
                otel.kind = "server",
                otel.status_code = field::Empty,
                error.type = field::Empty,
                http.request.method = bounded(request.method()),
                http.response.status_code = field::Empty,
                http.route = self.route.template,
                request_id = id.as_str(),
            )
        });
        let answering = self.observed(id, request, next, connection.as_ref());
        let answering = answering.instrument(span.clone());
        let response = answering.await;
        if !span.is_disabled() {
            let status = response.status();
            span.record("http.response.status_code", status.as_u16());
            if status.is_server_error() {
                span.record("otel.status_code", "ERROR");
                span.record("error.type", status.as_str());
            }
        }
        Ok(response)
    }

    async fn observed(
        &self,
        id: RequestId,
        mut request: ServiceRequest,
        next: Next<BoxBody>,
        connection: Option<&Answering>,
    ) -> ServiceResponse {
        let mut observation = self.observer.begin(request.method());
        let http = request.request().clone();
        let admitted = if connection.is_some_and(Answering::has_ended) {
            Err(Refused::new(Kind::ConnectionEnded, request.take_payload()))
        } else {
            self.admit(&mut request, observation.started()).await
        };
        let (mut response, problem) = match admitted {
            Ok(admitted) => {
                observation.admitted();
                match self.served(request, next, admitted).await {
                    Ok(response) => (response, None),
                    Err(problem) => (problem.answer(&id), Some(problem)),
                }
            }
            Err(Refused { problem, unread }) => {
                let response = content::with_unread(problem.answer(&id), unread);
                (response, Some(problem))
            }
        };
        // Nearly always there is no field yet.
        let fields = response.headers();
        let replayed = !fields.is_empty() && fields.contains_key(REPLAYED);
        observation.end(response.status(), replayed, &id, problem.as_ref());
        id.attach_to(response.headers_mut());
        if self.readiness.is_draining() {
            // A request that the client is sending when the server closes would be lost. What it has
            // sent already it sends again elsewhere: nothing behind this may count (RFC 9112, 9.6).
            response
                .head_mut()
                .set_connection_type(ConnectionType::Close);
            if let Some(connection) = connection {
                connection.end();
            }
        }
        ServiceResponse::new(http, response)
    }

    /// Lets a request through that keeps the limits, after its content is read, so that the
    /// connection stays in step. Where none is taken, what is declared is thrown away. Says when.
    async fn admit(
        &self,
        request: &mut ServiceRequest,
        started: Instant,
    ) -> Result<Instant, Refused> {
        let head = request.head();
        if head.uri.path().len() > self.settings.max_path_bytes.get() {
            return Err(Refused::new(Kind::PathTooLong, request.take_payload()));
        }
        let (bytes, keyed) = look_over(head);
        if bytes > self.settings.max_head_bytes.get() {
            return Err(Refused::new(Kind::HeadTooLarge, request.take_payload()));
        }
        if keyed {
            request.extensions_mut().insert(Keyed);
        }
        if matches!(request.parts().1, Payload::None) || !content::is_declared(request.headers()) {
            // It took no time to speak of, and reading a clock does, at these rates.
            return Ok(started);
        }
        // In a box: it would take up room in the future of every request that has no content.
        Box::pin(self.admit_content(request)).await?;
        Ok(Instant::now())
    }

    async fn admit_content(&self, request: &mut ServiceRequest) -> Result<(), Refused> {
        let mut unread = request.take_payload();
        if self.route.takes_content && self.route.methods.contains(request.method()) {
            let read = body::read(&mut unread, request.headers(), &self.settings, &self.bodies);
            return match read.await {
                Ok(body) => {
                    request.extensions_mut().insert(body);
                    Ok(())
                }
                Err(kind) => Err(Refused::new(kind, unread)),
            };
        }
        match content::discard(&mut unread, request.headers(), &self.settings).await {
            // A path or a method that is not served says so before its content is judged.
            Ok(content) if content && self.route.methods.contains(request.method()) => {
                Err(Refused::new(Kind::ContentNotSupported, unread))
            }
            Ok(_) => Ok(()),
            Err(kind) => Err(Refused::new(kind, unread)),
        }
    }

    /// Calls the handler: in time, and survives its panic.
    async fn served(
        &self,
        request: ServiceRequest,
        next: Next<BoxBody>,
        admitted: Instant,
    ) -> Result<HttpResponse, Problem> {
        let handler = AssertUnwindSafe(next.call(request)).catch_unwind();
        let deadline = admitted + self.settings.answer_timeout();
        let response = tokio::time::timeout_at(deadline.into(), handler)
            .await
            .map_err(|_| Problem::new(Kind::AnswerTimeout).of_the_store())?
            .map_err(|panic| Problem::caused_by(Kind::Internal, panic_text(panic.as_ref())))?
            .map_err(|error| problem_of(&error))?
            .into_parts()
            .1;
        match response.error() {
            Some(error) => Err(problem_of(error)),
            None => Ok(response),
        }
    }
}

impl Refused {
    fn new(kind: Kind, unread: Payload) -> Self {
        Self {
            problem: Problem::new(kind),
            unread,
        }
    }
}

/// The problem a handler returned. Every other error is a defect: none of ours returns any.
fn problem_of(error: &Error) -> Problem {
    match error.as_error::<Problem>() {
        Some(problem) => problem.clone(),
        None => Problem::caused_by(Kind::Internal, error.to_string()),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("not a text"))
}

/// The size of a head as it was sent, save for optional blanks, and whether it has an idempotency key.
fn look_over(head: &RequestHead) -> (usize, bool) {
    const REQUEST_LINE: usize = "  HTTP/1.1\r\n\r\n".len();
    const FIELD: usize = ": \r\n".len();
    let target = head.uri.path().len() + head.uri.query().map_or(0, |query| query.len() + 1);
    let mut bytes = head.method.as_str().len() + target + REQUEST_LINE;
    let mut keyed = false;
    for (name, value) in &head.headers {
        bytes += name.as_str().len() + value.len() + FIELD;
        keyed |= name == IDEMPOTENCY_KEY;
    }
    (bytes, keyed)
}
