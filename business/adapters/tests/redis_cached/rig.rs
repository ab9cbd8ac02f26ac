//! A cache over a store in memory, before a Redis that can be stopped, frozen and looked into.

use std::{
    num::{NonZeroU8, NonZeroU32},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use adapters::email_domains::{MarkLimits, Memory, MillisClock, RedisCached, RedisOptions};
use async_trait::async_trait;
use business::{
    email_domains::{
        model::{Changes, DomainName, Group, Member, Tally},
        ports::{DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, StoreId, Totals},
    },
    kernel::{ErrorKind, PortError},
};
use conformance::email_domains::{POLICY, WINDOW_S};
use deadpool_redis::redis::{self, Client, Cmd, FromRedisValue, aio::MultiplexedConnection};
use foundation::{supervision::Shutdown, testing::Redis};
use prometheus::{Registry, TextEncoder};

/// How long a test waits for what must come. No test hopes to see it pass.
const PATIENCE: Duration = Duration::from_secs(30);
/// As the suite expects it.
pub(crate) const MARKS: MarkLimits = MarkLimits {
    window_s: WINDOW_S,
    max_count: NonZeroU32::MAX,
};
/// When the tests' time begins, in milliseconds.
pub(crate) const START_MS: u64 = 1_800_000_000_000;

/// A store that can be told to fail, and counts how often it is read.
pub(crate) struct Store {
    memory: Memory,
    now_ms: Arc<AtomicU64>,
    pub(crate) reads: AtomicU64,
    /// How long a read takes of the tests' time.
    pub(crate) read_takes_ms: AtomicU64,
    /// It does not say which one it is.
    pub(crate) is_away: AtomicBool,
    /// It records, and loses the answer.
    pub(crate) loses_answers: AtomicBool,
}

#[async_trait]
impl DomainTallies for Store {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        let recorded = self.memory.record(group).await?;
        if self.loses_answers.load(SeqCst) {
            return Err(PortError::new(ErrorKind::Ambiguous, "record"));
        }
        Ok(recorded)
    }

    async fn get(&self, domains: &[DomainName], f: Freshness) -> Result<Vec<Tally>, PortError> {
        self.reads.fetch_add(1, SeqCst);
        let tallies = self.memory.get(domains, f).await;
        self.now_ms
            .fetch_add(self.read_takes_ms.load(SeqCst), SeqCst);
        tallies
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        self.memory.page(request).await
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        self.memory.totals().await
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        if self.is_away.load(SeqCst) {
            return Err(PortError::new(ErrorKind::Unavailable, "probe"));
        }
        self.memory.probe().await
    }
}

/// The parts that a test moves.
pub(crate) struct Rig {
    pub(crate) cached: RedisCached,
    pub(crate) store: Arc<Store>,
    pub(crate) now_ms: Arc<AtomicU64>,
    registry: Registry,
}

/// What most tests use: entries live a minute, so that nothing expires by itself meanwhile, and
/// an exchange may take long, so that a busy machine does not end a session.
pub(crate) fn options(url: &str) -> RedisOptions {
    RedisOptions {
        url: url.into(),
        ttl_ms: non_zero(60_000),
        timeout_ms: non_zero(10_000),
        retry_after_ms: non_zero(20),
        connections: NonZeroU8::new(2).unwrap(),
        queue_capacity: non_zero(1_024),
    }
}

pub(crate) fn non_zero(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

impl Rig {
    /// A cache that uses Redis already.
    pub(crate) async fn up(options: &RedisOptions) -> Self {
        let rig = Self::new(options, 1, false);
        rig.wait_until_up().await;
        rig
    }

    /// A cache over the store with this id.
    pub(crate) fn new(options: &RedisOptions, store: u128, is_away: bool) -> Self {
        let now_ms = Arc::new(AtomicU64::new(START_MS));
        let store = Arc::new(Store {
            memory: Memory::new(POLICY, MARKS, StoreId(store)),
            now_ms: Arc::clone(&now_ms),
            reads: 0.into(),
            read_takes_ms: 0.into(),
            is_away: is_away.into(),
            loses_answers: false.into(),
        });
        let clock = Arc::new({
            let now_ms = Arc::clone(&now_ms);
            move || now_ms.load(SeqCst)
        });
        Self::over(store, now_ms, clock, options)
    }

    /// One more cache over the same store, as on another server, and by this clock.
    pub(crate) fn beside(&self, options: &RedisOptions, clock: MillisClock) -> Self {
        Self::over(
            Arc::clone(&self.store),
            Arc::clone(&self.now_ms),
            clock,
            options,
        )
    }

    fn over(
        store: Arc<Store>,
        now_ms: Arc<AtomicU64>,
        clock: MillisClock,
        options: &RedisOptions,
    ) -> Self {
        let registry = Registry::new();
        let cached =
            RedisCached::new(store.clone(), options, clock, &Shutdown::new(), &registry).unwrap();
        Self {
            cached,
            store,
            now_ms,
            registry,
        }
    }

    /// How many were delivered to the domain, as the cache tells it.
    pub(crate) async fn cached(&self, domain: &str) -> u64 {
        self.get(domain, Freshness::Cached).await
    }

    pub(crate) async fn latest(&self, domain: &str) -> u64 {
        self.get(domain, Freshness::Latest).await
    }

    async fn get(&self, domain: &str, freshness: Freshness) -> u64 {
        let domains = names(&[domain]);
        in_time("a read", self.cached.get(&domains, freshness))
            .await
            .unwrap()[0]
            .delivered
    }

    /// Counts a delivery behind the cache's back, as another server does.
    pub(crate) async fn deliver_elsewhere(&self, domain: &str) {
        self.store.record(&delivered(&[domain])).await.unwrap();
    }

    /// Reads the domain until Redis answers, and not the store.
    pub(crate) async fn warm(&self, domain: &str) {
        eventually("an entry is kept", async || {
            let hits = self.requests("hit");
            self.cached(domain).await;
            self.requests("hit") > hits
        })
        .await;
    }

    pub(crate) async fn wait_until_up(&self) {
        eventually("the cache is used", async || {
            self.metric("catchall_cache_up") == 1
        })
        .await;
    }

    pub(crate) fn requests(&self, result: &str) -> u64 {
        self.metric(&format!(
            "catchall_cache_requests_total{{result=\"{result}\"}}"
        ))
    }

    pub(crate) fn invalidations_dropped(&self) -> u64 {
        self.metric("catchall_cache_invalidations_dropped_total")
    }

    fn metric(&self, name: &str) -> u64 {
        let text = TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
            .parse()
            .unwrap()
    }
}

pub(crate) fn names(texts: &[&str]) -> Vec<DomainName> {
    texts
        .iter()
        .map(|text| DomainName::parse(text).unwrap())
        .collect()
}

/// A group that adds one delivery to each of these domains.
pub(crate) fn delivered(domains: &[&str]) -> Group {
    let mut changes = Changes::default();
    for name in names(domains) {
        changes.push(name.borrowed(), 1, 0);
    }
    let member = Arc::new(Member {
        mark: None,
        changes,
    });
    Group {
        id: None,
        formed_at: 1_800_000_000.into(),
        members: [member].into_iter().collect(),
    }
}

/// The key under which the store numbered 1 keeps a domain.
pub(crate) fn key(domain: &str) -> String {
    format!("catchall:00000000000000000000000000000001:{domain}")
}

/// Speaks to Redis past the cache.
pub(crate) async fn ask<T: FromRedisValue>(redis: &Redis, command: &mut Cmd) -> T {
    let client = Client::open(redis.url()).unwrap();
    let mut connection: MultiplexedConnection =
        client.get_multiplexed_async_connection().await.unwrap();
    command.query_async(&mut connection).await.unwrap()
}

/// The bytes that lie under a domain's key.
pub(crate) async fn raw(redis: &Redis, domain: &str) -> Option<Vec<u8>> {
    ask(redis, redis::cmd("GET").arg(key(domain))).await
}

pub(crate) async fn put_raw(redis: &Redis, domain: &str, value: &[u8]) {
    ask::<()>(redis, redis::cmd("SET").arg(key(domain)).arg(value)).await;
}

/// What the future gives, or a failed test when it hangs.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(PATIENCE, future).await;
    result.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// Waits until it holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    in_time(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
