//! How requests fail: every problem there is, over a real socket.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::atomic::Ordering;

use serde_json::json;
use support::{Running, store::SECRET};

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_store_is_told_apart_and_nothing_internal_is_told() {
    let server = Running::start().await;
    for (name, status, slug) in [
        ("unavailable.example", 503, "unavailable"),
        ("overloaded.example", 503, "overloaded"),
        ("ambiguous.example", 503, "outcome-unknown"),
        ("corrupt.example", 500, "internal"),
        ("unexpected.example", 500, "internal"),
        ("panic.example", 500, "internal"),
    ] {
        for (method, target) in [
            ("PUT", format!("/v1/events/{name}/delivered")),
            ("PUT", format!("/v1/events/{name}/bounced")),
            ("GET", format!("/v1/domains/{name}")),
            ("GET", format!("/v1/domain/{name}")),
        ] {
            let answer = server.ask(method, &target).await;
            let problem = answer.problem(status, slug);
            assert!(!answer.text().contains(SECRET) && !answer.text().contains("record"));
            if slug == "outcome-unknown" {
                assert!(
                    problem["detail"]
                        .as_str()
                        .unwrap()
                        .contains("may have been counted")
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_costs_neither_the_connection_nor_the_server() {
    let server = Running::start().await;
    let mut connection = server.connect().await;
    for _ in 0..3 {
        let answer = connection
            .ask("PUT", "/v1/events/panic.example/delivered", &[])
            .await;
        answer.problem(500, "internal");
        let answer = connection
            .ask("PUT", "/v1/events/a.example/delivered", &[])
            .await;
        assert_eq!(answer.status, 204);
    }
    assert_eq!(server.metric("http_server_active_requests"), Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_and_methods() {
    let server = Running::start().await;
    for target in [
        "/v1",
        "/v1/",
        "/v1/domains/",
        "/v1/domains/a/b",
        "/v1/events/a.example",
        "/v1/domain",
        "/v1/events//delivered",
        "/v1/events/a.example/delivered/",
        "/v2/stats",
        "//v1/stats",
        "/v1/events/a/b/delivered",
        "/nowhere?x=1",
        "/V1/stats",
        "/v1%2Fstats",
    ] {
        for method in ["GET", "PUT", "BREW"] {
            server.ask(method, target).await.problem(404, "not-found");
        }
    }
    server.ask("OPTIONS", "*").await.problem(404, "not-found");

    let description = server.ask("GET", "/openapi.json").await.json();
    for (path, item) in description["paths"].as_object().unwrap() {
        let target = path
            .replace("{domain}", "a.example")
            .replace("{file}", "index.html");
        let allow = match path.as_str() {
            "/v1/events" => "POST",
            // It may be a domain like any other, too.
            "/v1/domains/lookup" => "GET, HEAD, POST",
            _ if item.get("get").is_some() => "GET, HEAD",
            _ => "PUT",
        };
        for method in ["POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            if item.get(method.to_lowercase()).is_some() {
                continue;
            }
            let answer = server.ask(method, &target).await;
            answer.problem(405, "method-not-allowed");
            assert_eq!(answer.field("allow"), Some(allow), "{method} {target}");
        }
    }
    server
        .ask("GET", "/v1/events/a.example/delivered")
        .await
        .problem(405, "method-not-allowed");
    server
        .ask("PUT", "/v1/stats")
        .await
        .problem(405, "method-not-allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_have_limits() {
    let server = Running::start().await;
    let longest = format!("/v1/domains/{}", "a".repeat(2048 - "/v1/domains/".len()));
    server
        .ask("GET", &longest)
        .await
        .problem(400, "invalid-domain");
    server
        .ask("GET", &format!("{longest}a"))
        .await
        .problem(414, "path-too-long");
    server
        .ask("GET", &format!("/{}", "a".repeat(20_000)))
        .await
        .problem(414, "path-too-long");

    // The query counts for the head, not for the path.
    let query = format!("/livez?{}", "q".repeat(3_000));
    assert_eq!(server.ask("GET", &query).await.status, 200);
    let frame = "GET /livez HTTP/1.1\r\nHost: test\r\nX: \r\n\r\n".len();
    let field = "x".repeat(16_384 - frame);
    assert_eq!(
        server
            .ask_with("GET", "/livez", &[("X", &field)])
            .await
            .status,
        200
    );
    let field = format!("{field}x");
    let answer = server.ask_with("GET", "/livez", &[("X", &field)]).await;
    answer.problem(431, "head-too-large");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_gets_a_bare_status() {
    let server = Running::start().await;
    for bytes in [
        &b"GET /livez HTTP/1.1\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\nHost: test\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: x\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: test\r\n\r\n",
    ] {
        let mut connection = server.connect().await;
        connection.send(bytes).await;
        let answer = connection.answer(false).await;
        assert_eq!((answer.status, answer.body.len()), (400, 0), "{bytes:?}");
    }
    let mut connection = server.connect().await;
    connection.send("GET / HTTP/1.1\r\nHost: test\r\nX: ").await;
    connection.send("x".repeat(200_000)).await;
    let answer = connection.answer(false).await;
    assert_eq!((answer.status, answer.body.len()), (431, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_must_arrive_in_time() {
    let server = Running::start_with(json!({ "read_timeout_ms": 100 })).await;
    let mut connection = server.connect().await;
    connection.send("GET /livez HT").await;
    let answer = connection.answer(false).await;
    assert_eq!((answer.status, answer.body.len()), (408, 0));
    connection.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_must_come_in_time() {
    let server = Running::start_with(json!({ "answer_timeout_ms": 100 })).await;
    let mut connection = server.connect().await;
    let answer = connection
        .ask("PUT", "/v1/events/silent.example/delivered", &[])
        .await;
    let problem = answer.problem(503, "answer-timeout");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("may still be counted")
    );
    assert!(server.store.cancelled.load(Ordering::SeqCst));
    assert_eq!(connection.ask("GET", "/livez", &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_names_its_request() {
    let server = Running::start().await;
    for (method, target, status) in [
        ("PUT", "/v1/events/a.example/delivered", 204),
        ("GET", "/livez", 200),
        ("GET", "/nowhere", 404),
        ("DELETE", "/livez", 405),
        ("GET", "/v1/domain/panic.example", 500),
        ("GET", "/docs", 302),
    ] {
        let answer = server
            .ask_with(method, target, &[("X-Request-Id", "it-is/me")])
            .await;
        assert_eq!(
            (answer.status, answer.field("x-request-id")),
            (status, Some("it-is/me"))
        );

        let new = server
            .ask(method, target)
            .await
            .field("x-request-id")
            .unwrap()
            .to_owned();
        let other = server
            .ask(method, target)
            .await
            .field("x-request-id")
            .unwrap()
            .to_owned();
        assert!(new.len() == 32 && new != other, "{new}");

        let long = "x".repeat(129);
        for refused in ["", "two words", &long, "b\u{fc}"] {
            let answer = server
                .ask_with(method, target, &[("X-Request-Id", refused)])
                .await;
            assert_eq!(answer.field("x-request-id").unwrap().len(), 32, "{refused}");
        }
    }
    let answer = server
        .ask_with("GET", "/nowhere", &[("X-Request-Id", "a\"<b>")])
        .await;
    assert_eq!(
        answer.json()["instance"],
        "urn:catchall:request:a%22%3Cb%3E"
    );
}
