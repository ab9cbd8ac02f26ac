//! Migrations, and the threshold that belongs to the database.

use std::error::Error;

use adapters::email_domains::{
    Postgres,
    postgres::{SchemaError, migrate, migrate_at_start},
};
use business::{
    email_domains::{ports::DomainTallies, verdict::VerdictPolicy},
    kernel::{ErrorKind, PortError},
};
use conformance::email_domains::POLICY;
use foundation::testing;
use sqlx::Connection;
use tokio::task::JoinSet;

use super::rig::{
    PATIENCE, blocked, connect, counts, database, group, member, options, recounted, session,
    spawn_record,
};

fn policy(threshold: u64) -> VerdictPolicy {
    VerdictPolicy::new(threshold.try_into().unwrap())
}

/// Why a store does not open.
async fn refused(url: &str, policy: VerdictPolicy) -> String {
    reason(&Postgres::connect(options(url), policy).await.err().unwrap())
}

fn reason(error: &PortError) -> String {
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let source = error.source().unwrap();
    source
        .downcast_ref::<SchemaError>()
        .expect("a reason of ours")
        .to_string()
}

#[tokio::test]
async fn a_database_that_is_not_ready_is_refused() {
    let server = testing::Postgres::shared();
    let url = server.create_database();
    assert!(refused(&url, POLICY).await.contains("never migrated"));

    migrate(&url.as_str().into(), POLICY, PATIENCE)
        .await
        .unwrap();
    connect(options(&url)).await;
    let said = refused(&url, policy(6)).await;
    assert!(
        said.contains("from 5 deliveries on") && said.contains("says 6"),
        "{said}"
    );

    server.query(&url, "UPDATE store SET threshold = NULL");
    assert!(
        refused(&url, POLICY)
            .await
            .contains("run `catchall migrate`")
    );
    migrate(&url.as_str().into(), POLICY, PATIENCE)
        .await
        .unwrap();
    connect(options(&url)).await;

    server.query(
        &url,
        "INSERT INTO _sqlx_migrations VALUES (9999, 'later', now(), true, '', 0)",
    );
    assert!(
        refused(&url, POLICY)
            .await
            .contains("migration 9999, which")
    );
    let error = migrate(&url.as_str().into(), POLICY, PATIENCE)
        .await
        .unwrap_err();
    assert!(reason(&error).contains("migration 9999, which"));

    server.query(&url, "DELETE FROM _sqlx_migrations WHERE version = 9999");
    server.query(
        &url,
        "UPDATE _sqlx_migrations SET checksum = '' WHERE version = 1",
    );
    assert!(
        refused(&url, POLICY)
            .await
            .contains("migration 1 is not the one")
    );
    server.query(&url, "DELETE FROM _sqlx_migrations");
    assert!(refused(&url, POLICY).await.contains("lacks migration 1"));
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_apart_from_nonsense() {
    let url = testing::Postgres::shared().url("there_is_no_such_database");
    let error = Postgres::connect(options(&url), POLICY)
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let error = Postgres::connect(options("nonsense"), POLICY)
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = Postgres::connect(options(&url), policy(1 << 63))
        .await
        .err()
        .unwrap();
    assert!(reason(&error).contains("at most"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_may_migrate_at_once() {
    let url = testing::Postgres::shared().create_database();
    let mut migrations = JoinSet::new();
    for _ in 0..6 {
        let url = url.clone();
        migrations.spawn(async move { migrate(&url.into(), POLICY, PATIENCE).await });
    }
    for migrated in migrations.join_all().await {
        migrated.unwrap();
    }
    let store = connect(options(&url)).await.probe().await.unwrap();
    migrate(&url.as_str().into(), POLICY, PATIENCE)
        .await
        .unwrap();
    assert_eq!(connect(options(&url)).await.probe().await.unwrap(), store);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_threshold_is_counted_by_and_the_old_one_refused() {
    let url = database(testing::Postgres::shared()).await;
    let old = connect(options(&url)).await;
    let members = [
        ("a.example", 5, 0),
        ("b.example", 9, 0),
        ("c.example", 9, 1),
    ];
    old.record(&group(1, 1, members.map(|change| member(None, &[change]))))
        .await
        .unwrap();
    assert_eq!(old.totals().await.unwrap().catch_all, 2);

    // A server that starts with another one changes nothing for those at work.
    let starting = migrate_at_start(&url.as_str().into(), policy(9), PATIENCE).await;
    assert!(reason(&starting.unwrap_err()).contains("the configuration says 9"));
    assert_eq!(old.totals().await.unwrap().catch_all, 2);

    migrate(&url.as_str().into(), policy(9), PATIENCE)
        .await
        .unwrap();
    let new = Postgres::connect(options(&url), policy(9)).await.unwrap();
    let totals = new.totals().await.unwrap();
    assert_eq!(
        (totals.catch_all, totals.not_catch_all, totals.domains),
        (1, 1, 3)
    );
    assert_eq!(totals, recounted(&mut session(&url).await).await);

    // The server that is still at work by the old one says so, and counts nothing.
    assert!(reason(&old.probe().await.unwrap_err()).contains("from 9 deliveries on"));
    for mark in [None, Some((1, 1))] {
        let mut late = group(1, 2, [member(mark, &[("a.example", 4, 0)])]);
        assert!(reason(&old.record(&late).await.unwrap_err()).contains("from 9 deliveries on"));
        late.id = None;
        assert!(reason(&old.record(&late).await.unwrap_err()).contains("from 9 deliveries on"));
    }
    assert_eq!(counts(&new, "a.example").await, (5, 0));
    let recorded = new
        .record(&group(1, 2, [member(Some((1, 1)), &[("a.example", 4, 0)])]))
        .await;
    assert_eq!(recorded.unwrap().verdict_changes.len(), 1);
    assert_eq!(new.totals().await.unwrap().catch_all, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_waits_for_a_recount_sees_its_threshold() {
    let url = database(testing::Postgres::shared()).await;
    let store = connect(options(&url)).await;
    let first = group(1, 1, [member(None, &[("a.example", 1, 0)])]);
    store.record(&first).await.unwrap();
    for mark in [None, Some((1, 1))] {
        let mut session = session(&url).await;
        // As `migrate` does it.
        let mut recount = session.begin().await.unwrap();
        sqlx::query("LOCK TABLE domain_tallies IN SHARE ROW EXCLUSIVE MODE")
            .execute(&mut *recount)
            .await
            .unwrap();
        sqlx::query("UPDATE store SET threshold = 6")
            .execute(&mut *recount)
            .await
            .unwrap();
        let late = group(1, 2, [member(mark, &[("a.example", 1, 0)])]);
        let late = spawn_record(&store, &late);
        blocked(&url).await;
        recount.commit().await.unwrap();
        assert!(reason(&late.await.unwrap().unwrap_err()).contains("from 6 deliveries on"));
        assert_eq!(counts(&store, "a.example").await, (1, 0));
        testing::Postgres::shared().query(&url, "UPDATE store SET threshold = 5");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_are_gathered_while_writers_are_at_work() {
    let url = database(testing::Postgres::shared()).await;
    let store = connect(options(&url)).await;
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let store = std::sync::Arc::clone(&store);
        writers.spawn(async move {
            for sequence in 0..60 {
                let domain = format!("d{}.example", sequence % 7);
                let group = group(writer, sequence, [member(None, &[(&domain, 1, 0)])]);
                store.record(&group).await.unwrap();
            }
        });
    }
    for threshold in [5, 5, 5, 5] {
        migrate(&url.as_str().into(), policy(threshold), PATIENCE)
            .await
            .unwrap();
    }
    writers.join_all().await;
    migrate(&url.as_str().into(), POLICY, PATIENCE)
        .await
        .unwrap();
    let totals = store.totals().await.unwrap();
    assert_eq!(totals, recounted(&mut session(&url).await).await);
    assert_eq!(
        (totals.delivered, totals.domains, totals.catch_all),
        (240, 7, 7)
    );
    let rows = testing::Postgres::shared().query(&url, "SELECT count(*) FROM writer_totals");
    assert_eq!(rows, "1");
}
