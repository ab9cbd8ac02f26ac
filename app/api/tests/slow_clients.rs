//! Clients that send and read as slowly as they like, and honest ones that only take their time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use serde_json::json;
use support::{Connection, DEADLINE, Running, until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// The timeout in question, and a second for whoever enforces it.
const TIMEOUT: Duration = Duration::from_secs(1);
const CUT_BEFORE: Duration = Duration::from_secs(2);

async fn running() -> Running {
    let timeout = json!(TIMEOUT.as_millis());
    Running::start_with(json!({ "read_timeout_ms": timeout, "write_timeout_ms": timeout })).await
}

/// A connection with one request behind it.
async fn used(server: &Running) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok\n") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
    }
    stream
}

/// Sends this, and then bytes of a field without an end, if it drips. Says after how long the server
/// hung up.
async fn sends(stream: TcpStream, head: &str, drips: bool) -> Duration {
    let (mut from, mut to) = stream.into_split();
    let started = Instant::now();
    to.write_all(head.as_bytes()).await.unwrap();
    let dripping = async {
        while drips && to.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    tokio::select! {
        // Reset or closed, it is all the same.
        _ = timeout(DEADLINE, from.read_to_end(&mut answer)) => {}
        () = dripping => {}
    }
    assert_eq!(answer, b"");
    started.elapsed()
}

/// On a busy machine one may be late; a deadline that does not work makes all of them late.
async fn cut_in_time(server: &Running, head: &str, drips: bool) {
    let mut took = Vec::new();
    for _ in 0..3 {
        took.push(sends(used(server).await, head, drips).await);
        assert!(took.iter().all(|took| *took >= TIMEOUT), "{took:?}");
        if took.last() < Some(&CUT_BEFORE) {
            return;
        }
    }
    panic!("{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_head_that_drips_is_cut() {
    cut_in_time(&running().await, "GET /livez HTTP/1.1\r\nX-Slow: ", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_head_that_stops_in_the_middle_is_cut() {
    cut_in_time(&running().await, "GET /livez HTTP/1.1\r\nHo", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_waits_between_requests_is_not_cut() {
    let server = running().await;
    let mut connection = server.connect_past_its_first_head().await;
    for _ in 0..2 {
        sleep(TIMEOUT * 2).await;
        let answer = connection.ask("GET", "/livez", &[]).await;
        assert_eq!(answer.status, 200);
        // One with a body is between requests behind it too.
        let answer = connection.post("/v1/events", &[], "").await;
        assert_eq!(answer.status, 415, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_an_answer_is_not_cut() {
    let server = running().await;
    let mut connection = server.connect_past_its_first_head().await;
    // The next one stands behind it already.
    connection
        .send(
            "PUT /v1/events/held.example/delivered HTTP/1.1\r\nHost: test\r\n\r\n\
             GET /livez HTTP/1.1\r\nHost: test\r\n\r\n",
        )
        .await;
    until("the event is being written", || {
        server.store.held.load(Ordering::SeqCst) == 1
    })
    .await;
    sleep(TIMEOUT * 2).await;
    server.store.release.add_permits(1);
    assert_eq!(connection.answer(false).await.status, 204);
    assert_eq!(connection.answer(false).await.status, 200);
}

/// More than the buffers of a connection hold.
const LARGE: &str = "GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: test\r\n\r\n";
const TIMES: usize = 16;

async fn large(server: &Running) -> usize {
    let mut connection: Connection = server.connect().await;
    connection.send(LARGE).await;
    let answer = connection.answer(false).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.len() > 1 << 20, "{}", answer.body.len());
    answer.body.len()
}

/// Whether the server's end of this connection is open.
fn is_open(server: SocketAddr, client: SocketAddr) -> bool {
    let hex = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
    let wanted = format!(" {} {} 01 ", hex(server), hex(client));
    fs::read_to_string("/proc/self/net/tcp")
        .unwrap()
        .contains(&wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_reads_is_cut() {
    let server = running().await;
    let length = large(&server).await;
    let mut took = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let client = stream.local_addr().unwrap();
        let started = Instant::now();
        stream
            .write_all(LARGE.repeat(TIMES).as_bytes())
            .await
            .unwrap();
        assert!(is_open(server.address, client));
        until("it is cut", || !is_open(server.address, client)).await;
        took.push(started.elapsed());
        let mut read = Vec::new();
        let _ = stream.read_to_end(&mut read).await;
        assert!(read.len() < length * TIMES, "all of it was sent");
        assert!(took.iter().all(|took| *took >= TIMEOUT), "{took:?}");
        if took.last() < Some(&CUT_BEFORE) {
            return;
        }
    }
    panic!("{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_read_slowly_is_read_to_its_end() {
    let server = running().await;
    let length = large(&server).await;
    let mut stream = used(&server).await;
    stream
        .write_all(LARGE.repeat(TIMES).as_bytes())
        .await
        .unwrap();
    let (mut read, started) = (0, Instant::now());
    let mut buffer = vec![0; 256 << 10];
    while read < length * TIMES {
        let some = timeout(DEADLINE, stream.read(&mut buffer)).await.unwrap();
        let some = some.unwrap();
        assert!(some > 0, "cut after {read} bytes, {:?}", started.elapsed());
        read += some;
        sleep(Duration::from_millis(25)).await;
    }
    assert!(started.elapsed() > TIMEOUT * 2, "{:?}", started.elapsed());
}
