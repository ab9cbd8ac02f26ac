//! `RedisCached` over a store in memory and a Redis of the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "redis_cached/outages.rs"]
mod outages;
#[path = "redis_cached/rig.rs"]
mod rig;
#[path = "redis_cached/trouble.rs"]
mod trouble;

use std::sync::{Arc, atomic::Ordering::SeqCst};

use adapters::email_domains::{RedisOptions, RedisSetupError};
use business::{
    email_domains::ports::{DomainTallies, Freshness},
    kernel::ErrorKind,
};
use conformance::email_domains::Subject;
use deadpool_redis::redis::{self, Value};
use foundation::{supervision::Shutdown, testing::Redis};

use self::rig::{
    MARKS, Rig, START_MS, ask, delivered, eventually, key, names, non_zero, options, put_raw, raw,
};

/// A cache that is in use, with a Redis of its own.
async fn fresh() -> Subject {
    let redis = Redis::start();
    let rig = Rig::up(&options(&redis.url())).await;
    Subject {
        keep: Box::new(redis),
        ..Subject::new(Arc::new(rig.cached))
    }
}

conformance::domain_tallies!(redis_cached, fresh, [mechanism]);

#[tokio::test]
async fn redis_answers_what_was_read_before() {
    let redis = Redis::start();
    let rig = Rig::up(&options(&redis.url())).await;
    rig.deliver_elsewhere("a.example").await;

    assert_eq!(rig.cached("a.example").await, 1);
    assert_eq!((rig.requests("hit"), rig.requests("miss")), (0, 1));
    rig.warm("a.example").await;
    let (hits, misses, reads) = (
        rig.requests("hit"),
        rig.requests("miss"),
        rig.store.reads.load(SeqCst),
    );

    // Only an answer from Redis can still be the old one.
    rig.deliver_elsewhere("a.example").await;
    assert_eq!(rig.cached("a.example").await, 1);
    assert_eq!(
        (rig.requests("hit"), rig.requests("miss")),
        (hits + 1, misses)
    );
    assert_eq!(rig.store.reads.load(SeqCst), reads);

    // The store answers whoever asks for the latest, and that is counted as neither.
    assert_eq!(rig.latest("a.example").await, 2);
    assert_eq!((rig.requests("hit"), rig.requests("bypass")), (hits + 1, 1));
}

#[tokio::test]
async fn of_many_domains_only_the_missing_are_read_and_all_keep_their_order() {
    let redis = Redis::start();
    let rig = Rig::up(&options(&redis.url())).await;
    rig.deliver_elsewhere("b.example").await;
    rig.warm("b.example").await;
    for _ in 0..2 {
        rig.deliver_elsewhere("c.example").await;
    }
    let (hits, misses, reads) = (
        rig.requests("hit"),
        rig.requests("miss"),
        rig.store.reads.load(SeqCst),
    );

    let domains = names(&[
        "c.example",
        "b.example",
        "unseen.example",
        "b.example",
        "c.example",
    ]);
    let read = rig.cached.get(&domains, Freshness::Cached).await.unwrap();
    let delivered: Vec<_> = read.iter().map(|tally| tally.delivered).collect();
    assert_eq!(delivered, [2, 1, 0, 1, 2]);
    assert_eq!(
        (rig.requests("hit"), rig.requests("miss")),
        (hits + 2, misses + 3)
    );
    assert_eq!(rig.store.reads.load(SeqCst), reads + 1);
}

#[tokio::test]
async fn an_entry_is_shown_until_its_time_is_over_and_not_longer() {
    let redis = Redis::start();
    let options = RedisOptions {
        ttl_ms: non_zero(50_000),
        ..options(&redis.url())
    };
    let rig = Rig::up(&options).await;
    rig.deliver_elsewhere("a.example").await;
    rig.warm("a.example").await;
    rig.deliver_elsewhere("a.example").await;

    rig.now_ms.store(START_MS + 50_000, SeqCst);
    assert_eq!(rig.cached("a.example").await, 1);
    // Redis holds it still: its own clock has hardly moved.
    rig.now_ms.store(START_MS + 50_001, SeqCst);
    assert!(raw(&redis, "a.example").await.is_some());
    assert_eq!(rig.cached("a.example").await, 2);
}

#[tokio::test]
async fn the_time_of_an_entry_begins_with_the_read_that_found_it() {
    let redis = Redis::start();
    let rig = Rig::up(&options(&redis.url())).await;
    rig.store.read_takes_ms.store(20_000, SeqCst);
    rig.cached("a.example").await;
    eventually("it is kept", async || {
        raw(&redis, "a.example").await.is_some()
    })
    .await;
    let left_ms: i64 = ask(&redis, redis::cmd("PTTL").arg(key("a.example"))).await;
    assert!((1..=40_000).contains(&left_ms), "{left_ms}");

    rig.deliver_elsewhere("a.example").await;
    rig.now_ms.store(START_MS + 60_000, SeqCst);
    assert_eq!(rig.cached("a.example").await, 0);
    rig.now_ms.store(START_MS + 60_001, SeqCst);
    assert_eq!(rig.cached("a.example").await, 1);
}

#[tokio::test]
async fn what_is_over_already_is_not_kept() {
    let redis = Redis::start();
    let rig = Rig::up(&options(&redis.url())).await;
    rig.store.read_takes_ms.store(60_000, SeqCst);
    rig.cached("slow.example").await;
    rig.store.read_takes_ms.store(0, SeqCst);
    // Put into Redis by the same task, later.
    rig.warm("a.example").await;
    assert_eq!(raw(&redis, "slow.example").await, None);
}

#[tokio::test]
async fn reads_leave_half_of_the_queue_to_commits() {
    let redis = Redis::start();
    let options = RedisOptions {
        queue_capacity: non_zero(100),
        ..options(&redis.url())
    };
    let rig = Rig::up(&options).await;
    let domains: Vec<_> = (0..200).map(|n| format!("d{n}.example")).collect();
    let domains: Vec<_> = domains.iter().map(String::as_str).collect();
    rig.cached
        .get(&names(&domains), Freshness::Cached)
        .await
        .unwrap();
    // Nothing was awaited since: on this runtime's one thread, the queue is as the read left it.
    rig.cached.record(&delivered(&domains[..60])).await.unwrap();
    assert_eq!(rig.invalidations_dropped(), 10);
}

#[tokio::test]
async fn entries_brought_back_by_an_old_dump_are_refused() {
    let redis = Redis::start();
    let rig = Rig::up(&options(&redis.url())).await;
    rig.deliver_elsewhere("a.example").await;
    rig.warm("a.example").await;
    let old = raw(&redis, "a.example").await.unwrap();

    rig.deliver_elsewhere("a.example").await;
    for now_ms in [START_MS + 60_001, START_MS - 60_001] {
        rig.now_ms.store(now_ms, SeqCst);
        put_raw(&redis, "a.example", &old).await;
        assert_eq!(rig.cached("a.example").await, 2, "at {now_ms}");
    }
    // The very same bytes, while they are fresh.
    rig.now_ms.store(START_MS, SeqCst);
    put_raw(&redis, "a.example", &old).await;
    assert_eq!(rig.cached("a.example").await, 1);
}

#[tokio::test]
async fn what_a_commit_touched_is_dropped() {
    let redis = Redis::start();
    let rig = Rig::up(&options(&redis.url())).await;
    for domain in ["a.example", "b.example", "other.example"] {
        rig.warm(domain).await;
    }
    rig.cached
        .record(&delivered(&["a.example", "b.example", "a.example"]))
        .await
        .unwrap();
    // The entries would live on for a minute of a clock that stands still.
    eventually("the commit shows", async || {
        rig.cached("a.example").await == 2 && rig.cached("b.example").await == 1
    })
    .await;
    assert_eq!(rig.invalidations_dropped(), 0);
    assert!(raw(&redis, "other.example").await.is_some());

    // Whether this one was counted, nobody told us.
    rig.warm("a.example").await;
    rig.store.loses_answers.store(true, SeqCst);
    let error = rig
        .cached
        .record(&delivered(&["a.example"]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Ambiguous);
    eventually("the lost commit shows", async || {
        rig.cached("a.example").await == 3
    })
    .await;
}

#[tokio::test]
async fn commits_may_come_from_another_runtime() {
    let redis = Redis::start();
    let rig = Arc::new(Rig::up(&options(&redis.url())).await);
    rig.warm("a.example").await;
    let committer = Arc::clone(&rig);
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime
            .block_on(committer.cached.record(&delivered(&["a.example"])))
            .unwrap();
    });
    tokio::task::spawn_blocking(|| thread.join())
        .await
        .unwrap()
        .unwrap();
    eventually("the commit shows", async || {
        rig.cached("a.example").await == 1
    })
    .await;
}

#[tokio::test]
async fn a_store_never_meets_the_entries_of_another() {
    let redis = Redis::start();
    let old = Rig::new(&options(&redis.url()), 1, false);
    old.deliver_elsewhere("a.example").await;
    old.warm("a.example").await;
    let new = Rig::new(&options(&redis.url()), 2, false);
    new.wait_until_up().await;
    assert_eq!(new.cached("a.example").await, 0);
    assert_eq!((new.requests("hit"), new.requests("miss")), (0, 1));

    // The same store behind another server does.
    let same = Rig::new(&options(&redis.url()), 1, false);
    same.wait_until_up().await;
    assert_eq!(same.cached("a.example").await, 1);
    assert_eq!(same.requests("hit"), 1);
}

#[tokio::test]
async fn what_is_no_entry_is_a_miss() {
    let redis = Redis::start();
    let rig = Rig::up(&options(&redis.url())).await;
    rig.warm("a.example").await;
    let entry = raw(&redis, "a.example").await.unwrap();
    rig.deliver_elsewhere("a.example").await;

    let cut = entry[1..].to_vec();
    let longer = [&entry[..], &[0]].concat();
    let mut bent = entry.clone();
    bent[12] ^= 1;
    for garbage in [
        vec![],
        b"1".to_vec(),
        vec![0xff; entry.len()],
        cut,
        longer,
        bent,
    ] {
        put_raw(&redis, "a.example", &garbage).await;
        assert_eq!(rig.cached("a.example").await, 1, "{garbage:?}");
    }
    // A value of another type, and a sound entry of another domain.
    ask::<()>(&redis, redis::cmd("DEL").arg(key("a.example"))).await;
    let _: Value = ask(
        &redis,
        redis::cmd("LPUSH").arg(key("list.example")).arg("x"),
    )
    .await;
    assert_eq!(rig.cached("list.example").await, 0);
    put_raw(&redis, "b.example", &entry).await;
    let misses = rig.requests("miss");
    rig.cached("b.example").await;
    assert_eq!(
        (rig.requests("miss"), rig.requests("error")),
        (misses + 1, 0)
    );
}

#[tokio::test]
async fn nothing_is_left_when_the_policy_is_dropped() {
    let redis = Redis::start();
    let Rig { cached, store, .. } = Rig::up(&options(&redis.url())).await;
    drop(cached);
    eventually("the connections are closed", async || {
        let clients: String = ask(&redis, redis::cmd("CLIENT").arg("LIST")).await;
        clients.lines().count() == 1
    })
    .await;
    assert_eq!(Arc::strong_count(&store), 1);
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_and_never_shown() {
    let rig = |url: &str| {
        let store: Arc<dyn DomainTallies> = Arc::new(adapters::email_domains::Memory::new(
            conformance::email_domains::POLICY,
            MARKS,
            business::email_domains::ports::StoreId(1),
        ));
        let clock = Arc::new(adapters::system_millis);
        let registry = prometheus::Registry::new();
        adapters::email_domains::RedisCached::new(
            store,
            &options(url),
            clock,
            &Shutdown::new(),
            &registry,
        )
        .err()
    };
    let error = rig("http://user:hunter2@127.0.0.1").unwrap();
    assert!(matches!(error, RedisSetupError::Url(_)));
    assert!(!format!("{error:?} {error}").contains("hunter2"));
    assert!(!format!("{:?}", options("redis://:hunter2@127.0.0.1")).contains("hunter2"));
}
