//! A server that is stopped and started again goes on as if nothing had been.

use std::collections::BTreeMap;

use foundation::testing::Postgres;
use serde_json::Value;

use crate::support::{Connection, Job, Load, Server, Setup, names};

async fn nothing_is_lost(setup: Setup) {
    let domains = names(300);
    let server = setup.start();
    let load = Load::start(server.address(), 16, Job::Write, &domains);
    load.go_on_for(4_000).await;
    let mut account = load.finish().await;
    assert_eq!(account.unanswered(), 0);
    account.settle(&server).await;
    let before = whole(&server).await;
    assert_eq!(before.domains.len(), 300);

    let mut listed = BTreeMap::new();
    let next = page(&mut server.connect().await, "", &mut listed).await;
    assert_eq!(listed.len(), 70);
    server.stop();

    let server = setup.start();
    assert_eq!(whole(&server).await, before);
    account.settle(&server).await;

    // The list that was begun before goes on here, and again each domain stands in it once.
    let mut next = next;
    let mut connection = server.connect().await;
    while let Some(cursor) = next {
        next = page(&mut connection, &format!("&cursor={cursor}"), &mut listed).await;
    }
    assert_eq!(listed, before.domains);

    let load = Load::start(server.address(), 16, Job::Write, &domains);
    load.go_on_for(1_000).await;
    account.add(&load.finish().await);
    account.settle(&server).await;
    server.stop();
}

/// All that a server tells of its domains.
#[derive(PartialEq, Debug)]
struct Whole {
    domains: BTreeMap<String, Value>,
    sums: [Value; 2],
}

async fn whole(server: &Server) -> Whole {
    let mut domains = BTreeMap::new();
    let mut connection = server.connect().await;
    let mut next = page(&mut connection, "", &mut domains).await;
    while let Some(cursor) = next {
        next = page(&mut connection, &format!("&cursor={cursor}"), &mut domains).await;
    }
    let stats = connection.json("/v1/stats").await;
    Whole {
        domains,
        sums: [stats["domains"].clone(), stats["events"].clone()],
    }
}

/// Adds the next 70 domains, of which none may be there yet, and gives the cursor.
async fn page(
    connection: &mut Connection,
    cursor: &str,
    domains: &mut BTreeMap<String, Value>,
) -> Option<String> {
    let page = connection
        .json(&format!("/v1/domains?limit=70{cursor}"))
        .await;
    for domain in page["domains"].as_array().unwrap() {
        let name = domain["domain"].as_str().unwrap().to_owned();
        let listed = domains.insert(name, domain.clone());
        assert_eq!(listed, None, "listed twice");
    }
    page["next"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded() {
    let folder = tempfile::tempdir().unwrap();
    nothing_is_lost(Setup::embedded(folder.path())).await;
}

/// The same, with files so small that most of it comes from a snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_with_snapshots() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(folder.path())
        .set("store.embedded.segment_bytes", 4_096)
        .set("store.embedded.snapshot_after_bytes", 16_384);
    nothing_is_lost(setup).await;
    let mut files = std::fs::read_dir(folder.path()).unwrap();
    let is_snapshot = |name: &str| name.starts_with("snapshot-");
    assert!(files.any(|file| is_snapshot(file.unwrap().file_name().to_str().unwrap())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres() {
    nothing_is_lost(Setup::postgres(&Postgres::shared().create_database())).await;
}
