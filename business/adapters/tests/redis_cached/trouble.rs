use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Instant,
};

use adapters::email_domains::{MillisClock, RedisOptions};
use business::email_domains::ports::DomainTallies;
use deadpool_redis::redis;
use foundation::testing::Redis;

use super::rig::{Rig, ask, delivered, eventually, non_zero, options, put_raw, raw};

const TTL_MS: u32 = 100;
const DOMAIN: &str = "a.example";

/// Two servers on one store and one Redis.
struct Servers {
    rigs: [Rig; 2],
    clock: MillisClock,
    /// When each commit was acknowledged, from the first.
    commits: Mutex<Vec<u64>>,
    reads: AtomicU64,
    is_over: AtomicBool,
}

impl Servers {
    /// Commits through one server after the other. Other commits reach the store past both, so
    /// that no entry is dropped for them.
    async fn commit_until_over(&self) {
        let mut turn = 0;
        while !self.is_over.load(SeqCst) {
            let group = delivered(&[DOMAIN]);
            match self.rigs.get(turn % 8) {
                Some(rig) => rig.cached.record(&group).await.unwrap(),
                None => self.rigs[0].store.record(&group).await.unwrap(),
            };
            self.commits.lock().unwrap().push((self.clock)());
            turn += 1;
            tokio::task::yield_now().await;
        }
    }

    /// Reads, and fails when a read shows less than was acknowledged a TTL before it began.
    async fn read_until_over(&self, server: usize) {
        while !self.is_over.load(SeqCst) {
            let began_ms = (self.clock)();
            let shown = self.rigs[server].cached(DOMAIN).await;
            let promised = {
                let commits = self.commits.lock().unwrap();
                commits.partition_point(|at_ms| at_ms + u64::from(TTL_MS) < began_ms)
            };
            assert!(
                shown >= promised as u64,
                "{shown} shown at {began_ms} ms, not {promised}"
            );
            self.reads.fetch_add(1, SeqCst);
            // A store in memory never makes a reader wait.
            tokio::task::yield_now().await;
        }
    }

    async fn go_on(&self) {
        let enough = self.reads.load(SeqCst) + 400;
        eventually("reads go on", async || self.reads.load(SeqCst) >= enough).await;
    }

    /// As a restored dump does, again and again, since commits drop it.
    async fn put_back_an_old_entry(&self, redis: &Redis) {
        let mut old = None;
        eventually("an entry is kept", async || {
            old = raw(redis, DOMAIN).await;
            old.is_some()
        })
        .await;
        let over_ms = (self.clock)() + 2 * u64::from(TTL_MS);
        eventually("time goes on", async || (self.clock)() > over_ms).await;
        let enough = self.reads.load(SeqCst) + 400;
        eventually("reads go on", async || {
            put_raw(redis, DOMAIN, old.as_deref().unwrap()).await;
            self.reads.load(SeqCst) >= enough
        })
        .await;
    }

    async fn wait_until_hit(&self) {
        let hits = || self.rigs.iter().map(|rig| rig.requests("hit")).sum::<u64>();
        let before = hits();
        eventually("the cache is used", async || hits() > before).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_any_trouble_no_read_is_older_than_promised() {
    let redis = Redis::start();
    let options = RedisOptions {
        ttl_ms: non_zero(TTL_MS),
        timeout_ms: non_zero(50),
        ..options(&redis.url())
    };
    let start = Instant::now();
    let clock: MillisClock = Arc::new(move || {
        // Far from zero, so that the time before the start can be told.
        1_000_000 + u64::try_from(start.elapsed().as_millis()).unwrap()
    });
    let first = Rig::new(&options, 1, false);
    let rigs = [(); 2].map(|()| first.beside(&options, Arc::clone(&clock)));
    let servers = Arc::new(Servers {
        rigs,
        clock,
        commits: Mutex::default(),
        reads: 0.into(),
        is_over: false.into(),
    });
    let mut tasks = vec![];
    for server in [0, 1, 0, 1] {
        let servers = Arc::clone(&servers);
        tasks.push(tokio::spawn(async move {
            servers.read_until_over(server).await;
        }));
    }
    let committing = Arc::clone(&servers);
    tasks.push(tokio::spawn(
        async move { committing.commit_until_over().await },
    ));

    for _ in 0..3 {
        servers.wait_until_hit().await;
        redis.freeze();
        servers.go_on().await;
        redis.thaw();
        servers.wait_until_hit().await;

        servers.put_back_an_old_entry(&redis).await;
        servers.wait_until_hit().await;
        ask::<()>(&redis, &mut redis::cmd("FLUSHALL")).await;
        servers.wait_until_hit().await;
        redis.kill();
        servers.go_on().await;
        redis.start_again();
    }
    servers.is_over.store(true, SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
}
