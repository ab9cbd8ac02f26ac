//! Ready, draining, stopped; and what is told on the way.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::atomic::Ordering;

use serde_json::json;
use support::{
    DEADLINE, Running, settings,
    store::{Health, SECRET},
    until,
};

#[tokio::test(flavor = "multi_thread")]
async fn alive_asks_nobody_and_ready_asks_the_store() {
    let server = Running::start().await;
    assert_eq!(server.ask("GET", "/readyz").await.text(), "ok\n");
    let verbose = server.ask("GET", "/readyz?verbose").await;
    assert_eq!(
        verbose.text(),
        "[+]serving ok\n[+]workers ok\n[+]store ok\nreadyz check passed\n"
    );

    for (health, reason) in [
        (
            Health::Full,
            "no room to write, on its disk or in its spool",
        ),
        (Health::Down, "unavailable"),
        (Health::Silent, "no answer within a second"),
    ] {
        *server.store.health.lock().unwrap() = health;
        let answer = server.ask("GET", "/readyz?verbose").await;
        let problem = answer.problem(503, "not-ready");
        assert_eq!(
            problem["errors"],
            json!([{ "field": "store", "reason": reason }])
        );
        assert!(!answer.text().contains(SECRET));
        assert_eq!(server.ask("GET", "/livez").await.text(), "ok\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_server_says_so_and_serves_on() {
    let server = Running::start().await;
    server.readiness.drain();
    let problem = server.ask("GET", "/readyz").await.problem(503, "not-ready");
    assert_eq!(problem["errors"][0]["field"], "serving");
    assert_eq!(
        server
            .ask("PUT", "/v1/events/a.example/delivered")
            .await
            .status,
        204
    );
    assert_eq!(server.ask("GET", "/livez").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_what_is_under_way_finish() {
    let mut server = Running::start().await;
    let mut idle = server.connect().await;
    assert_eq!(idle.ask("GET", "/livez", &[]).await.status, 200);
    let mut busy = server.connect().await;
    busy.send("PUT /v1/events/held.example/delivered HTTP/1.1\r\nHost: test\r\n\r\n")
        .await;
    until("the event is being written", || {
        server.store.held.load(Ordering::SeqCst) == 1
    })
    .await;

    server.stop();
    // The idle connection is closed at once, the busy one when it has its answer.
    assert_eq!(idle.closed().await, "");
    assert!(server.readiness.is_draining());
    server.store.release.add_permits(1);
    let answer = busy.answer(false).await;
    assert_eq!(
        (answer.status, answer.field("connection")),
        (204, Some("close"))
    );
    assert_eq!(busy.closed().await, "");

    let (address, store) = (server.address, server.store.clone());
    server.stopped().await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    // Nothing of the server is left that could use the store.
    until("the workers are gone", || {
        std::sync::Arc::strong_count(&store) == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_first_says_so_and_serves_on() {
    let mut server = Running::start_with(json!({ "unready_ms": 4_000 })).await;
    let mut kept = server.connect().await;
    let answer = kept.ask("GET", "/livez", &[]).await;
    assert_eq!(answer.field("connection"), None);
    server.stop();
    // Over new connections, as a load balancer asks.
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while server.ask("GET", "/readyz").await.status != 503 {
        assert!(tokio::time::Instant::now() < deadline);
    }
    let counted = server.ask("PUT", "/v1/events/late.example/delivered").await;
    assert_eq!(counted.status, 204);
    // So that no request is under way over it when it is closed.
    let answer = kept
        .ask("PUT", "/v1/events/kept.example/delivered", &[])
        .await;
    let told = (answer.status, answer.field("connection"));
    assert_eq!(told, (204, Some("close")));
    assert_eq!(kept.closed().await, "");
    let address = server.address;
    server.stopped().await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

/// Its client has to send again what was behind an answer that ends the connection (RFC 9112, 9.6).
#[tokio::test(flavor = "multi_thread")]
async fn what_is_pipelined_behind_the_last_answer_does_not_count() {
    let mut server = Running::start_with(json!({ "unready_ms": 4_000 })).await;
    let mut kept = server.connect().await;
    assert_eq!(kept.ask("GET", "/livez", &[]).await.status, 200);
    server.stop();
    until("it is stopping", || server.readiness.is_draining()).await;
    let event = "PUT /v1/events/behind.example/delivered HTTP/1.1\r\nHost: test\r\n\r\n";
    kept.send(&event.repeat(3)).await;
    let answer = kept.answer(false).await;
    let told = (answer.status, answer.field("connection"));
    assert_eq!(told, (204, Some("close")));
    for _ in 0..2 {
        let answer = kept.answer(false).await;
        assert_eq!(answer.status, 503);
        assert_eq!(
            answer.json()["type"],
            "urn:catchall:problem:connection-ended"
        );
    }
    assert_eq!(kept.closed().await, "");
    let counted = server.ask("GET", "/v1/domains/behind.example").await;
    assert_eq!(counted.json()["delivered"], 1);
    server.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_in_time_whatever_is_under_way() {
    let mut server = Running::start_with(json!({ "drain_timeout_ms": 1 })).await;
    let mut busy = server.connect().await;
    busy.send("PUT /v1/events/held.example/delivered HTTP/1.1\r\nHost: test\r\n\r\n")
        .await;
    until("the event is being written", || {
        server.store.held.load(Ordering::SeqCst) == 1
    })
    .await;
    server.stop();
    server.stopped().await.unwrap();
    assert_eq!(busy.closed().await, "");
}

/// The server does not need more than a current-thread runtime either.
#[tokio::test]
async fn one_thread_is_enough() {
    let mut server = Running::start().await;
    assert_eq!(server.ask("GET", "/livez").await.status, 200);
    server.stop();
    server.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_measured_with_bounded_labels() {
    let server = Running::start().await;
    for number in 0..3 {
        server
            .ask("PUT", &format!("/v1/events/d{number}.example/delivered"))
            .await;
        server.ask("BREW", &format!("/nowhere/{number}")).await;
    }
    server.ask("PUT", "/v1/events/bad%20name/bounced").await;
    server.ask("PUT", "/v1/events/panic.example/bounced").await;
    server.ask("GET", "/v1/events/a.example/bounced").await;

    for (method, route, status, count) in [
        ("PUT", "/v1/events/{domain}/delivered", 204, 3.0),
        ("PUT", "/v1/events/{domain}/bounced", 400, 1.0),
        ("PUT", "/v1/events/{domain}/bounced", 500, 1.0),
        ("GET", "/v1/events/{domain}/bounced", 405, 1.0),
        ("_OTHER", "unmatched", 404, 3.0),
    ] {
        let series = format!(
            "http_server_request_duration_seconds_count{{http_request_method=\"{method}\",\
             http_response_status_code=\"{status}\",http_route=\"{route}\"}}"
        );
        assert_eq!(server.metric(&series), Some(count), "{series}");
    }
    for (kind, outcome, count) in [
        ("delivered", "counted", 3.0),
        ("delivered", "refused", 0.0),
        ("delivered", "failed", 0.0),
        ("bounced", "counted", 0.0),
        ("bounced", "refused", 1.0),
        ("bounced", "failed", 1.0),
    ] {
        let series = format!("catchall_events_total{{kind=\"{kind}\",outcome=\"{outcome}\"}}");
        assert_eq!(server.metric(&series), Some(count), "{series}");
    }
    assert_eq!(server.metric("http_server_active_requests"), Some(0.0));

    let answer = server.ask("GET", "/metrics").await;
    assert_eq!(
        answer.field("content-type"),
        Some("text/plain; version=0.0.4")
    );
    // The one that shows them is being answered.
    assert!(answer.text().contains("\nhttp_server_active_requests 1\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_is_counted_as_failed() {
    let server = Running::start().await;
    let mut connection = server.connect().await;
    connection
        .send("PUT /v1/events/silent.example/delivered HTTP/1.1\r\nHost: test\r\n\r\n")
        .await;
    let active = || server.metric("http_server_active_requests");
    until("it is being answered", || active() == Some(1.0)).await;
    connection.reset();
    until("it is given up", || active() == Some(0.0)).await;
    let failed = "catchall_events_total{kind=\"delivered\",outcome=\"failed\"}";
    assert_eq!(server.metric(failed), Some(1.0));
}

/// Connections and bodies, beside how many and how much there may be.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_shown_beside_its_bound() {
    let server = Running::start().await;
    let line = "{\"domain\":\"silent.example\",\"type\":\"delivered\"}\n";
    let length = line.len();
    let mut busy = server.connect().await;
    let head = "POST /v1/events HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-ndjson";
    busy.send(&format!("{head}\r\nContent-Length: {length}\r\n\r\n{line}"))
        .await;
    let received = "catchall_events_received_total{kind=\"delivered\"}";
    until("it is being recorded", || {
        server.metric(received) == Some(1.0)
    })
    .await;
    let shown = server.ask("GET", "/metrics").await;
    for line in [
        "catchall_http_connections 2",
        "catchall_http_connections_limit 1000",
        "catchall_http_bodies_limit_bytes 16777216",
    ] {
        let line = format!("\n{line}\n");
        assert!(shown.text().contains(&line), "{line}: {}", shown.text());
    }
    // A body has a buffer of this at least.
    let held = server.metric("catchall_http_bodies_bytes").unwrap();
    assert!((16_384.0..65_536.0).contains(&held), "{held}");
    busy.reset();
    let open = || server.metric("catchall_http_connections");
    until("no connection is open", || open() == Some(0.0)).await;
    let lag = || server.metric("catchall_http_worker_lag_seconds_count");
    until("workers have told their lag", || lag() > Some(0.0)).await;
}

#[test]
fn settings_are_checked() {
    settings(&json!({}));
    for (name, value) in [
        ("max_path_bytes", json!(0)),
        ("answer_timeout_ms", json!(0)),
        ("max_connections", json!(-1)),
        ("color", json!("red")),
        (
            "request_log",
            json!({ "hot_routes": "often", "sample_every": 1 }),
        ),
        (
            "request_log",
            json!({ "hot_routes": "off", "sample_every": 0 }),
        ),
    ] {
        let refused = std::panic::catch_unwind(|| settings(&json!({ name: value })));
        assert!(refused.is_err(), "{name} = {value}");
    }
}
