//! Metrics and log lines of requests.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use actix_web::http::{Method, StatusCode};
use foundation::telemetry::{Metrics, metrics::DURATION_SECONDS};
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntGauge};

use super::{
    RequestId,
    events::{BulkEvents, EventCounters, EventMetrics},
};
use crate::{
    limits::{HotRoutes, RequestLog},
    problem::{Kind, Problem},
    routes::Route,
};

/// How often a route logs, in one worker, that it refuses requests for overload.
const REFUSALS_LOGGED_EVERY: Duration = Duration::from_secs(1);

/// What is shown as the status of a request whose client left before it was answered, as nginx does.
const CLIENT_LEFT: u16 = 499;

/// The metrics of one server. Clones share them.
#[derive(Clone)]
pub(crate) struct HttpMetrics {
    duration: HistogramVec,
    active: IntGauge,
    events: EventMetrics,
}

impl HttpMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// When their names are taken: two servers must not share a registry.
    pub(crate) fn register(metrics: &Metrics) -> prometheus::Result<Self> {
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "http_server_request_duration_seconds",
                "Time from the head of a request to its response; with 499, until its client left \
                 without one.",
            )
            .buckets(DURATION_SECONDS.to_vec()),
            &[
                "http_request_method",
                "http_route",
                "http_response_status_code",
            ],
        )?;
        let active = IntGauge::new(
            "http_server_active_requests",
            "Requests that are being answered.",
        )?;
        metrics.register(duration.clone())?;
        metrics.register(active.clone())?;
        Ok(Self {
            duration,
            active,
            events: EventMetrics::register(metrics)?,
        })
    }
}

impl HttpMetrics {
    pub(crate) fn bulk_events(&self) -> BulkEvents {
        BulkEvents::new(&self.events)
    }
}

/// Observes the requests of one route, in one worker.
pub(super) struct Observer {
    route: Route,
    log: RequestLog,
    /// Requests since the last one that was logged.
    unlogged: Cell<u32>,
    /// When a refusal for overload was last logged, and how many were not since.
    refused: Cell<(Option<Instant>, u64)>,
    metrics: HttpMetrics,
    /// The histograms met so far, so that labels are looked up once each. Methods and statuses
    /// are few, so is this.
    durations: RefCell<Vec<(&'static str, StatusCode, Histogram)>>,
    events: Option<EventCounters>,
}

/// One request that is being answered. Dropped without an end, the client went away.
pub(super) struct Observation<'a> {
    observer: &'a Observer,
    method: &'static str,
    started: Instant,
    /// Until it is answered, when the request is an event.
    event: Option<&'a EventCounters>,
    /// Its content is read, and the store is asked at once.
    admitted: bool,
    answered: bool,
}

impl Observer {
    pub(super) fn new(route: Route, metrics: &HttpMetrics, log: RequestLog) -> Self {
        Self {
            route,
            log,
            unlogged: Cell::new(0),
            refused: Cell::default(),
            metrics: metrics.clone(),
            durations: RefCell::default(),
            events: route
                .event
                .map(|kind| EventCounters::new(&metrics.events, kind)),
        }
    }

    pub(super) fn begin(&self, method: &Method) -> Observation<'_> {
        self.metrics.active.inc();
        let event = self.events.as_ref().filter(|_| method == Method::PUT);
        Observation {
            observer: self,
            method: bounded(method),
            started: Instant::now(),
            event,
            admitted: false,
            answered: false,
        }
    }

    fn observe(&self, method: &'static str, status: StatusCode, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let mut durations = self.durations.borrow_mut();
        let known = durations
            .iter()
            .find(|known| known.1 == status && known.0 == method);
        if let Some((.., histogram)) = known {
            return histogram.observe(seconds);
        }
        let labels = [method, self.route.template, status.as_str()];
        let histogram = self.metrics.duration.with_label_values(&labels);
        histogram.observe(seconds);
        durations.push((method, status, histogram));
    }

    /// Whether this refusal is logged, and how many before it were not: one a second. Under ten times
    /// the load, or without a store, there are tens of thousands a second, and a log that cannot take
    /// them would hold up those who serve.
    fn logs_refusal(&self, now: Instant) -> Option<u64> {
        let (logged, others) = self.refused.get();
        if logged.is_some_and(|logged| now.duration_since(logged) < REFUSALS_LOGGED_EVERY) {
            self.refused.set((logged, others + 1));
            return None;
        }
        self.refused.set((Some(now), 0));
        Some(others)
    }

    fn is_logged(&self, status: StatusCode) -> bool {
        if status.is_server_error() || !self.route.hot {
            return true;
        }
        match self.log.hot_routes {
            HotRoutes::Off => false,
            HotRoutes::All => true,
            HotRoutes::Sampled => {
                let next = (self.unlogged.get() + 1) % self.log.sample_every;
                self.unlogged.set(next);
                next == 0
            }
        }
    }
}

impl Observation<'_> {
    /// When the request's head was there.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Its content is read. A handler of an event waits for nothing but the store, which it has asked
    /// by the time it waits.
    pub(super) fn admitted(&mut self) {
        self.admitted = true;
        // Not before: what a slow client still sends would be in no part of the ledger.
        if let Some(event) = self.event {
            event.received.inc();
        }
    }

    /// The request is answered. A failure is logged here and nowhere else, with all its causes.
    pub(super) fn end(
        mut self,
        status: StatusCode,
        replayed: bool,
        id: &RequestId,
        problem: Option<&Problem>,
    ) {
        let elapsed = self.started.elapsed();
        self.answered = true;
        self.observer.observe(self.method, status, elapsed);
        if let Some(event) = self.event.take() {
            if !self.admitted {
                event.received.inc();
            }
            if problem.is_some_and(|problem| !problem.store_asked()) {
                event.rejected.inc();
            }
            match status {
                StatusCode::ACCEPTED => event.spooled.inc(),
                status if status.is_success() && replayed => event.duplicate.inc(),
                status if status.is_success() => event.counted.inc(),
                status if status.is_client_error() => event.refused.inc(),
                _ => event.failed.inc(),
            }
        }
        let refused = problem.is_some_and(|problem| {
            use Kind::{ConnectionEnded, OutcomeUnknown, Overloaded, Unavailable};
            matches!(
                problem.kind(),
                Overloaded | Unavailable | OutcomeUnknown | ConnectionEnded
            )
        });
        if refused {
            let now = self.started + elapsed;
            if let Some(others) = self.observer.logs_refusal(now) {
                self.log(status, elapsed, id, problem, Some(others));
            }
        } else if self.observer.is_logged(status) {
            self.log(status, elapsed, id, problem, None);
        }
    }

    fn log(
        &self,
        status: StatusCode,
        elapsed: Duration,
        id: &RequestId,
        problem: Option<&Problem>,
        others_refused: Option<u64>,
    ) {
        // A macro, for a level has to be known when it is compiled.
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    method = self.method,
                    route = self.observer.route.template,
                    status = status.as_u16(),
                    duration_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
                    request_id = id.as_str(),
                    problem = problem.map(|problem| problem.kind().slug()),
                    error = problem
                        .and_then(Problem::chain)
                        .map(tracing::field::display),
                    others_refused,
                    "request"
                )
            };
        }
        match status {
            StatusCode::INTERNAL_SERVER_ERROR => line!(error),
            status if status.is_server_error() => line!(warn),
            _ => line!(info),
        }
    }
}

impl Drop for Observation<'_> {
    fn drop(&mut self) {
        // What was never sent whole could not be answered.
        if self.admitted
            && !self.answered
            && let Ok(left) = StatusCode::from_u16(CLIENT_LEFT)
        {
            self.observer
                .observe(self.method, left, self.started.elapsed());
        }
        // First, so that whoever sees that it is over sees how it ended.
        if let Some(event) = self.event {
            event.failed.inc();
            if !self.admitted {
                event.received.inc();
                event.rejected.inc();
            }
        }
        self.observer.metrics.active.dec();
    }
}

/// The method as a label: a client may send any word (OpenTelemetry's `_OTHER`).
pub(super) fn bounded(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        Method::CONNECT => "CONNECT",
        _ => "_OTHER",
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use prometheus::IntCounter;

    use super::*;
    use crate::routes::{DELIVERED, UNMATCHED};

    fn observer(route: Route, hot_routes: HotRoutes) -> Observer {
        let metrics = HttpMetrics::register(&Metrics::new().unwrap()).unwrap();
        let sample_every = NonZeroU32::new(3).unwrap();
        Observer::new(
            route,
            &metrics,
            RequestLog {
                hot_routes,
                sample_every,
            },
        )
    }

    fn logged(observer: &Observer, status: StatusCode) -> Vec<bool> {
        (0..6).map(|_| observer.is_logged(status)).collect()
    }

    #[test]
    fn hot_routes_are_logged_as_set() {
        let ok = StatusCode::NO_CONTENT;
        assert_eq!(logged(&observer(DELIVERED, HotRoutes::Off), ok), [false; 6]);
        assert_eq!(logged(&observer(DELIVERED, HotRoutes::All), ok), [true; 6]);
        assert_eq!(
            logged(&observer(DELIVERED, HotRoutes::Sampled), ok),
            [false, false, true, false, false, true]
        );
    }

    #[test]
    fn failures_and_cold_routes_are_always_logged() {
        let failed = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(
            logged(&observer(DELIVERED, HotRoutes::Off), failed),
            [true; 6]
        );
        assert_eq!(
            logged(&observer(UNMATCHED, HotRoutes::Off), StatusCode::OK),
            [true; 6]
        );
    }

    #[test]
    fn refusals_for_overload_are_logged_once_a_second_with_their_number() {
        let observer = observer(DELIVERED, HotRoutes::Off);
        let start = Instant::now();
        let at = |millis| observer.logs_refusal(start + Duration::from_millis(millis));
        assert_eq!(at(0), Some(0));
        assert_eq!([at(1), at(500), at(999)], [None; 3]);
        assert_eq!(at(1_000), Some(3));
        assert_eq!(at(5_000), Some(0));
    }

    #[test]
    fn an_event_whose_client_left_is_not_forgotten() {
        let observer = observer(DELIVERED, HotRoutes::Off);
        drop(observer.begin(&Method::PUT));
        drop(observer.begin(&Method::GET));
        let mut admitted = observer.begin(&Method::PUT);
        admitted.admitted();
        drop(admitted);
        let events = observer.events.as_ref().unwrap();
        let told = [&events.received, &events.failed, &events.rejected].map(IntCounter::get);
        assert_eq!(told, [2, 2, 1], "received, failed, rejected");
        assert_eq!(observer.metrics.active.get(), 0);
    }
}
