//! What a request leaves in the log and in traces.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    io::Write,
    sync::{Arc, Mutex, OnceLock},
};

use serde_json::{Value, json};
use support::{Running, store::SECRET, until};
use tracing::{Subscriber, field::Field, span};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt::MakeWriter,
    layer::{Context, SubscriberExt},
};

/// What was written so far, by all tests: each looks for its own request ids.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Written {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Written {
    /// The lines about one request.
    fn lines(&self, request_id: &str) -> Vec<Value> {
        String::from_utf8(self.0.lock().unwrap().clone())
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|line| line["request_id"] == request_id)
            .collect()
    }
}

/// The fields of all spans, as text.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
        let mut text = String::new();
        attributes.record(&mut |field: &Field, value: &dyn std::fmt::Debug| {
            text.push_str(&format!("{field}={value:?};"));
        });
        self.0.lock().unwrap().push(text);
    }
}

/// The subscriber of this process: log lines at info, and the spans of requests.
fn told() -> &'static (Written, Spans) {
    static TOLD: OnceLock<(Written, Spans)> = OnceLock::new();
    TOLD.get_or_init(|| {
        let (written, spans) = (Written::default(), Spans::default());
        let lines = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(written.clone())
            .with_filter(LevelFilter::INFO);
        let requests = Targets::new().with_target("api::request", LevelFilter::DEBUG);
        let subscriber = tracing_subscriber::registry()
            .with(lines)
            .with(spans.clone().with_filter(requests));
        tracing::subscriber::set_global_default(subscriber).unwrap();
        (written, spans)
    })
}

async fn lines_of(server: &Running, method: &str, target: &str, id: &str) -> Vec<Value> {
    server
        .ask_with(method, target, &[("X-Request-Id", id)])
        .await;
    told().0.lines(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_one_line() {
    let (written, _) = told();
    let server = Running::start().await;
    let lines = lines_of(&server, "PUT", "/v1/events/a.example/delivered", "one-line").await;
    let [line] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["method"], "PUT");
    assert_eq!(line["route"], "/v1/events/{domain}/delivered");
    assert_eq!(line["status"], 204);
    assert!(line["duration_us"].is_u64());
    assert_eq!((line.get("problem"), line.get("error")), (None, None));
    assert!(written.lines("no-such-request").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_logged_once_with_its_causes() {
    told();
    let quiet = json!({ "request_log": { "hot_routes": "off", "sample_every": 1 } });
    let server = Running::start_with(quiet).await;
    for (name, level, problem, error) in [
        (
            "corrupt",
            "ERROR",
            "internal",
            format!("record: corrupt: {SECRET}"),
        ),
        ("panic", "ERROR", "internal", format!("panic: {SECRET}")),
        (
            "ambiguous",
            "WARN",
            "outcome-unknown",
            format!("record: ambiguous: {SECRET}"),
        ),
    ] {
        let target = format!("/v1/events/{name}.example/bounced");
        let lines = lines_of(&server, "PUT", &target, name).await;
        let [line] = lines.as_slice() else {
            panic!("{lines:?}")
        };
        assert_eq!(line["level"], level);
        assert_eq!(line["problem"], problem);
        assert_eq!(line["error"], error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hot_routes_can_be_silent_and_others_are_not() {
    told();
    let quiet = json!({ "request_log": { "hot_routes": "off", "sample_every": 1 } });
    let server = Running::start_with(quiet).await;
    for target in [
        "/v1/domains/a.example",
        "/v1/domain/a.example",
        "/v1/domain/bad%20name",
    ] {
        let lines = lines_of(&server, "GET", target, "silent").await;
        assert_eq!(lines, Vec::<Value>::new(), "{target}");
    }
    assert_eq!(lines_of(&server, "GET", "/v1/stats", "cold").await.len(), 1);
    assert_eq!(
        lines_of(&server, "GET", "/nowhere", "unmatched")
            .await
            .len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_if_anybody_wants_it() {
    let (_, spans) = told();
    let server = Running::start().await;
    lines_of(&server, "GET", "/v1/domains/a.example", "spanned").await;
    let found = || {
        let spans = spans.0.lock().unwrap();
        spans.iter().find(|span| span.contains("spanned")).cloned()
    };
    until("the span is there", || found().is_some()).await;
    let span = found().unwrap();
    assert!(
        span.contains("otel.name=GET /v1/domains/{domain};"),
        "{span}"
    );
}
