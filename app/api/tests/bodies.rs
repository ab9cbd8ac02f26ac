//! What a body may be: encodings and bounds.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    io::{Read, Write},
    sync::atomic::Ordering,
};

use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use support::{Running, until};

const LINES: (&str, &str) = ("Content-Type", "application/x-ndjson");
const LINE: &str = "{\"domain\":\"a.example\",\"type\":\"delivered\"}\n";

fn gzip(mut content: impl Read) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    std::io::copy(&mut content, &mut encoder).unwrap();
    encoder.finish().unwrap()
}

fn zstd(mut content: impl Read) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    std::io::copy(&mut content, &mut encoder).unwrap();
    encoder.finish().unwrap()
}

fn encoded(name: &str) -> [(&str, &str); 2] {
    [LINES, ("Content-Encoding", name)]
}

#[tokio::test(flavor = "multi_thread")]
async fn content_may_be_encoded() {
    let server = Running::start().await;
    let lines = LINE.repeat(1_000);
    let lines = lines.as_bytes();
    let mut sent = 0;
    for (name, content) in [
        ("identity", lines.to_vec()),
        ("", lines.to_vec()),
        ("gzip", gzip(lines)),
        ("X-GZIP", gzip(lines)),
        ("identity, GZip", gzip(lines)),
        ("zstd", zstd(lines)),
        // Encoded in parts.
        (
            "gzip",
            [gzip(&lines[..12_345]), gzip(&lines[12_345..])].concat(),
        ),
        (
            "zstd",
            [zstd(&lines[..12_345]), zstd(&lines[12_345..])].concat(),
        ),
    ] {
        let answer = server.post("/v1/events", &encoded(name), content).await;
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        assert_eq!(answer.json()["accepted"], 1_000);
        sent += 1_000;
        assert_eq!(server.counts("a.example").await, (sent, 0));
    }
    let names = json!({ "domains": ["a.example"] }).to_string();
    let fields = [
        ("Content-Type", "application/json"),
        ("Content-Encoding", "gzip"),
    ];
    let answer = server
        .post("/v1/domains/lookup", &fields, gzip(names.as_bytes()))
        .await;
    assert_eq!(answer.json()["domains"][0]["delivered"], sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_encodings_are_refused() {
    let server = Running::start().await;
    for name in ["br", "deflate", "gzip, gzip", "gzip, zstd", "?"] {
        let answer = server.post("/v1/events", &encoded(name), LINE).await;
        answer.problem(415, "content-encoding-not-supported");
        assert_eq!(answer.field("accept-encoding"), Some("gzip, zstd"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_as_it_is_said_to_be_is_refused() {
    let server = Running::start().await;
    for (name, whole) in [
        ("gzip", gzip(LINE.as_bytes())),
        ("zstd", zstd(LINE.as_bytes())),
    ] {
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0xff;
        let trailed = [&whole, &b"more"[..]].concat();
        for content in [
            LINE.as_bytes(),
            &whole[..whole.len() - 1],
            &whole[..3],
            &flipped,
            &trailed,
        ] {
            let answer = server.post("/v1/events", &encoded(name), content).await;
            answer.problem(400, "invalid-encoding");
        }
    }
    // A window of 128 MiB.
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(LINE.as_bytes()).unwrap();
    let content = encoder.finish().unwrap();
    let answer = server.post("/v1/events", &encoded("zstd"), content).await;
    answer.problem(400, "invalid-encoding");
    assert_eq!(server.counts("a.example").await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_stopped_at_the_limit() {
    // The sum of all bodies has room for the bomb, and for its content up to the limit: whoever
    // decodes further would be told 503 instead.
    let bounds = json!({ "max_body_bytes": 2 << 20, "max_bodies_bytes": 4 << 20 });
    let server = Running::start_with(bounds).await;
    // A gigabyte, in parts that are encoded once.
    let part = || std::io::repeat(b'\n').take(1 << 26);
    for (name, part) in [("gzip", gzip(part())), ("zstd", zstd(part()))] {
        let bomb = part.repeat(16);
        assert!(bomb.len() < 2 << 20, "{}", bomb.len());
        for _ in 0..3 {
            let answer = server.post("/v1/events", &encoded(name), &bomb).await;
            answer.problem(413, "content-too-large");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_is_exact() {
    let server = Running::start().await;
    let mut largest = LINE.repeat(1_000);
    largest.push_str(&" ".repeat(65_536 - largest.len()));
    let larger = format!("{largest} ");
    for (name, encode) in [
        (
            "identity",
            (|content| content.to_vec()) as fn(&[u8]) -> Vec<u8>,
        ),
        ("gzip", |content| gzip(content)),
        ("zstd", |content| zstd(content)),
    ] {
        let content = encode(largest.as_bytes());
        let answer = server.post("/v1/events", &encoded(name), content).await;
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        let content = encode(larger.as_bytes());
        let answer = server.post("/v1/events", &encoded(name), content).await;
        answer.problem(413, "content-too-large");
    }
    // Without a length, and as it is sent too.
    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
    let head = "POST /v1/events HTTP/1.1\r\nHost: test\r\nContent-Encoding: gzip\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    let mut connection = server.connect().await;
    connection
        .send(format!("{head}{chunk}{chunk}1\r\nx\r\n"))
        .await;
    let answer = connection.answer(false).await;
    answer.problem(413, "content-too-large");
    assert_eq!(connection.closed().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_arrives_in_any_pieces_and_in_time() {
    let server = Running::start().await;
    let head = "POST /v1/events HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-ndjson\r\n";
    let mut connection = server.connect().await;
    connection
        .send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"))
        .await;
    for piece in LINE.as_bytes().chunks(7) {
        connection.send(format!("{:x}\r\n", piece.len())).await;
        connection.send(piece).await;
        connection.send("\r\n").await;
    }
    connection.send("0\r\n\r\n").await;
    assert_eq!(connection.answer(false).await.json()["accepted"], 1);
    assert_eq!(connection.ask("GET", "/livez", &[]).await.status, 200);

    let mut connection = server.connect().await;
    connection
        .send(format!(
            "{head}Transfer-Encoding: chunked\r\n\r\nno number\r\n"
        ))
        .await;
    connection
        .answer(false)
        .await
        .problem(400, "invalid-content");
    connection.closed().await;
    assert_eq!(server.counts("a.example").await, (1, 0));

    let server = Running::start_with(json!({ "read_timeout_ms": 200 })).await;
    let mut connection = server.connect_past_its_first_head().await;
    connection
        .send(format!("{head}Content-Length: 100\r\n\r\n{LINE}"))
        .await;
    let answer = connection.answer(false).await;
    answer.problem(408, "read-timeout");
    assert_eq!(answer.field("connection"), Some("close"));
    connection.closed().await;
    assert!(server.store.groups.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_bodies_together_have_a_bound() {
    // Room for two: a buffer is never smaller.
    let bounds = json!({ "max_body_bytes": 16_384, "max_bodies_bytes": 32_768 });
    let server = Running::start_with(bounds).await;
    let held = "{\"domain\":\"held.example\",\"type\":\"delivered\"}\n";
    let head = "POST /v1/events HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-ndjson\r\n";
    let mut holders = [server.connect().await, server.connect().await];
    for holder in &mut holders {
        let length = held.len();
        holder
            .send(format!("{head}Content-Length: {length}\r\n\r\n{held}"))
            .await;
    }
    until("both are held", || {
        server.store.held.load(Ordering::SeqCst) == 2
    })
    .await;

    for _ in 0..3 {
        let answer = server.post("/v1/events", &[LINES], LINE).await;
        answer.problem(503, "overloaded");
    }
    // Others take no body.
    let answer = server.ask("PUT", "/v1/events/b.example/delivered").await;
    assert_eq!(answer.status, 204);

    server.store.release.add_permits(2);
    for holder in &mut holders {
        assert_eq!(holder.answer(false).await.status, 200);
    }
    // What was held is given back, and so is what was refused on the way.
    for _ in 0..3 {
        let answer = server.post("/v1/events", &[LINES], LINE).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = server
            .post("/v1/events", &[LINES], "x".repeat(16_385))
            .await;
        answer.problem(413, "content-too-large");
        let answer = server.post("/v1/events", &[LINES], "x").await;
        answer.problem(422, "invalid-events");
        let answer = server.post("/v1/events?x", &[LINES], LINE).await;
        answer.problem(400, "invalid-query");
        let answer = server.post("/v1/events", &encoded("gzip"), LINE).await;
        answer.problem(400, "invalid-encoding");
    }
    assert_eq!(server.counts("a.example").await, (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_to_be_recorded_takes_room_also_when_nobody_waits_for_it() {
    let bounds = json!({
        "max_body_bytes": 16_384, "max_bodies_bytes": 32_768, "answer_timeout_ms": 300,
    });
    let server = Running::start_with(bounds).await;
    let held = "{\"domain\":\"held.example\",\"type\":\"delivered\"}\n";
    for _ in 0..2 {
        let answer = server.post("/v1/events", &[LINES], held).await;
        answer.problem(503, "answer-timeout");
    }
    assert_eq!(server.store.held.load(Ordering::SeqCst), 2);
    let answer = server.post("/v1/events", &[LINES], LINE).await;
    answer.problem(503, "overloaded");

    // The reading waits there too.
    server.store.release.add_permits(3);
    room_for_a_body(&server).await;
    assert_eq!(server.counts("held.example").await, (2, 0));
}

/// Until there is room for a body.
async fn room_for_a_body(server: &Running) {
    while server.post("/v1/events", &[LINES], LINE).await.status == 503 {
        tokio::task::yield_now().await;
    }
}
