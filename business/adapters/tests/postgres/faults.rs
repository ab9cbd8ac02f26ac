//! Connections that are lost, servers that stop, sessions that wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use adapters::email_domains::PostgresOptions;
use business::{
    email_domains::{
        model::{Group, Outcome},
        ports::{DomainTallies, Freshness},
        verdict::Verdict,
    },
    kernel::{ErrorKind, Retry},
};
use foundation::testing;
use sqlx::{Connection, PgConnection, Postgres, Transaction};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::rig::{
    blocked, connect, counts, database, eventually, group, member, name, options, recounted,
    session, spawn_record,
};

/// What a lost connection left behind: the group's statement is done, its commit is not.
async fn half_done<'s>(session: &'s mut PgConnection, group: &Group) -> Transaction<'s, Postgres> {
    let id = group.id.unwrap();
    let mut transaction = session.begin().await.unwrap();
    let mark = group.members[0].mark;
    sqlx::query(
        "INSERT INTO marks SELECT unnest($1::uuid[]), $2, max(generation) FROM mark_generations",
    )
    .bind(
        mark.iter()
            .map(|mark| Uuid::from_u128(mark.key.hash))
            .collect::<Vec<_>>(),
    )
    .bind(mark.map(|mark| mark.fingerprint.cast_signed()))
    .execute(&mut *transaction)
    .await
    .unwrap();
    let (applied,): (bool,) =
        sqlx::query_as(include_str!("../../src/email_domains/postgres/apply.sql"))
            .bind(Uuid::from_u128(id.writer.0))
            .bind(i64::try_from(id.sequence).unwrap())
            .bind(i64::from(group.formed_at.get()))
            .bind(Vec::<u8>::new())
            .bind(5_i64)
            .bind(vec!["a.example"])
            .bind(vec![5_i64])
            .bind(vec![0_i64])
            .bind(5_i64)
            .bind(0_i64)
            .fetch_one(&mut *transaction)
            .await
            .unwrap();
    assert!(applied);
    transaction
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_waits_for_what_a_lost_connection_left_behind() {
    for known_writer in [false, true] {
        for mark in [None, Some((1, 1))] {
            for commits in [false, true] {
                let url = database(testing::Postgres::shared()).await;
                let store = connect(options(&url)).await;
                let before = u64::from(known_writer);
                if known_writer {
                    let first = group(7, 1, [member(None, &[("b.example", 1, 0)])]);
                    store.record(&first).await.unwrap();
                }
                let mut session = session(&url).await;
                let group = group(7, 2, [member(mark, &[("a.example", 5, 0)])]);
                let lost = half_done(&mut session, &group).await;

                let retry = spawn_record(&store, &group);
                blocked(&url).await;
                assert!(!retry.is_finished());
                assert_eq!(counts(&store, "a.example").await, (0, 0), "not yet durable");
                if commits {
                    lost.commit().await.unwrap();
                } else {
                    lost.rollback().await.unwrap();
                }

                let recorded = retry.await.unwrap().unwrap();
                assert_eq!(recorded.outcomes[..], [Outcome::Counted]);
                let told: Vec<_> = recorded.verdict_changes.iter().map(|c| c.to).collect();
                if commits {
                    assert!(told.is_empty(), "it was counted before");
                } else {
                    assert_eq!(told, [Verdict::CatchAll], "it is counted now");
                }
                assert_eq!(counts(&store, "a.example").await, (5, 0));
                assert_eq!(store.totals().await.unwrap().delivered, 5 + before);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_in_another_server_s_open_transaction_is_waited_for() {
    for commits in [false, true] {
        let url = database(testing::Postgres::shared()).await;
        let store = connect(options(&url)).await;
        let mut session = session(&url).await;
        let mark = Some((1, 1));
        let others = group(7, 1, [member(mark, &[("a.example", 5, 0)])]);
        let other = half_done(&mut session, &others).await;

        let ours = group(8, 1, [member(mark, &[("a.example", 5, 0)])]);
        let ours = spawn_record(&store, &ours);
        blocked(&url).await;
        let expected = if commits {
            other.commit().await.unwrap();
            Outcome::Duplicate
        } else {
            other.rollback().await.unwrap();
            Outcome::Counted
        };
        assert_eq!(ours.await.unwrap().unwrap().outcomes[..], [expected]);
        assert_eq!(counts(&store, "a.example").await, (5, 0));
    }
}

/// A session that holds the row of `a.example`, as long as its transaction lasts.
async fn hold_a_row(session: &mut PgConnection) -> Transaction<'_, Postgres> {
    let mut holder = session.begin().await.unwrap();
    sqlx::query(
        "INSERT INTO domain_tallies AS known VALUES (0, 0, 0, 0, 0, 'a.example')
         ON CONFLICT (domain) DO UPDATE SET delivered = known.delivered",
    )
    .execute(&mut *holder)
    .await
    .unwrap();
    holder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_connection_is_unknown_only_when_it_might_have_committed() {
    let url = database(testing::Postgres::shared()).await;
    let store = connect(options(&url)).await;
    let mut session = session(&url).await;
    let known = member(Some((2, 1)), &[("b.example", 1, 0)]);
    store.record(&group(8, 1, [known.clone()])).await.unwrap();
    for (sequence, other, kind) in [
        (1, None, ErrorKind::Ambiguous),
        // New marks are counted in one statement too, known ones in a transaction.
        (2, Some(member(Some((1, 1)), &[])), ErrorKind::Ambiguous),
        (3, Some(known), ErrorKind::Unavailable),
    ] {
        let one = member(None, &[("a.example", 1, 0)]);
        let group = group(7, sequence, [one].into_iter().chain(other));
        let mut holder = hold_a_row(&mut session).await;
        let record = spawn_record(&store, &group);
        let pid = blocked(&url).await;
        sqlx::query("SELECT pg_terminate_backend($1)")
            .bind(pid)
            .execute(&mut *holder)
            .await
            .unwrap();
        let error = record.await.unwrap().unwrap_err();
        assert_eq!(
            error.kind(),
            kind,
            "{:?}",
            std::error::Error::source(&error)
        );
        holder.rollback().await.unwrap();
        store.record(&group).await.unwrap();
        assert_eq!(counts(&store, "a.example").await, (sequence, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_not_waited_for_for_ever() {
    let url = database(testing::Postgres::shared()).await;
    let brief = PostgresOptions {
        lock_timeout: Duration::from_millis(100),
        ..options(&url)
    };
    let store = connect(brief).await;
    let mut session = session(&url).await;
    let holder = hold_a_row(&mut session).await;
    let group = group(7, 1, [member(None, &[("a.example", 1, 0)])]);
    let error = store.record(&group).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    holder.rollback().await.unwrap();
    store.record(&group).await.unwrap();
    assert_eq!(counts(&store, "a.example").await, (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_or_is_cancelled_may_try_again() {
    let url = database(testing::Postgres::shared()).await;
    let brief = PostgresOptions {
        write_timeout: Duration::from_secs(2),
        ..options(&url)
    };
    let stores = [connect(brief).await, connect(options(&url)).await];
    let mut session = session(&url).await;
    for (sequence, store) in (1..).zip(&stores) {
        for mark in [None, Some((sequence.into(), 1))] {
            let id = sequence * 2 + u64::from(mark.is_some());
            let group = group(7, id, [member(mark, &[("a.example", 1, 0)])]);
            let before = counts(store, "a.example").await.0;
            let mut holder = session.begin().await.unwrap();
            sqlx::query("LOCK TABLE domain_tallies IN EXCLUSIVE MODE")
                .execute(&mut *holder)
                .await
                .unwrap();
            let record = spawn_record(store, &group);
            blocked(&url).await;
            if sequence == 1 {
                let error = record.await.unwrap().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Ambiguous);
            } else {
                record.abort();
                assert!(record.await.unwrap_err().is_cancelled());
            }
            holder.rollback().await.unwrap();
            // The statement that was sent goes on in the server; whichever is first, it counts once,
            // also for one that has more time for it.
            let patient = &stores[1];
            patient.record(&group).await.unwrap();
            patient.record(&group).await.unwrap();
            assert_eq!(counts(store, "a.example").await.0, before + 1);
        }
    }
}

/// Records groups until `stop`, each again and again until it is; gives how many there were.
async fn persist(
    store: Arc<impl DomainTallies>,
    writer: u128,
    failures: Arc<AtomicU32>,
    stop: u32,
) -> u64 {
    let mut sequence = 0;
    while failures.load(SeqCst) < stop {
        sequence += 1;
        let key = (writer << 64) | u128::from(sequence);
        let mark = (sequence % 3 == 0).then_some((key, 1));
        let mut domains = ["a.example", "b.example", "c.example"];
        domains.rotate_left(usize::try_from(writer % 3).unwrap());
        let group = group(
            writer,
            sequence,
            domains.map(|domain| member(mark, &[(domain, 1, 0)])),
        );
        let mut tries = 0;
        while let Err(error) = store.record(&group).await {
            assert_ne!(error.kind().retry(), Retry::Never, "{error:?}");
            failures.fetch_add(1, SeqCst);
            tries += 1;
            assert!(tries < 60_000, "{error:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    sequence
}

/// What is to be found after writers have recorded so many groups each, by [`persist`].
async fn assert_counted(store: &impl DomainTallies, url: &str, groups: &[u64]) {
    let totals = store.totals().await.unwrap();
    assert_eq!(totals, recounted(&mut session(url).await).await);
    // In every third group all members have one mark, so the first of them counts alone.
    let delivered = groups.iter().map(|n| 3 * (n - n / 3) + n / 3).sum::<u64>();
    assert_eq!(totals.delivered, delivered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_connections_lose_and_double_nothing() {
    let url = database(testing::Postgres::shared()).await;
    let store = connect(options(&url)).await;
    let failures = Arc::new(AtomicU32::new(0));
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        writers.spawn(persist(
            Arc::clone(&store),
            writer,
            Arc::clone(&failures),
            40,
        ));
    }
    let mut session = session(&url).await;
    eventually("connections fail", async || {
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM (
                 SELECT pid FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'catchall'
                 ORDER BY random() LIMIT 1
             ) AS victim",
        )
        .execute(&mut session)
        .await
        .unwrap();
        failures.load(SeqCst) >= 40
    })
    .await;
    let groups = writers.join_all().await;
    assert_counted(&*store, &url, &groups).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_server_loses_and_doubles_nothing() {
    let server = testing::Postgres::start();
    let url = database(&server).await;
    let store = connect(options(&url)).await;
    let failures = Arc::new(AtomicU32::new(0));
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        writers.spawn(persist(
            Arc::clone(&store),
            writer,
            Arc::clone(&failures),
            8,
        ));
    }
    let server = tokio::task::spawn_blocking({
        let failures = Arc::clone(&failures);
        move || {
            while failures.load(SeqCst) < 8 {
                server.kill();
                server.start_again();
                std::thread::sleep(Duration::from_millis(20));
            }
            server
        }
    })
    .await
    .unwrap();
    let groups = writers.join_all().await;
    // The connection for reads may be one of those that were lost.
    eventually("reads work", async || store.totals().await.is_ok()).await;
    assert_counted(&*store, &url, &groups).await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_away_is_found_again() {
    let server = testing::Postgres::start();
    let url = database(&server).await;
    let brief = PostgresOptions {
        read_timeout: Duration::from_secs(3),
        ..options(&url)
    };
    let store = connect(brief).await;
    let next = |number| group(7, number, [member(None, &[("a.example", 1, 0)])]);
    store.record(&next(1)).await.unwrap();
    assert_eq!(counts(&store, "a.example").await, (1, 0));

    server.stop();
    // The connection that it has, it finds closed, and cannot tell when that happened.
    let error = store.record(&next(2)).await.unwrap_err();
    assert!(
        [ErrorKind::Ambiguous, ErrorKind::Unavailable].contains(&error.kind()),
        "{error:?}"
    );
    let error = store.record(&next(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    for _ in 0..2 {
        let error = store
            .get(&[name("a.example")], Freshness::Latest)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    }
    assert_eq!(
        store.probe().await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );

    server.start_again();
    store.record(&next(2)).await.unwrap();
    assert_eq!(counts(&store, "a.example").await, (2, 0));
    store.probe().await.unwrap();

    // After some idleness a connection is looked at before it is used.
    server.stop();
    server.start_again();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    store.record(&next(3)).await.unwrap();
    assert_eq!(counts(&store, "a.example").await, (3, 0));
}
