use std::sync::{Arc, atomic::Ordering::SeqCst};

use adapters::email_domains::RedisOptions;
use business::email_domains::ports::DomainTallies;
use deadpool_redis::redis;
use foundation::testing::Redis;

use super::rig::{Rig, ask, delivered, in_time, non_zero, options};

#[tokio::test]
async fn a_full_queue_drops_and_counts_and_no_commit_waits() {
    const DOMAINS: u64 = 2_000;
    let redis = Redis::start();
    // A commit that waited for Redis would wait longer than the test does.
    let options = RedisOptions {
        timeout_ms: non_zero(600_000),
        queue_capacity: non_zero(4),
        ..options(&redis.url())
    };
    let rig = Rig::up(&options).await;
    redis.freeze();
    let domains: Vec<_> = (0..DOMAINS).map(|n| format!("d{n}.example")).collect();
    let domains: Vec<_> = domains.iter().map(String::as_str).collect();
    in_time("a commit", rig.cached.record(&delivered(&domains)))
        .await
        .unwrap();
    // The task may have taken a queue full of them before it met the frozen Redis.
    let dropped = rig.invalidations_dropped();
    assert!((DOMAINS - 8..=DOMAINS - 4).contains(&dropped), "{dropped}");
    assert_eq!(rig.latest("d1999.example").await, 1);
    redis.thaw();
}

#[tokio::test]
async fn a_frozen_redis_costs_one_bounded_wait_and_no_staleness() {
    let redis = Redis::start();
    let options = RedisOptions {
        timeout_ms: non_zero(300),
        ..options(&redis.url())
    };
    let rig = Rig::up(&options).await;
    rig.warm("a.example").await;
    redis.freeze();
    rig.deliver_elsewhere("a.example").await;

    assert_eq!(rig.cached("a.example").await, 1);
    assert_eq!(rig.requests("error"), 1);
    // From now on nobody asks it: only the first reader paid.
    for _ in 0..100 {
        assert_eq!(rig.cached("a.example").await, 1);
    }
    assert_eq!((rig.requests("error"), rig.requests("bypass")), (1, 100));
    rig.cached.record(&delivered(&["a.example"])).await.unwrap();
    assert_eq!(rig.invalidations_dropped(), 1);

    redis.thaw();
    rig.wait_until_up().await;
    // The entry of before the frost may be shown as long as it is fresh, and no longer.
    rig.now_ms.fetch_add(60_001, SeqCst);
    assert_eq!(rig.cached("a.example").await, 2);
    rig.warm("a.example").await;
}

#[tokio::test]
async fn all_who_wait_when_redis_freezes_are_answered() {
    let redis = Redis::start();
    let options = RedisOptions {
        timeout_ms: non_zero(300),
        ..options(&redis.url())
    };
    let rig = Arc::new(Rig::up(&options).await);
    rig.deliver_elsewhere("a.example").await;
    redis.freeze();
    let readers: Vec<_> = (0..200)
        .map(|_| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { rig.cached("a.example").await })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), 1);
    }
    assert!(rig.requests("error") >= 1);
    redis.thaw();
}

#[tokio::test]
async fn a_killed_redis_is_done_without_and_used_again_when_it_is_back() {
    let redis = Redis::start();
    let rig = Rig::up(&options(&redis.url())).await;
    rig.deliver_elsewhere("a.example").await;
    rig.warm("a.example").await;

    redis.kill();
    rig.deliver_elsewhere("a.example").await;
    assert_eq!(rig.cached("a.example").await, 2);
    assert_eq!(rig.requests("error"), 1);
    assert_eq!(rig.cached("a.example").await, 2);
    assert_eq!(rig.requests("bypass"), 1);

    redis.start_again();
    rig.wait_until_up().await;
    assert_eq!(rig.cached("a.example").await, 2);
    rig.warm("a.example").await;
}

#[tokio::test]
async fn a_flushed_redis_is_filled_again() {
    let redis = Redis::start();
    let rig = Rig::up(&options(&redis.url())).await;
    rig.warm("a.example").await;
    rig.deliver_elsewhere("a.example").await;
    ask::<()>(&redis, &mut redis::cmd("FLUSHALL")).await;
    assert_eq!(rig.cached("a.example").await, 1);
    rig.warm("a.example").await;
}

#[tokio::test]
async fn redis_may_be_away_at_the_start() {
    let redis = Redis::start();
    redis.kill();
    let rig = Rig::new(&options(&redis.url()), 1, false);
    rig.deliver_elsewhere("a.example").await;
    assert_eq!(rig.cached("a.example").await, 1);
    assert_eq!(rig.requests("bypass"), 1);
    redis.start_again();
    rig.warm("a.example").await;
}

#[tokio::test]
async fn redis_is_not_used_before_the_store_says_which_one_it_is() {
    let redis = Redis::start();
    let rig = Rig::new(&options(&redis.url()), 1, true);
    for _ in 0..20 {
        rig.cached("a.example").await;
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.requests("bypass"), 20);
    rig.store.is_away.store(false, SeqCst);
    rig.warm("a.example").await;
}
