//! Server-Sent Events (WHATWG HTML, section 9.2): answers that go on, within bounds.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix_web::{
    HttpResponse,
    http::{
        Method,
        header::{CACHE_CONTROL, HeaderName},
    },
    web::Bytes,
};
use foundation::telemetry::Metrics;
use futures_util::{Stream, StreamExt};
use prometheus::IntGauge;
use serde::Serialize;

use crate::problem::{Kind, Problem};

/// How many may be open at a time, over all workers.
const MAX_OPEN: usize = 64;

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "text/event-stream";

/// Counts the streams of one server.
pub(crate) struct Streams(Arc<Counts>);

struct Counts {
    open: AtomicUsize,
    shown: IntGauge,
}

/// A stream that is open until this is dropped.
pub(crate) struct Open(Arc<Counts>);

impl Streams {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When their names are taken.
    pub(crate) fn register(metrics: &Metrics) -> prometheus::Result<Self> {
        let shown = IntGauge::new("catchall_http_streams", "Streams of events that are open.")?;
        let limit = IntGauge::new(
            "catchall_http_streams_limit",
            "Streams that may be open; one more is refused.",
        )?;
        limit.set(MAX_OPEN.try_into().unwrap_or(i64::MAX));
        metrics.register(shown.clone())?;
        metrics.register(limit)?;
        Ok(Self(Arc::new(Counts {
            open: AtomicUsize::new(0),
            shown,
        })))
    }

    /// # Errors
    /// When too many are open.
    pub(crate) fn open(&self) -> Result<Open, Problem> {
        let open = Open(Arc::clone(&self.0));
        self.0.shown.inc();
        match self.0.open.fetch_add(1, Ordering::Relaxed) {
            before if before < MAX_OPEN => Ok(open),
            _ => Err(Problem::new(Kind::Overloaded)),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.shown.dec();
    }
}

/// One event of a stream.
pub(crate) fn event(name: &str, data: &impl Serialize) -> Bytes {
    // Cannot fail: what is sent has no value that JSON cannot say. JSON has no line break either.
    let data = serde_json::to_string(data).unwrap_or_default();
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

/// Answers with a stream of events; a HEAD without it.
pub(crate) fn answer(method: &Method, events: impl Stream<Item = Bytes> + 'static) -> HttpResponse {
    let mut answer = HttpResponse::Ok();
    answer
        .content_type(MEDIA_TYPE)
        .insert_header((CACHE_CONTROL, "no-store"))
        // nginx would hold it back.
        .insert_header((HeaderName::from_static("x-accel-buffering"), "no"));
    match *method {
        // The server underneath would wait for the end of what it does not send.
        Method::HEAD => answer.finish(),
        _ => answer.streaming(events.map(Ok::<_, Infallible>)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_open_at_a_time_and_no_more() {
        let streams = Streams::register(&Metrics::new().unwrap()).unwrap();
        let mut open: Vec<_> = (0..MAX_OPEN).map(|_| streams.open().unwrap()).collect();
        for _ in 0..2 {
            assert_eq!(streams.open().err().unwrap().kind(), Kind::Overloaded);
        }
        open.pop();
        assert!(streams.open().is_ok());
    }

    #[test]
    fn an_event_is_one_line_of_data() {
        assert_eq!(
            event("said", &"two\nlines"),
            "event: said\ndata: \"two\\nlines\"\n\n"
        );
    }
}
