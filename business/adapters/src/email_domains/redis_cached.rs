mod entry;
mod metrics;
mod session;
mod worker;

use std::{
    num::{NonZeroU8, NonZeroU32},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use business::{
    email_domains::{
        model::{DomainName, DomainRef, Group, Tally},
        ports::{DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, Totals},
    },
    kernel::{PortError, Retry},
};
use deadpool_redis::{BuildError, Manager, Pool, redis::AsyncConnectionConfig, redis::RedisError};
use foundation::{
    planted::planted_bug,
    supervision::{Role, Shutdown, spawn_worker_task},
};
use prometheus::Registry;
use tokio::sync::{Mutex, mpsc};

use self::{
    entry::Entry,
    metrics::Metrics,
    session::{Failure, Link, Order, Session},
    worker::Worker,
};

/// Answers [`Freshness::Cached`] reads of domains from Redis; all else goes to the store.
///
/// The whole promise: what such a read shows was in the store at most `ttl_ms` earlier, give or
/// take how far the clocks of the servers that share the Redis differ.
///
/// - Each entry carries the time at which its read of the store **began**, and the reader judges
///   its age by its own clock. Redis expires entries too, but only to free memory: a frozen Redis
///   applies a write much later, and a restored one brings entries back.
/// - Each key carries the store's id, so a new store never meets the entries of an old one. As
///   long as the store has not told its id, Redis is not used.
/// - A commit never waits for Redis. What it touched is dropped afterwards, through a bounded
///   queue, so that most readers see it sooner than the promise says; when the queue is full, or
///   the commit's caller went away, the promise alone holds.
/// - What a read found in the store is put into Redis through the same queue and by the same
///   task, in order. A read that began before a commit may still be put after the commit's drop;
///   it is as old as it says, and no older than promised.
/// - Redis is asked under a deadline. After the first failure nobody asks it any more: one task
///   tries again every `retry_after_ms`, and readers return once it answers. Until then a read
///   costs what the store takes. So a Redis that is dead, slow, frozen or full costs a reader at
///   most one deadline, and never an error.
///
/// Counts and times are cached, so nothing is kept longer for a verdict that is final.
pub struct RedisCached {
    inner: Arc<dyn DomainTallies>,
    link: Arc<Link>,
    orders: mpsc::Sender<Order>,
    metrics: Arc<Metrics>,
    clock: MillisClock,
    ttl_ms: u64,
}

/// Milliseconds since the epoch, by the wall clock that all servers share.
pub type MillisClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How Redis is used.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// `redis://[user:password@]host:port[/database]`. One Redis, not a cluster.
    pub url: foundation::settings::Secret,
    /// How old an answer may be, in milliseconds.
    pub ttl_ms: NonZeroU32,
    /// How long one exchange with Redis may take, connecting included, in milliseconds.
    pub timeout_ms: NonZeroU32,
    /// How long Redis is left alone after a failure, in milliseconds.
    pub retry_after_ms: NonZeroU32,
    /// How many connections the server keeps; all are shared.
    pub connections: NonZeroU8,
    /// How many domains may wait to be dropped from Redis or put into it.
    pub queue_capacity: NonZeroU32,
}

/// Why the policy cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum RedisSetupError {
    /// The URL is none that Redis is reached by.
    #[error("not a Redis URL")]
    Url(#[source] RedisError),
    /// The pool's options contradict each other.
    #[error(transparent)]
    Pool(#[from] BuildError),
    /// A metric's name is taken.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// The system gives no thread.
    #[error(transparent)]
    Thread(#[from] std::io::Error),
}

/// All it does has deadlines far below this.
const WORKER: Role = Role {
    name: "redis-cache",
    group: "cache",
    patience: Duration::from_secs(60),
};

impl RedisCached {
    /// Puts a cache before `inner`. Redis and the store may both be away still. The task that talks
    /// to Redis is started again when it panics.
    ///
    /// # Errors
    /// See [`RedisSetupError`].
    ///
    /// # Panics
    /// Outside a tokio runtime: the task that talks to Redis is spawned on the present one.
    pub fn new(
        inner: Arc<dyn DomainTallies>,
        options: &RedisOptions,
        clock: MillisClock,
        shutdown: &Shutdown,
        registry: &Registry,
    ) -> Result<Self, RedisSetupError> {
        let deadline = millis(options.timeout_ms);
        // The deadline stands around each exchange; the client needs none of its own.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let manager =
            Manager::new_with_config(options.url.expose(), config).map_err(RedisSetupError::Url)?;
        let pool = Pool::builder(manager)
            .max_size(options.connections.get().into())
            .build()?;

        let metrics = Arc::new(Metrics::register(registry)?);
        let link = Arc::new(Link::down(metrics.up.clone()));
        let (orders, queue) = mpsc::channel(options.queue_capacity.get() as usize);
        let ttl_ms = options.ttl_ms.get().into();
        let worker = Arc::new(Worker {
            store: Arc::downgrade(&inner),
            pool,
            link: Arc::clone(&link),
            orders: Mutex::new(queue),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
            ttl_ms,
            deadline,
            retry_after: millis(options.retry_after_ms),
        });
        let work = move |heart| Arc::clone(&worker).run(heart);
        spawn_worker_task(WORKER, shutdown, work)?;
        Ok(Self {
            inner,
            link,
            orders,
            metrics,
            clock,
            ttl_ms,
        })
    }

    /// The tallies in Redis that are fresh, in the order of the domains.
    async fn cached(
        &self,
        session: &Session,
        domains: &[DomainName],
    ) -> Result<Vec<Option<Tally>>, Failure> {
        let values = session.fetch(domains).await?;
        let now_ms = (self.clock)();
        let mut values = values.into_iter();
        let fresh = domains.iter().map(|domain| {
            let entry = Entry::decode(domain, &values.next()??)?;
            entry.is_fresh(now_ms, self.ttl_ms).then_some(entry.tally)
        });
        Ok(fresh.collect())
    }

    /// Reads what the cache did not have, and has it put there.
    async fn read_through(&self, missed: Vec<DomainName>) -> Result<Vec<Tally>, PortError> {
        let mut read_at_ms = (self.clock)();
        // Of another cache below, the age would add up.
        let tallies = self.inner.get(&missed, Freshness::Latest).await?;
        if planted_bug("entry-stamped-at-its-end") {
            read_at_ms = (self.clock)();
        }
        for (domain, tally) in missed.into_iter().zip(&tallies) {
            // The other half of the queue is kept for what commits touched.
            if self.orders.capacity() <= self.orders.max_capacity() / 2 {
                break;
            }
            let entry = Entry {
                tally: *tally,
                read_at_ms,
            };
            // A full queue costs a miss later on, no more.
            let _ = self.orders.try_send(Order::Keep(domain, entry));
        }
        Ok(tallies)
    }

    /// The planted bug of this name: the cache shows what may never be committed.
    async fn keep_before_commit(&self, group: &Group) {
        let mut changes = group.members.iter().flat_map(|m| m.changes.iter());
        let Some(change) = changes.next() else {
            return;
        };
        let domain = change.domain.to_name();
        let found = self
            .inner
            .get(std::slice::from_ref(&domain), Freshness::Latest)
            .await;
        for tally in found.unwrap_or_default() {
            let (delivered, bounced) = (change.delivered.into(), change.bounced.into());
            let entry = Entry {
                tally: tally.plus(delivered, bounced, group.formed_at),
                read_at_ms: (self.clock)(),
            };
            let _ = self.orders.try_send(Order::Keep(domain.clone(), entry));
        }
    }

    /// Has the entries of all domains in the group dropped.
    fn invalidate(&self, group: &Group) {
        let mut touched: Vec<DomainRef<'_>> = group
            .members
            .iter()
            .flat_map(|member| member.changes.iter())
            .map(|change| change.domain)
            .collect();
        touched.sort_unstable();
        touched.dedup();
        let up = self.link.is_up();
        let dropped = touched
            .iter()
            .filter(|domain| !up || self.orders.try_send(Order::Drop(domain.to_name())).is_err())
            .count();
        self.metrics.invalidations_dropped.inc_by(dropped as u64);
    }
}

#[async_trait]
impl DomainTallies for RedisCached {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        if planted_bug("cache-before-commit") {
            self.keep_before_commit(group).await;
        }
        let recorded = self.inner.record(group).await;
        let untouched = matches!(&recorded, Err(error) if error.kind().retry() == Retry::Safe);
        if !untouched {
            self.invalidate(group);
        }
        recorded
    }

    async fn get(
        &self,
        domains: &[DomainName],
        freshness: Freshness,
    ) -> Result<Vec<Tally>, PortError> {
        let count = domains.len() as u64;
        let session = match freshness {
            Freshness::Cached if count > 0 => self.link.session(),
            _ => None,
        };
        let Some(session) = session else {
            self.metrics.bypasses.inc_by(count);
            return self.inner.get(domains, freshness).await;
        };
        let cached = match self.cached(&session, domains).await {
            Ok(cached) => cached,
            Err(failure) => {
                self.link.end(&session, &failure);
                self.metrics.errors.inc_by(count);
                return self.inner.get(domains, freshness).await;
            }
        };
        let missed: Vec<_> = domains
            .iter()
            .zip(&cached)
            .filter(|(_, tally)| tally.is_none())
            .map(|(domain, _)| domain.clone())
            .collect();
        let misses = missed.len() as u64;
        self.metrics.misses.inc_by(misses);
        self.metrics.hits.inc_by(count - misses);
        if missed.is_empty() {
            return Ok(cached.into_iter().flatten().collect());
        }
        let mut read = self.read_through(missed).await?.into_iter();
        Ok(cached
            .into_iter()
            .filter_map(|tally| tally.or_else(|| read.next()))
            .collect())
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        self.inner.page(request).await
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        self.inner.totals().await
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        self.inner.probe().await
    }
}

fn millis(count: NonZeroU32) -> Duration {
    Duration::from_millis(count.get().into())
}
