//! Wrong requests, as bytes. Each gets exactly its answer, and none changes anything.

mod requests;

use std::{net::SocketAddr, path::Path};

use serde_json::Value;
use tokio::task::JoinSet;

use self::requests::{
    Case,
    Expect::{self, Allow, Bare, Problem},
    MAX_BODY, contents, domains, halves, heads, methods, paths, queries,
};
use crate::support::{Connection, Kind, Server, Setup, names};

/// What was wrong with the answer to a case, if anything was.
async fn tried(address: SocketAddr, (bytes, expect): Case) -> Option<String> {
    let connection = Connection::open(address).await.unwrap();
    judged(connection, &bytes, expect).await
}

/// The same for one that stops in the middle.
async fn stopped(address: SocketAddr, (bytes, expect): Case) -> Option<String> {
    let connection = match expect {
        Bare(_) => Connection::open(address).await.unwrap(),
        _ => past_its_first_head(address).await,
    };
    judged(connection, &bytes, expect).await
}

async fn judged(mut connection: Connection, bytes: &[u8], expect: Expect) -> Option<String> {
    let wrong = answered(&mut connection, bytes, expect).await.err()?;
    let sent = bytes.get(..200).unwrap_or(bytes).escape_ascii();
    Some(format!("{sent}\n  expected {expect:?}\n  got {wrong}"))
}

async fn answered(connection: &mut Connection, bytes: &[u8], expect: Expect) -> Result<(), String> {
    // A server that has read enough may hang up before it has all.
    let _ = connection.send(bytes).await;
    let answer = match bytes.starts_with(b"HEAD ") {
        true => connection.head().await.map(|(answer, _)| answer),
        false => connection.answer().await,
    };
    let answer = answer.map_err(|error| error.to_string())?;
    let problem = || serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
    let is = |status: u16, slug: &str| {
        answer.status == status
            && answer.field("content-type") == Some("application/problem+json")
            && (bytes.starts_with(b"HEAD ")
                || problem()["type"] == format!("urn:catchall:problem:{slug}"))
    };
    let right = match expect {
        Problem(status, slug) => is(status, slug),
        Allow(methods) => is(405, "method-not-allowed") && answer.field("allow") == Some(methods),
        Bare(status) => answer.status == status && answer.body.is_empty(),
    };
    if !right {
        return Err(format!("{answer:?}"));
    }
    let closed = matches!(expect, Bare(_) | Problem(408 | 413, _));
    if closed && connection.closed().await != b"" {
        return Err("there is more".into());
    }
    Ok(())
}

/// Sends each of them over a connection of its own, and checks that nothing has changed in the end.
async fn all_are_refused(cases: Vec<Case>) {
    let (all, mut wrong) = (cases.len(), Vec::new());
    nothing_changes(Setup::embedded, async |server| {
        let tries = cases.into_iter().map(|case| tried(server.address(), case));
        let tries: JoinSet<_> = tries.collect();
        wrong.extend(tries.join_all().await.into_iter().flatten());
    })
    .await;
    assert!(
        wrong.is_empty(),
        "{} of {all}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Checks that a server tells the same before and after, and has logged no error.
async fn nothing_changes(setup: impl Fn(&Path) -> Setup, sent: impl AsyncFnOnce(&Server)) {
    let folder = tempfile::tempdir().unwrap();
    let setup = setup(folder.path()).set("http.max_body_bytes", MAX_BODY);
    let server = setup.start();
    let mut connection = server.connect().await;
    for domain in names(3) {
        connection.put(&domain, Kind::Bounced).await.unwrap();
    }
    let before = told(&server).await;
    sent(&server).await;
    assert_eq!(told(&server).await, before);
    let log = server.stop();
    let errors: Vec<_> = log
        .iter()
        .filter(|line| line.contains("\"ERROR\""))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// All that could have changed.
async fn told(server: &Server) -> [Value; 3] {
    let stats = server.json("/v1/stats").await;
    let list = server.json("/v1/domains?limit=1000").await;
    [stats["domains"].clone(), stats["events"].clone(), list]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_domain() {
    all_are_refused(domains()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_paths_methods_and_queries() {
    all_are_refused([paths(), methods(), queries()].concat()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_heads_and_contents() {
    all_are_refused([heads(), contents()].concat()).await;
}

/// What stops in the middle is answered in time, and the connection closed.
#[tokio::test]
async fn half_a_request() {
    // Not much less, for the HTTP server's own clock is up to half a second late.
    let setup = |folder: &Path| Setup::embedded(folder).set("http.read_timeout_ms", 1_000);
    nothing_changes(setup, async |server| {
        let address = server.address();
        let tries: JoinSet<_> = halves()
            .into_iter()
            .map(|half| stopped(address, half))
            .collect();
        let wrong: Vec<_> = tries.join_all().await.into_iter().flatten().collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}

/// A connection on which only the content is waited for impatiently: a busy machine may be too
/// slow for a first head.
async fn past_its_first_head(address: SocketAddr) -> Connection {
    loop {
        let mut connection = Connection::open(address).await.unwrap();
        if connection.get("/livez").await.status == 200 {
            return connection;
        }
    }
}
