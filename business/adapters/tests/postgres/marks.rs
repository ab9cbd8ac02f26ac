//! Marks in generations: remembered for the window or until there are too many, and then dropped.

use std::sync::Arc;

use business::email_domains::{
    model::{Key, Mark, Outcome},
    ports::DomainTallies,
};
use conformance::email_domains::WINDOW_S;
use foundation::testing;
use tokio::{sync::Barrier, task::JoinSet};
use uuid::Uuid;

use super::rig::{
    blocked, connect, counts, database, group, member, options, session, spawn_record,
};

/// What is in the tables of marks, and which there are.
fn generations(url: &str) -> (String, String) {
    let query = |sql| testing::Postgres::shared().query(url, sql);
    (
        query("SELECT string_agg(generation::text, ' ' ORDER BY generation) FROM mark_generations"),
        query("SELECT count(*) FROM pg_inherits WHERE inhparent = 'marks'::regclass"),
    )
}

#[tokio::test]
async fn marks_are_dropped_with_their_generation_and_their_stamps_refused_from_then_on() {
    let url = database(testing::Postgres::shared()).await;
    let store = connect(options(&url)).await;
    let window = WINDOW_S.get();
    let at = |seconds: u32, hash: u128, stamped_at: Option<u32>| {
        let key = Key {
            hash,
            stamped_at: stamped_at.map(Into::into),
        };
        let mut member = (*member(None, &[("a.example", 1, 0)])).clone();
        member.mark = Some(Mark {
            key,
            fingerprint: 1,
        });
        let mut group = group(1, u64::from(seconds), [Arc::new(member)]);
        group.id = None;
        group.formed_at = seconds.into();
        group
    };
    let outcome = async |group| store.record(&group).await.unwrap().outcomes[0];
    let start = 1_800_000_000;

    // One key is stamped by a clock that is fast.
    assert_eq!(outcome(at(start, 1, None)).await, Outcome::Counted);
    assert_eq!(
        outcome(at(start, 2, Some(start + 200))).await,
        Outcome::Counted
    );
    assert_eq!(generations(&url), ("0 1".into(), "2".into()));
    // Within the window all is known, however many generations have begun.
    for (seconds, known) in [(window / 2, "0 1 2"), (window, "1 2 3")] {
        let now = start + seconds;
        assert_eq!(
            outcome(at(now, u128::from(now), None)).await,
            Outcome::Counted
        );
        assert_eq!(outcome(at(now, 1, None)).await, Outcome::Duplicate);
        assert_eq!(
            outcome(at(now, 2, Some(start + 200))).await,
            Outcome::Duplicate
        );
        assert_eq!(generations(&url), (known.into(), "3".into()));
    }
    // Behind it the first is dropped: what may have stood in it is refused, if it says when it
    // was made, and counts again if it does not.
    let now = start + window + window / 2;
    assert_eq!(outcome(at(now, 3, None)).await, Outcome::Counted);
    assert_eq!(generations(&url), ("2 3 4".into(), "3".into()));
    assert_eq!(
        outcome(at(now, 2, Some(start + 200))).await,
        Outcome::Expired
    );
    assert_eq!(outcome(at(now, 1, None)).await, Outcome::Counted);
    let memory = store.probe().await.unwrap().memory;
    let about = |seconds: u32| seconds..seconds + 10;
    assert!(
        about(start).contains(&memory.forgotten_through.get()),
        "{memory:?}"
    );
    assert!(
        about(start + 200).contains(&memory.forgotten_stamp.get()),
        "{memory:?}"
    );
    // A clock that is set back does not bring back what is forgotten.
    assert_eq!(
        outcome(at(start, 2, Some(start + 200))).await,
        Outcome::Expired
    );
}

/// Several servers, and a new generation with nearly every group: whoever looks a mark up has all of
/// them before its eyes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_same_marks_one_counts_while_generations_come_and_go() {
    let url = database(testing::Postgres::shared()).await;
    let mut tasks = JoinSet::new();
    let round = Arc::new(Barrier::new(4));
    for server in 0..4_u64 {
        let next = Arc::clone(&round);
        let mut options = options(&url);
        // A generation lasts ten seconds of the groups' time.
        options.marks.window_s = 20.try_into().unwrap();
        let store = connect(options).await;
        tasks.spawn(async move {
            let mut counted = 0;
            for round in 0..60_u32 {
                let members = (0..5).map(|number| {
                    // Each key comes again within ten seconds, from every server.
                    let hash = u128::from(round / 2 * 5 + number);
                    member(Some((hash << 64, 1)), &[("a.example", 1, 0)])
                });
                let mut group = group(u128::from(server), u64::from(round) + 1, members);
                group.formed_at = (1_800_000_000 + round * 4).into();
                next.wait().await;
                let outcomes = store.record(&group).await.unwrap().outcomes;
                counted += outcomes.iter().filter(|o| **o == Outcome::Counted).count();
            }
            counted
        });
    }
    let counted: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!(counted, 150);
    let store = connect(options(&url)).await;
    assert_eq!(counts(&store, "a.example").await, (150, 0));
    let newest =
        testing::Postgres::shared().query(&url, "SELECT max(generation) FROM mark_generations");
    assert!(newest.parse::<u32>().unwrap() > 10, "{newest}");
}

/// A backup reads for hours. Marks are kept for longer then, and nobody waits for it.
#[tokio::test]
async fn a_generation_that_cannot_be_begun_fails_no_group() {
    let url = database(testing::Postgres::shared()).await;
    let store = connect(options(&url)).await;
    let mut session = session(&url).await;
    let mut backup = sqlx::Connection::begin(&mut session).await.unwrap();
    sqlx::query("SELECT FROM marks")
        .execute(&mut *backup)
        .await
        .unwrap();
    let record = async |seconds: u32, hash| {
        let mut group = group(
            1,
            hash,
            [member(Some((hash.into(), 1)), &[("a.example", 1, 0)])],
        );
        group.formed_at = (1_800_000_000 + seconds).into();
        store.record(&group).await.unwrap().outcomes[0]
    };
    for hash in 1..=5 {
        assert_eq!(
            record(u32::try_from(hash).unwrap(), hash).await,
            Outcome::Counted
        );
    }
    assert_eq!(generations(&url), ("0".into(), "1".into()));
    backup.rollback().await.unwrap();
    assert_eq!(record(20, 6).await, Outcome::Counted);
    assert_eq!(generations(&url), ("0 1".into(), "2".into()));
    let again = async |hash| {
        let mut group = group(
            2,
            hash,
            [member(Some((hash.into(), 1)), &[("a.example", 1, 0)])],
        );
        group.formed_at = 1_800_000_020.into();
        store.record(&group).await.unwrap().outcomes[0]
    };
    for hash in 1..=6 {
        assert_eq!(again(hash).await, Outcome::Duplicate);
    }
}

/// A mark that somebody else is about to add is waited for before any domain is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_mark_holds_no_domain() {
    let url = database(testing::Postgres::shared()).await;
    let store = connect(options(&url)).await;
    let mark = |hash| member(Some((hash, 1)), &[("a.example", 1, 0)]);
    store.record(&group(1, 1, [mark(1)])).await.unwrap();
    let mut session = session(&url).await;
    let mut holder = sqlx::Connection::begin(&mut session).await.unwrap();
    let add = "INSERT INTO marks SELECT $1, 1, max(generation) FROM mark_generations";
    sqlx::query(add)
        .bind(Uuid::from_u128(9))
        .execute(&mut *holder)
        .await
        .unwrap();
    let waiting = spawn_record(&store, &group(2, 1, [mark(2), mark(3), mark(9)]));
    blocked(&url).await;
    let other = group(3, 1, [member(None, &[("a.example", 1, 0)])]);
    store.record(&other).await.unwrap();
    assert_eq!(counts(&store, "a.example").await, (2, 0));
    holder.rollback().await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(counts(&store, "a.example").await, (5, 0));
}

#[tokio::test]
async fn too_many_marks_end_a_generation() {
    let url = database(testing::Postgres::shared()).await;
    let mut few = options(&url);
    few.marks.max_count = 3_000.try_into().unwrap();
    let store = connect(few).await;
    for round in 0..10_u32 {
        let members = (0..600_u32).map(|number| {
            let hash = u128::from(round * 600 + number) << 64;
            member(Some((hash, 1)), &[("a.example", 1, 0)])
        });
        let mut group = group(1, round.into(), members);
        group.formed_at = (1_800_000_000 + round).into();
        store.record(&group).await.unwrap();
    }
    assert_eq!(counts(&store, "a.example").await, (6_000, 0));
    let kept = testing::Postgres::shared().query(&url, "SELECT count(*) FROM marks");
    let kept: u32 = kept.parse().unwrap();
    assert!((600..=4_200).contains(&kept), "{kept}");
    let memory = store.probe().await.unwrap().memory;
    assert!(memory.forgotten_through > 1_800_000_000.into());
}
