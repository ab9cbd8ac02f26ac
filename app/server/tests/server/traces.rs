//! What a collector of OpenTelemetry is told: a request, the group that carried it and the SQL of the
//! group are one linked trace.

mod collector;

use std::collections::BTreeSet;

use foundation::testing::Postgres;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};

use self::collector::{Collector, Place, attributes, links, parent, place};
use crate::support::{Connection, Server, Setup, until};

const PUT: &str = "PUT /v1/events/{domain}/delivered";
const CALLERS_SPAN: &str = "00f067aa0ba902b7";

/// A trace of a caller's own.
fn callers_trace(number: usize) -> String {
    format!("4bf92f3577b34da6a3ce929d0e0e{number:04x}")
}

fn traceparent(number: usize, sampled: bool) -> String {
    let (trace, flags) = (callers_trace(number), u8::from(sampled));
    format!("Traceparent: 00-{trace}-{CALLERS_SPAN}-{flags:02x}\r\n")
}

/// Sends an event, and does not wait for the answer.
async fn send(server: &Server, domain: &str, fields: &str) -> Connection {
    let mut connection = server.connect().await;
    connection
        .send(format!(
            "PUT /v1/events/{domain}/delivered HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\
             {fields}\r\n"
        ))
        .await
        .unwrap();
    connection
}

async fn put(server: &Server, domain: &str, fields: &str) -> u16 {
    let mut connection = send(server, domain, fields).await;
    connection.answer().await.unwrap().status
}

fn has(span: &Span, expected: &[(&str, &str)]) {
    let expected = expected
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    assert_eq!(attributes(span), expected.collect(), "{span:#?}");
}

/// The spans below another.
fn below(spans: &[Span], above: &Span) -> Vec<Span> {
    let below = |span: &&Span| parent(span) == place(above);
    spans.iter().filter(below).cloned().collect()
}

fn places<'s>(spans: impl IntoIterator<Item = &'s Span>) -> Vec<Place> {
    sorted(spans.into_iter().map(place))
}

fn sorted(places: impl Iterator<Item = Place>) -> Vec<Place> {
    let mut places: Vec<Place> = places.collect();
    places.sort();
    places
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_its_group_and_its_sql_are_one_linked_trace() {
    let (collector, postgres) = (Collector::start(), Postgres::start());
    let setup =
        Setup::postgres(&postgres.url("postgres")).set("http.request_log.hot_routes", "all");
    let server = collector.traced(setup, 1.0).start();

    // The committer waits with the first, so that the others are one group.
    postgres.freeze();
    let mut first = send(&server, "first.example", "X-Request-Id: first\r\n").await;
    until("the first is being recorded", async || {
        server.metric("catchall_group_requests_count").await == 1
    })
    .await;
    let mut others = Vec::new();
    for number in 0..7 {
        // Three go on with a trace, three begin one, and one is in a trace that nobody keeps.
        let traceparent = match number {
            0..3 => traceparent(number, true),
            3..6 => String::new(),
            _ => traceparent(number, false),
        };
        let fields = format!("{traceparent}X-Request-Id: other-{number}\r\n");
        others.push(send(&server, &format!("d{number}.example"), &fields).await);
    }
    until("the others wait", async || {
        server.metric("catchall_queue_depth{committer=\"0\"}").await == 7
    })
    .await;
    postgres.thaw();
    assert_eq!(first.answer().await.unwrap().status, 204);
    for other in &mut others {
        assert_eq!(other.answer().await.unwrap().status, 204);
    }
    server.json("/v1/domains/first.example").await;
    let log = server.stop();

    let requests = collector.named(PUT, 7).await;
    let mut commits = collector.named("commit group", 2).await;
    commits.sort_by_key(|span| span.start_time_unix_nano);
    collector.named("GET /v1/domains/{domain}", 1).await;
    let spans = collector.spans();
    let resource = collector.resource();
    assert_eq!(resource["service.name"], "catchall");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));

    // The requests: each is its caller's child, or begins a trace.
    let mut ids = BTreeSet::new();
    for request in &requests {
        assert_eq!(request.kind(), SpanKind::Server);
        let status = request.status.clone().unwrap_or_default();
        assert_eq!(status.code(), StatusCode::Unset);
        let id = attributes(request)["request_id"].clone();
        has(
            request,
            &[
                ("http.request.method", "PUT"),
                ("http.route", "/v1/events/{domain}/delivered"),
                ("http.response.status_code", "204"),
                ("request_id", &id),
            ],
        );
        ids.insert(id);
    }
    let sent = (0..6).map(|number| format!("other-{number}"));
    assert_eq!(ids, sent.chain(["first".to_owned()]).collect());
    let continued = |span: &&Span| !span.parent_span_id.is_empty();
    let parents: BTreeSet<Place> = requests.iter().filter(continued).map(parent).collect();
    let callers = (0..3).map(|number| (callers_trace(number), CALLERS_SPAN.to_owned()));
    assert_eq!(parents, callers.collect());
    let traces: BTreeSet<_> = requests.iter().map(|span| &span.trace_id).collect();
    assert_eq!(traces.len(), 7);

    // The groups: each is a child of one request, and linked with the others that it carried.
    let [alone, shared] = &commits[..] else {
        panic!("{commits:#?}")
    };
    has(alone, &[("requests", "1"), ("members", "1")]);
    has(shared, &[("requests", "7"), ("members", "7")]);
    let carrier = |commit: &Span| {
        let found = requests.iter().find(|it| place(it) == parent(commit));
        found.expect("it is below a request").clone()
    };
    let (lone, of_shared) = (carrier(alone), carrier(shared));
    assert_eq!((links(alone), links(&lone)), (vec![], vec![]));
    let linked: Vec<&Span> = requests
        .iter()
        .filter(|span| ![place(&lone), place(&of_shared)].contains(&place(span)))
        .collect();
    assert_eq!(linked.len(), 5);
    assert_eq!(links(shared), places(linked.iter().copied()));
    assert_eq!(links(&of_shared), vec![]);
    for request in linked {
        assert_eq!(links(request), [place(shared)]);
        assert_eq!(below(&spans, request), vec![]);
    }

    // The SQL, under the group, and under a read.
    for commit in [alone, shared] {
        let [sql] = &below(&spans, commit)[..] else {
            panic!("{commit:#?}")
        };
        is_sql(sql, "INSERT", "INSERT domain_tallies");
    }
    let read = spans
        .iter()
        .find(|it| it.name.starts_with("GET /v1/domains/"));
    let [get] = &below(&spans, read.unwrap())[..] else {
        panic!("{spans:#?}")
    };
    has(get, &[("store", "postgres"), ("domains", "1")]);
    let [sql] = &below(&spans, get)[..] else {
        panic!("{spans:#?}")
    };
    is_sql(sql, "SELECT", "SELECT domain_tallies");

    // Lines about requests say where these are.
    let lines: Vec<serde_json::Value> = log
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &serde_json::Value| line["method"] == "PUT")
        .collect();
    assert_eq!(lines.len(), 8, "{log:#?}");
    let text = |line: &serde_json::Value, name| line[name].as_str().map(str::to_owned);
    let mut logged: Vec<Place> = lines
        .iter()
        .filter_map(|line| Some((text(line, "trace_id")?, text(line, "span_id")?)))
        .collect();
    logged.sort();
    assert_eq!(logged, places(&requests));
}

fn is_sql(span: &Span, operation: &str, summary: &str) {
    assert_eq!(
        (&*span.name, span.kind(), span.links.len()),
        (summary, SpanKind::Client, 0)
    );
    has(
        span,
        &[
            ("db.system.name", "postgresql"),
            ("db.operation.name", operation),
            ("db.query.summary", summary),
        ],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_ratio_of_nothing_only_a_callers_trace_is_kept() {
    let collector = Collector::start();
    let setup = Setup::postgres(&Postgres::shared().create_database());
    let server = collector.traced(setup, 0.0).start();
    for number in 0..20 {
        let unkept = traceparent(number, false);
        let fields = ["", "Traceparent: rubbish\r\n", &unkept][number % 3];
        assert_eq!(put(&server, "a.example", fields).await, 204);
        server.json("/v1/domains/a.example").await;
    }
    assert_eq!(put(&server, "b.example", &traceparent(99, true)).await, 204);
    server.stop();
    // What was sent before would be here before.
    collector.named("INSERT domain_tallies", 1).await;
    collector.named("commit group", 1).await;
    let [request] = &collector.named(PUT, 1).await[..] else {
        unreachable!("one was asked for")
    };
    let caller = (callers_trace(99), CALLERS_SPAN.to_owned());
    assert_eq!(parent(request), caller);
    assert_eq!(collector.spans().len(), 3, "{:#?}", collector.spans());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_the_traces_is_kept_and_each_of_them_whole() {
    const SENT: usize = 200;
    let collector = Collector::start();
    let setup = Setup::postgres(&Postgres::shared().create_database());
    let server = collector.traced(setup, 0.5).start();
    for _ in 0..SENT {
        assert_eq!(put(&server, "a.example", "").await, 204);
    }
    assert_eq!(put(&server, "a.example", &traceparent(99, true)).await, 204);
    server.stop();
    // What was sent before is here before.
    let caller = (callers_trace(99), CALLERS_SPAN.to_owned());
    until("the last request is here", async || {
        collector.spans().iter().any(|span| parent(span) == caller)
    })
    .await;
    let spans = collector.spans();
    let named = |name: &str| -> Vec<&Span> { spans.iter().filter(|it| it.name == name).collect() };
    let (requests, commits, statements) = (
        named(PUT),
        named("commit group"),
        named("INSERT domain_tallies"),
    );
    // Less likely than one in a hundred million otherwise.
    let kept = requests.len() - 1;
    assert!((60..=140).contains(&kept), "{kept} of {SENT}");
    let above = |spans: &[&Span]| sorted(spans.iter().map(|span| parent(span)));
    assert_eq!(above(&commits), places(requests.iter().copied()));
    assert_eq!(above(&statements), places(commits.iter().copied()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_says_so() {
    let (collector, postgres) = (Collector::start(), Postgres::start());
    let setup = Setup::postgres(&postgres.url("postgres"));
    let server = collector.traced(setup, 1.0).start();
    let rename = "ALTER TABLE domain_tallies RENAME TO elsewhere";
    postgres.query(&postgres.url("postgres"), rename);
    assert_eq!(put(&server, "a.example", "").await, 500);
    let mut reader = server.connect().await;
    let read = "GET /v1/domains/a.example HTTP/1.1\r\nHost: test\r\n\r\n";
    reader.send(read.to_owned()).await.unwrap();
    assert_eq!(reader.answer().await.unwrap().status, 500);
    postgres.kill();
    assert_eq!(put(&server, "a.example", "").await, 503);
    server.stop();
    let (mut requests, mut commits) = (
        collector.named(PUT, 2).await,
        collector.named("commit group", 2).await,
    );
    let spans = collector.spans();
    let statement = spans
        .iter()
        .find(|span| attributes(span).contains_key("db.response.status_code"));
    let statement = statement.unwrap_or_else(|| panic!("no SQL failed: {spans:#?}"));
    let undefined_table = "42P01";
    assert_eq!(
        attributes(statement)["db.response.status_code"],
        undefined_table
    );
    let get = spans.iter().find(|span| span.name == "get").unwrap();
    assert_eq!(attributes(get)["error.type"], "unexpected");
    for span in requests.iter().chain(&commits).chain([statement, get]) {
        let status = span.status.clone().unwrap_or_default();
        assert_eq!(status.code(), StatusCode::Error, "{span:#?}");
    }
    for spans in [&mut requests, &mut commits] {
        spans.sort_by_key(|span| span.start_time_unix_nano);
    }
    for (request, status) in requests.iter().zip(["500", "503"]) {
        let answered = attributes(request);
        assert_eq!(answered["http.response.status_code"], status);
        assert_eq!(answered["error.type"], status);
    }
    assert_eq!(attributes(&commits[0])["error.type"], "unexpected");
    // Where the connection was not looked at again, nobody knows.
    let away = &attributes(&commits[1])["error.type"];
    assert!(
        ["unavailable", "ambiguous"].contains(&away.as_str()),
        "{away}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_in_a_spool_has_a_trace_of_its_own() {
    let (collector, postgres) = (Collector::start(), Postgres::start());
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::postgres(&postgres.url("postgres"))
        .set("store.when_down", "spool")
        .set("store.spool.path", folder.path().display())
        .set("store.spool.after_ms", 20_000);
    let server = collector.traced(setup, 1.0).start();
    assert_eq!(put(&server, "a.example", "").await, 204);
    postgres.kill();
    assert_eq!(put(&server, "a.example", "").await, 202);
    postgres.start_again();
    until("the spool is empty", async || {
        server.metric("catchall_spool_bytes").await == 0
    })
    .await;
    assert!(put(&server, "a.example", "").await < 300);
    server.stop();

    // It is sent after what ended before.
    collector.named("commit group", 3).await;
    let spans = collector.spans();
    let drained = spans
        .iter()
        .find(|span| span.name == "drain group" && !below(&spans, span).is_empty());
    let drained = drained.expect("the group is drained");
    assert_eq!((parent(drained).1, links(drained)), (String::new(), vec![]));
    has(drained, &[("members", "1")]);
    assert!(
        below(&spans, drained)
            .iter()
            .any(|span| span.name == "INSERT domain_tallies")
    );
}
