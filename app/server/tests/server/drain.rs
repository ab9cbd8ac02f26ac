//! SIGTERM.

use std::io;

use crate::support::{Connection, Job, Load, Setup, names, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_stop_in_mid_load() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(folder.path());
    let domains = names(50);
    let server = setup.start();
    let load = Load::start(server.address(), 40, Job::Write, &domains);
    load.go_on_for(2_000).await;
    let log = server.stop();
    let told = log.iter().any(|line| line.contains("requested: SIGTERM"));
    assert!(told, "{log:#?}");
    let mut account = load.finish().await;
    assert!(account.acknowledged() >= 2_000);

    let server = setup.start();
    account.settle(&server).await;
    server.stop();
}

/// A request whose content has not come yet keeps its connection open while the server drains: a
/// window through which a stopping server can be asked whether it is ready.
#[tokio::test]
async fn a_stopping_server_is_not_ready_and_takes_nobody_new() {
    let server = Setup::memory().start();
    let ready = server.get("/readyz").await;
    assert_eq!((ready.status, ready.text()), (200, "ok\n"));

    let mut idle = server.connect().await;
    assert_eq!(idle.get("/livez").await.status, 200);
    let mut asking = server.connect().await;
    asking
        .send("GET /readyz HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    until(
        "it is being answered, beside the one that asks",
        async || server.metric("http_server_active_requests").await == 2,
    )
    .await;

    server.terminate();
    assert_eq!(idle.closed().await, b"");
    until("nobody is let in", async || {
        let refused = Connection::open(server.address()).await.err();
        refused.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    })
    .await;
    asking.send("0\r\n\r\n").await.unwrap();
    let answer = asking.answer().await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    let problem = answer.json();
    assert_eq!(problem["type"], "urn:catchall:problem:not-ready");
    assert_eq!(problem["errors"][0]["field"], "serving");
    assert_eq!(asking.closed().await, b"");

    let (status, log) = server.ended();
    assert_eq!(status.code(), Some(0), "{log:#?}");
}
