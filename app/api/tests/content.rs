//! The content of requests that take none.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::json;
use support::{Connection, Running};

const PUT: &str = "PUT /v1/events/a.example/delivered HTTP/1.1\r\nHost: test\r\n";

/// Sends a PUT with these fields and this content, and checks that the connection goes on.
async fn put(server: &Running, rest: &str) -> support::Response {
    let mut connection = server.connect().await;
    connection.send(format!("{PUT}{rest}")).await;
    let answer = connection.answer(false).await;
    assert_eq!(
        connection.ask("GET", "/livez", &[]).await.status,
        200,
        "{rest}"
    );
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn none_is_fine_however_it_is_said() {
    let server = Running::start().await;
    for rest in [
        "\r\n",
        "Content-Length: 0\r\n\r\n",
        "Content-Type: application/json\r\n\r\n",
        "Content-Type: text/plain\r\nContent-Length: 0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Type: x/y\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        assert_eq!(put(&server, rest).await.status, 204, "{rest}");
    }
    assert_eq!(server.metric(&events("counted")), Some(6.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_is_refused_and_nothing_is_counted() {
    let server = Running::start().await;
    for rest in [
        "Content-Length: 2\r\n\r\n{}",
        "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ] {
        put(&server, rest)
            .await
            .problem(415, "content-not-supported");
    }
    let whole = format!("Content-Length: 65536\r\n\r\n{}", "x".repeat(65_536));
    put(&server, &whole)
        .await
        .problem(415, "content-not-supported");
    assert_eq!(server.metric(&events("refused")), Some(4.0));
    assert_eq!(server.metric(&events("counted")), Some(0.0));
    let answer = server.ask("GET", "/v1/domains/a.example").await.json();
    assert_eq!(answer["delivered"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_path_or_method_is_told_first() {
    let server = Running::start().await;
    for (line, status, slug) in [
        ("POST /nowhere", 404, "not-found"),
        (
            "POST /v1/events/a.example/delivered",
            405,
            "method-not-allowed",
        ),
        ("GET /livez", 415, "content-not-supported"),
    ] {
        let mut connection = server.connect().await;
        let request = format!("{line} HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n{{}}");
        connection.send(request).await;
        connection.answer(false).await.problem(status, slug);
        assert_eq!(connection.ask("GET", "/livez", &[]).await.status, 200);
    }
}

/// Checks that the answer is a problem and the connection closed behind it.
async fn refused_and_closed(connection: &mut Connection, status: u16, slug: &str) {
    let answer = connection.answer(false).await;
    answer.problem(status, slug);
    assert_eq!(answer.field("connection"), Some("close"));
    assert_eq!(connection.closed().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_refused_before_it_is_read() {
    let server = Running::start().await;
    let mut connection = server.connect().await;
    connection
        .send(format!("{PUT}Content-Length: 65537\r\n\r\n"))
        .await;
    refused_and_closed(&mut connection, 413, "content-too-large").await;

    let mut connection = server.connect().await;
    connection
        .send(format!("{PUT}Content-Length: 18446744073709551615\r\n\r\n"))
        .await;
    refused_and_closed(&mut connection, 413, "content-too-large").await;

    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
    let mut connection = server.connect().await;
    connection
        .send(format!(
            "{PUT}Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}1\r\nx\r\n"
        ))
        .await;
    refused_and_closed(&mut connection, 413, "content-too-large").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_is_answered_in_time_and_closed() {
    let server = Running::start_with(json!({ "read_timeout_ms": 200 })).await;
    for rest in [
        "Content-Length: 10\r\n\r\nhalf",
        "Content-Length: 10\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n8\r\nhalf",
        "Transfer-Encoding: chunked\r\n\r\n",
    ] {
        let mut connection = server.connect_past_its_first_head().await;
        connection.send(format!("{PUT}{rest}")).await;
        refused_and_closed(&mut connection, 408, "read-timeout").await;
    }
    assert_eq!(server.metric(&events("refused")), Some(4.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_chunks_are_refused() {
    let server = Running::start().await;
    let mut connection = server.connect().await;
    connection
        .send(format!(
            "{PUT}Transfer-Encoding: chunked\r\n\r\nno number\r\n"
        ))
        .await;
    let answer = connection.answer(false).await;
    answer.problem(400, "invalid-content");
    assert_eq!(answer.field("connection"), Some("close"));
    connection.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_head_does_not_read_on_for_ever() {
    let server = Running::start().await;
    let mut connection = server.connect().await;
    let path = "a".repeat(3_000);
    let head = format!("PUT /{path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    connection.send(head).await;
    refused_and_closed(&mut connection, 414, "path-too-long").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_not_content() {
    let server = Running::start().await;
    let mut connection = server.connect().await;
    connection
        .send(format!(
            "{PUT}Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        ))
        .await;
    assert_eq!(connection.answer(false).await.status, 204);
    connection.closed().await;
}

fn events(outcome: &str) -> String {
    format!("catchall_events_total{{kind=\"delivered\",outcome=\"{outcome}\"}}")
}
