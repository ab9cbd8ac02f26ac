//! A second store is kept beside the first, so that one can move to it.

use std::path::Path;

use foundation::testing::Postgres;
use serde_json::Value;

use crate::support::{Job, Load, Server, Setup, names, until};

const IN_STEP: &str = "catchall_shadow_in_step";
const COMPARED: &str = "catchall_shadow_compared_total";
const DIFFERENCES: &str = "catchall_shadow_differences_total";

/// The embedded store, with PostgreSQL beside it.
fn moving(folder: &Path, url: &str) -> Setup {
    Setup::embedded(folder)
        .set("store.postgres.url", url)
        .set("store.shadow.kind", "postgres")
        .set("store.shadow.compared_per_s", 200)
}

/// Its domains, sorted, and its sums.
async fn all_of(server: &Server) -> (Vec<Value>, [Value; 2]) {
    let list = server.json("/v1/domains?limit=1000").await;
    let mut domains = list["domains"].as_array().unwrap().clone();
    domains.sort_by_key(|domain| domain["domain"].as_str().unwrap().to_owned());
    let stats = server.json("/v1/stats").await;
    (domains, [stats["events"].clone(), stats["domains"].clone()])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_moves_to_postgres_and_back_and_all_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let url = Postgres::shared().create_database();
    let domains = names(300);
    // Before there is a shadow.
    let server = Setup::embedded(folder.path()).start();
    let load = Load::start(server.address(), 8, Job::Write, &domains);
    load.go_on_for(2_000).await;
    let mut account = load.finish().await;
    server.stop();

    let server = moving(folder.path(), &url).start();
    let load = Load::start(server.address(), 8, Job::Write, &domains);
    until("domains are compared", async || {
        server.metric(COMPARED).await > 100
    })
    .await;
    account.add(&load.finish().await);
    account.settle(&server).await;
    assert_eq!(server.metric(DIFFERENCES).await, 0);
    assert_eq!(server.metric(IN_STEP).await, 1);
    let before = all_of(&server).await;
    let log = server.stop();
    assert!(log.concat().contains("the shadow has all"), "{log:#?}");

    // The other way round: what was the shadow is the store.
    let back = moving(folder.path(), &url)
        .set("store.kind", "postgres")
        .set("store.shadow.kind", "embedded");
    let server = back.start();
    assert!(!server.log().concat().contains("was behind"));
    assert_eq!(all_of(&server).await, before);
    let load = Load::start(server.address(), 8, Job::Write, &domains);
    until("domains are compared", async || {
        server.metric(COMPARED).await > 100
    })
    .await;
    account.add(&load.finish().await);
    account.settle(&server).await;
    assert_eq!(server.metric(DIFFERENCES).await, 0);
    assert_eq!(server.metric(IN_STEP).await, 1);
    let before = all_of(&server).await;
    server.stop();

    let server = Setup::embedded(folder.path()).start();
    assert_eq!(all_of(&server).await, before);
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_shadow_holds_up_nobody_and_is_caught_up_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start();
    let setup =
        moving(folder.path(), &postgres.url("postgres")).set("store.shadow.queue_capacity", 2_000);
    let domains = names(300);
    let server = setup.start();
    let load = Load::start(server.address(), 8, Job::Write, &domains);
    load.go_on_for(500).await;
    postgres.freeze();
    load.go_on_for(500).await;
    // Nothing but success is answered while the queue fills, and when it is full.
    until("it is out of step", async || {
        server.metric(IN_STEP).await == 0
    })
    .await;
    load.go_on_for(2_000).await;
    until("what waited is gone", async || {
        server.metric("catchall_shadow_queue_depth").await == 0
    })
    .await;
    assert_eq!(server.get("/readyz").await.status, 200);
    let mut account = load.finish().await;
    account.settle(&server).await;
    let before = all_of(&server).await;
    // Nor does it hold up the end.
    let log = server.stop().concat();
    assert!(log.contains("the shadow is out of step"), "{log}");

    postgres.thaw();
    let server = setup.start();
    let log = server.log().concat();
    assert!(log.contains("the shadow was behind"), "{log}");
    assert_eq!(server.metric(IN_STEP).await, 1);
    server.stop();
    let server = Setup::postgres(&postgres.url("postgres")).start();
    assert_eq!(all_of(&server).await, before);
    server.stop();
}

/// What waited for the shadow dies with the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_killed_brings_its_shadow_in_step() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start();
    let setup = moving(folder.path(), &postgres.url("postgres"));
    let domains = names(300);
    let mut server = setup.start();
    let load = Load::start(server.address(), 8, Job::Write, &domains);
    load.go_on_for(500).await;
    postgres.freeze();
    load.go_on_for(500).await;
    let mut account = load.finish().await;
    server.kill();
    postgres.thaw();

    let server = setup.start();
    account.settle(&server).await;
    assert!(server.log().concat().contains("the shadow was behind"));
    let load = Load::start(server.address(), 8, Job::Write, &domains);
    until("domains are compared", async || {
        server.metric(COMPARED).await > 20
    })
    .await;
    load.finish().await;
    assert_eq!(server.metric(DIFFERENCES).await, 0);
    assert_eq!(server.metric(IN_STEP).await, 1);
    server.stop();
}

#[tokio::test]
async fn a_shadow_that_cannot_be_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(folder.path());
    for (kind, part) in [
        ("embedded", "a shadow is another store"),
        ("postgres", "store.postgres.url"),
        ("mysql", "`store.shadow.kind`"),
    ] {
        let reason = setup.clone().set("store.shadow.kind", kind).refused();
        assert!(reason.contains(part), "{reason}");
    }
    // A store that counted other things.
    let server = setup.start();
    let load = Load::start(server.address(), 1, Job::Write, &names(3));
    load.go_on_for(10).await;
    load.finish().await;
    server.stop();
    let other = setup
        .set("store.kind", "memory")
        .set("store.shadow.kind", "embedded");
    let reason = other.refused();
    assert!(reason.contains("empty it"), "{reason}");
}
