//! `Postgres` over a server of the tests' own.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "postgres/faults.rs"]
mod faults;
#[path = "postgres/marks.rs"]
mod marks;
#[path = "postgres/rig.rs"]
mod rig;
#[path = "postgres/schema.rs"]
mod schema;

use std::{sync::Arc, time::Duration};

use adapters::{
    SystemClock,
    email_domains::{Accounting, Batched, BatchedOptions, PostgresOptions},
};
use business::{
    email_domains::{
        model::{Group, Outcome, Tally},
        ports::DomainTallies,
        verdict::Verdict,
    },
    kernel::{Clock, ErrorKind},
};
use conformance::email_domains::{Reopenable, Subject};
use foundation::{supervision::Shutdown, testing};
use prometheus::Registry;
use tokio::task::JoinSet;

use self::rig::{
    blocked, connect, counts, database, group, member, options, recounted, session, spawn_record,
};

async fn fresh() -> Subject {
    Subject::new(connect(options(&database(testing::Postgres::shared()).await)).await)
}

struct Stored {
    url: String,
    subject: Option<Subject>,
}

async fn stored() -> Stored {
    let url = database(testing::Postgres::shared()).await;
    let subject = Some(Subject::new(connect(options(&url)).await));
    Stored { url, subject }
}

impl Reopenable for Stored {
    fn subject(&self) -> &Subject {
        self.subject.as_ref().unwrap()
    }

    async fn reopen(&mut self) {
        self.subject = None;
        self.subject = Some(Subject::new(connect(options(&self.url)).await));
    }
}

conformance::domain_tallies!(a_postgres, fresh, [mechanism, reopens(stored)]);

/// Of one writer of one server: 40 groups over the same domains and marks as all others', in an
/// order of its own.
fn load(writer: u128) -> impl Iterator<Item = Group> {
    (0..40_u32).map(move |number| {
        let mut members: Vec<_> = (0..20)
            .map(|n| {
                let mark = (n % 4 == 0).then_some((u128::from(number * 20 + n), 7));
                member(
                    mark,
                    &[(
                        &format!("d{}.example", (number + n) % 30),
                        1,
                        u32::from(n == 3),
                    )],
                )
            })
            .collect();
        fastrand::Rng::with_seed(u64::try_from(writer).unwrap()).shuffle(&mut members);
        group(writer, number.into(), members)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_share_a_database() {
    let url = database(testing::Postgres::shared()).await;
    let stores = [connect(options(&url)).await, connect(options(&url)).await];
    let mut writers = JoinSet::new();
    for writer in 0..8_u128 {
        let store = Arc::clone(&stores[usize::try_from(writer % 2).unwrap()]);
        writers.spawn(async move {
            let mut counted = 0;
            for group in load(writer) {
                // Nobody waits in a circle: an error would be a deadlock that was found.
                let recorded = store.record(&group).await.unwrap();
                counted += recorded
                    .outcomes
                    .iter()
                    .filter(|o| **o == Outcome::Counted)
                    .count();
            }
            counted
        });
    }
    let counted: usize = writers.join_all().await.into_iter().sum();
    // Of 20 members 5 are marked, and count for one writer only.
    assert_eq!(counted, 40 * (8 * 15 + 5));
    for store in &stores {
        let totals = store.totals().await.unwrap();
        assert_eq!(totals.delivered, counted as u64);
        assert_eq!(totals.bounced, 40 * 8);
        assert_eq!(totals, recounted(&mut session(&url).await).await);
    }
}

#[tokio::test]
async fn totals_are_what_the_rows_say() {
    let url = database(testing::Postgres::shared()).await;
    let store = connect(options(&url)).await;
    let mut session = session(&url).await;
    for seed in 0..3 {
        let mut random = fastrand::Rng::with_seed(seed);
        for sequence in 0..40 {
            let members: Vec<_> = (0..random.u32(0..6))
                .map(|_| {
                    let mark = random
                        .bool()
                        .then(|| (random.u128(0..50), random.u64(0..2)));
                    let domain = format!("d{}.example", random.u32(0..40));
                    let bounced = u32::from(random.u32(0..12) == 0);
                    member(mark, &[(&domain, random.u32(0..4), bounced)])
                })
                .collect();
            let mut group = group(
                u128::from(random.u32(0..3)),
                seed * 1_000 + sequence,
                members,
            );
            if random.u32(0..4) == 0 {
                group.id = None;
            }
            store.record(&group).await.unwrap();
        }
        let totals = store.totals().await.unwrap();
        assert_eq!(totals, recounted(&mut session).await, "seed {seed}");
        assert!(totals.catch_all > 0 && totals.not_catch_all > 0);
    }
}

#[tokio::test]
async fn counts_stop_at_the_limit() {
    let url = database(testing::Postgres::shared()).await;
    let store = connect(options(&url)).await;
    let first = group(1, 1, [member(None, &[("a.example", 1, 1)])]);
    store.record(&first).await.unwrap();
    for table in ["domain_tallies", "writer_totals"] {
        testing::Postgres::shared().query(
            &url,
            &format!(
                "UPDATE {table} SET delivered = {max} - 1, bounced = {max}",
                max = i64::MAX
            ),
        );
    }
    store
        .record(&group(1, 2, [member(None, &[("a.example", 9, 9)])]))
        .await
        .unwrap();
    store
        .record(&group(2, 1, [member(None, &[("b.example", 9, 9)])]))
        .await
        .unwrap();
    let full = (Tally::MAX_COUNT, Tally::MAX_COUNT);
    assert_eq!(counts(&store, "a.example").await, full);
    let totals = store.totals().await.unwrap();
    assert_eq!((totals.delivered, totals.bounced), full);
}

#[tokio::test]
async fn every_domain_is_told_of_its_verdict() {
    let url = database(testing::Postgres::shared()).await;
    let store = connect(options(&url)).await;
    let names: Vec<_> = (0..500).map(|n| format!("d{n:03}.example")).collect();
    let members = names.iter().rev().map(|name| member(None, &[(name, 5, 0)]));
    let recorded = store.record(&group(1, 1, members)).await.unwrap();
    let mut told: Vec<_> = recorded
        .verdict_changes
        .iter()
        .map(|c| c.domain.to_string())
        .collect();
    told.sort_unstable();
    assert_eq!(told, names);
    assert!(
        recorded
            .verdict_changes
            .iter()
            .all(|change| change.to == Verdict::CatchAll)
    );
}

#[tokio::test]
async fn a_group_before_the_last_is_refused() {
    let url = database(testing::Postgres::shared()).await;
    let store = connect(options(&url)).await;
    for mark in [None, Some((1, 1))] {
        let groups = [1, 2].map(|number| group(7, number, [member(mark, &[("a.example", 1, 0)])]));
        store.record(&groups[1]).await.unwrap();
        let error = store.record(&groups[0]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Outdated);
    }
}

#[tokio::test]
async fn there_are_never_more_connections_than_allowed() {
    let url = database(testing::Postgres::shared()).await;
    let few = PostgresOptions {
        max_write_connections: 2.try_into().unwrap(),
        ..options(&url)
    };
    let store = connect(few).await;
    for round in 0..3 {
        for writer in 0..5 {
            let group = group(writer, round, [member(None, &[("a.example", 1, 0)])]);
            store.record(&group).await.unwrap();
        }
    }
    assert_eq!(counts(&store, "a.example").await, (15, 0));
    // A closed one takes the server a moment to notice; the one that reads comes on top.
    let mut session = session(&url).await;
    rig::eventually("the others are closed", async || {
        let (open,): (i64,) = sqlx::query_as(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'catchall'",
        )
        .fetch_one(&mut session)
        .await
        .unwrap();
        open == 3
    })
    .await;
}

#[tokio::test]
async fn who_finds_no_free_connection_is_told_so() {
    let url = database(testing::Postgres::shared()).await;
    let one = PostgresOptions {
        max_write_connections: 1.try_into().unwrap(),
        connect_timeout: Duration::from_secs(3),
        ..options(&url)
    };
    let store = connect(one).await;
    let mut session = session(&url).await;
    let mut holder = sqlx::Connection::begin(&mut session).await.unwrap();
    sqlx::query("LOCK TABLE domain_tallies")
        .execute(&mut *holder)
        .await
        .unwrap();
    let first = spawn_record(&store, &group(1, 1, [member(None, &[("a.example", 1, 0)])]));
    blocked(&url).await;
    let second = group(2, 1, [member(None, &[("a.example", 1, 0)])]);
    let error = store.record(&second).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    holder.rollback().await.unwrap();
    first.await.unwrap().unwrap();
    store.record(&second).await.unwrap();
    assert_eq!(counts(&store, "a.example").await, (2, 0));
}

#[tokio::test]
async fn single_events_share_a_committer_and_large_requests_use_all() {
    let url = database(testing::Postgres::shared()).await;
    let options = BatchedOptions {
        committers: 4.try_into().unwrap(),
        queue_capacity: 100.try_into().unwrap(),
        max_wait: Duration::from_secs(60),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = connect(rig::options(&url)).await;
    let registry = Registry::new();
    let accounting = Accounting::register(&registry).unwrap();
    let shutdown = Shutdown::new();
    let batched =
        Batched::start(store, options, &clock, &shutdown, &accounting, &registry).unwrap();
    let writers = || testing::Postgres::shared().query(&url, "SELECT count(*) FROM writers");
    for number in 0..8 {
        let single = member(None, &[(&format!("d{number}.example"), 1, 0)]);
        batched.record(&group(1, number, [single])).await.unwrap();
    }
    assert_eq!(writers(), "1");
    for number in 0..4 {
        let large = member(None, &[("a.example", 1, 0), ("b.example", 1, 0)]);
        batched.record(&group(1, number, [large])).await.unwrap();
    }
    assert_eq!(writers(), "4");
}
