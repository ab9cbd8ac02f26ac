//! Answers that go on: the numbers of the server, and the tail of its events.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use serde_json::Value;
use support::{DEADLINE, Running};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A stream of Server-Sent Events.
struct Events {
    stream: TcpStream,
    read: String,
}

impl Events {
    async fn open(server: &Running, target: &str) -> Self {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut events = Self {
            stream,
            read: String::new(),
        };
        let head = events.until("\r\n\r\n").await.unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        for field in ["content-type: text/event-stream", "cache-control: no-store"] {
            assert!(head.contains(field), "{head}");
        }
        events
    }

    /// Up to this text; `None` at the end.
    async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.read.find(end) {
                let rest = self.read.split_off(at + end.len());
                return Some(std::mem::replace(&mut self.read, rest));
            }
            let mut bytes = [0; 4_096];
            let read = timeout(DEADLINE, self.stream.read(&mut bytes));
            let read = read.await.unwrap().unwrap_or(0);
            if read == 0 {
                return None;
            }
            self.read += std::str::from_utf8(&bytes[..read]).unwrap();
        }
    }

    /// The data of the next event of this name.
    async fn next(&mut self, name: &str) -> Option<Value> {
        loop {
            let event = self.until("\n\n").await?;
            let Some((_, data)) = event.split_once(&format!("event: {name}\ndata: ")) else {
                continue;
            };
            return Some(serde_json::from_str(data.trim()).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_watch_get_the_numbers_of_each_second() {
    let server = Running::start().await;
    let mut one = Events::open(&server, "/v1/stats/live").await;
    let first = one.next("stats").await.unwrap();
    assert_eq!(first["per_s"], Value::Null, "{first}");
    let mut other = Events::open(&server, "/v1/stats/live").await;
    for events in [&mut one, &mut other] {
        let began = std::time::Instant::now();
        loop {
            assert!(began.elapsed() < DEADLINE, "nothing is counted");
            let put = server.ask("PUT", "/v1/events/a.example/delivered").await;
            assert_eq!(put.status, 204);
            let now = events.next("stats").await.unwrap();
            if now["per_s"]["counted"].as_f64() > Some(0.0) {
                assert!(now["latency_ms"]["p99"].as_f64() > Some(0.0), "{now}");
                assert_eq!(now["domains"]["total"], 1, "{now}");
                assert!(now["events"]["delivered"].as_u64() > Some(0), "{now}");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_is_told_with_what_became_of_it() {
    let server = Running::start().await;
    let mut all = Events::open(&server, "/v1/events/tail?per_s=1000").await;
    let mut one = Events::open(&server, "/v1/events/tail?domain=B.example.").await;
    // Both are there once they are told something.
    all.next("skipped").await.unwrap();
    one.next("skipped").await.unwrap();
    for domain in ["a", "b"] {
        let target = format!("/v1/events/{domain}.example/bounced");
        assert_eq!(server.ask("PUT", &target).await.status, 204);
    }
    for (domain, all_are_told) in [("a", true), ("b", true), ("b", false)] {
        let events = if all_are_told { &mut all } else { &mut one };
        let told = events.next("event").await.unwrap();
        assert_eq!(told["domain"], format!("{domain}.example"));
        assert_eq!(
            (&told["delivered"], &told["bounced"], &told["outcome"]),
            (&0.into(), &1.into(), &"counted".into())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_is_wrong_and_one_stream_too_many_are_refused() {
    let server = Running::start().await;
    for (query, field) in [
        ("per_s=0", "per_s"),
        ("per_s=1001", "per_s"),
        ("domain=..", "domain"),
        ("kind=bounced", "kind"),
        ("per_s=1&per_s=2", "per_s"),
    ] {
        let answer = server.ask("GET", &format!("/v1/events/tail?{query}")).await;
        let problem = answer.problem(400, "invalid-query");
        assert_eq!(problem["errors"][0]["field"], field, "{query}");
    }
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(Events::open(&server, "/v1/events/tail").await);
    }
    let refused = server.ask("GET", "/v1/stats/live").await;
    refused.problem(503, "overloaded");
    // Once one has left, another may come.
    open.pop();
    let began = std::time::Instant::now();
    loop {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = "GET /v1/stats/live HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        if status.ends_with(b"200") {
            break;
        }
        assert!(began.elapsed() < DEADLINE, "nobody is let in");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_ends_them() {
    let mut server = Running::start().await;
    let mut live = Events::open(&server, "/v1/stats/live").await;
    let mut tail = Events::open(&server, "/v1/events/tail").await;
    live.next("stats").await.unwrap();
    server.stop();
    while live.next("stats").await.is_some() {}
    while tail.next("skipped").await.is_some() {}
    server.stopped().await.unwrap();
}
