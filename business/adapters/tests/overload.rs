//! The group commit before a store that is held: who is refused, who waits, and what is counted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use adapters::{
    SystemClock,
    email_domains::{Accounting, Batched, BatchedOptions, MarkLimits, Memory},
};
use async_trait::async_trait;
use business::{
    email_domains::{
        model::{Changes, DomainName, Group, Member, Tally},
        ports::{DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, StoreId, Totals},
        verdict::VerdictPolicy,
    },
    kernel::{Clock, ErrorKind, PortError, UnixSeconds},
};
use foundation::supervision::Shutdown;
use prometheus::Registry;
use tokio::{sync::Semaphore, task::JoinSet};

const DEADLINE: Duration = Duration::from_secs(30);
const MAX_WAIT: Duration = Duration::from_secs(1);
const DOMAIN: &str = "a.example";

/// A store that records a group for every permit it gets.
struct Held {
    inner: Memory,
    entered: AtomicU32,
    permits: Semaphore,
}

#[async_trait]
impl DomainTallies for Held {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        self.entered.fetch_add(1, Ordering::SeqCst);
        self.permits.acquire().await.unwrap().forget();
        self.inner.record(group).await
    }

    async fn get(&self, domains: &[DomainName], of: Freshness) -> Result<Vec<Tally>, PortError> {
        self.inner.get(domains, of).await
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

struct Rig {
    store: Arc<Held>,
    batched: Arc<Batched>,
    /// Requests that were taken; each says how many events it had.
    waiting: JoinSet<Result<u64, PortError>>,
}

impl Rig {
    fn start() -> Self {
        let marks = MarkLimits {
            window_s: NonZeroU32::MAX,
            max_count: NonZeroU32::MAX,
        };
        let store = Arc::new(Held {
            inner: Memory::new(VerdictPolicy::default(), marks, StoreId(1)),
            entered: AtomicU32::new(0),
            permits: Semaphore::new(0),
        });
        let options = BatchedOptions {
            committers: NonZeroUsize::MIN,
            queue_capacity: NonZeroU32::new(100_000).unwrap(),
            max_wait: MAX_WAIT,
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let registry = Registry::new();
        let accounting = Accounting::register(&registry).unwrap();
        let batched = Batched::start(
            store.clone(),
            options,
            &clock,
            &Shutdown::new(),
            &accounting,
            &registry,
        );
        let batched = batched.unwrap();
        Self {
            store,
            batched: Arc::new(batched),
            waiting: JoinSet::new(),
        }
    }

    /// Sends a request with so many changes of one event each. `None` when it has to wait.
    async fn send(&mut self, events: usize) -> Option<Result<u64, PortError>> {
        let batched = Arc::clone(&self.batched);
        let mut record = Box::pin(async move {
            let recorded = batched.record(&request(events)).await;
            recorded.map(|_| events as u64)
        });
        // Polled once, it is queued or refused.
        let answer = tokio::select! {
            biased;
            answer = &mut record => Some(answer),
            () = std::future::ready(()) => None,
        };
        if answer.is_none() {
            self.waiting.spawn(record);
        }
        answer
    }

    async fn send_and_wait(&mut self, events: usize) {
        let answer = self.send(events).await;
        assert!(answer.is_none(), "{answer:?}");
    }

    /// Sends single events until one is refused; says how long that took.
    async fn send_until_refused(&mut self) -> Duration {
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < DEADLINE);
            if let Some(answer) = self.send(1).await {
                assert_eq!(answer.unwrap_err().kind(), ErrorKind::Overloaded);
                return started.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn entered(&self, groups: u32) {
        let started = Instant::now();
        while self.store.entered.load(Ordering::SeqCst) < groups {
            assert!(started.elapsed() < DEADLINE);
            tokio::task::yield_now().await;
        }
    }

    /// Lets the store go on, and holds what it counted against what was taken.
    async fn settle(&mut self) -> u64 {
        self.store.permits.add_permits(1_000);
        let mut taken = 0;
        while let Some(answer) = self.waiting.join_next().await {
            taken += answer.unwrap().unwrap();
        }
        assert_eq!(self.batched.totals().await.unwrap().delivered, taken);
        taken
    }
}

fn request(events: usize) -> Group {
    let name = DomainName::parse(DOMAIN).unwrap();
    let mut changes = Changes::default();
    for _ in 0..events {
        changes.push(name.borrowed(), 1, 0);
    }
    Group {
        id: None,
        formed_at: UnixSeconds::from(1_800_000_000),
        members: std::iter::once(Arc::new(Member {
            mark: None,
            changes,
        }))
        .collect(),
    }
}

#[tokio::test]
async fn a_queue_that_waits_too_long_takes_no_more_until_it_moves() {
    let mut rig = Rig::start();
    rig.send_and_wait(1).await;
    rig.entered(1).await;
    let took = rig.send_until_refused().await;
    assert!(took >= MAX_WAIT - Duration::from_millis(20), "{took:?}");
    let waiting = rig.waiting.len() as u64;
    assert!(waiting >= 2, "{waiting}");
    // Every one, and nothing of it waits.
    for _ in 0..100 {
        let answer = rig.send(1).await.unwrap();
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Overloaded);
    }
    assert_eq!(rig.waiting.len() as u64, waiting);

    // Those that waited were not dropped, and with them gone the next one is taken.
    assert_eq!(rig.settle().await, waiting);
    assert!(rig.batched.record(&request(1)).await.is_ok());
}

#[tokio::test]
async fn what_a_full_group_leaves_behind_still_counts_as_waiting() {
    const FULL: usize = 65_536;
    let mut rig = Rig::start();
    rig.send_and_wait(1).await;
    rig.entered(1).await;
    rig.send_and_wait(FULL).await;
    rig.send_and_wait(FULL).await;
    let second = Instant::now();
    rig.send_until_refused().await;
    // The store moves, yet the second of them has waited too long as well.
    tokio::time::sleep((MAX_WAIT + MAX_WAIT / 5).saturating_sub(second.elapsed())).await;
    rig.store.permits.add_permits(1);
    rig.entered(2).await;
    let answer = rig.send(1).await.expect("it is refused");
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Overloaded);
    assert!(rig.settle().await > 2 * FULL as u64);
}

#[tokio::test]
async fn neither_a_slow_group_with_nobody_behind_it_nor_an_idle_store_refuses_anybody() {
    let mut rig = Rig::start();
    rig.send_and_wait(1).await;
    rig.entered(1).await;
    tokio::time::sleep(MAX_WAIT * 2).await;
    rig.send_and_wait(1).await;
    assert_eq!(rig.settle().await, 2);

    tokio::time::sleep(MAX_WAIT * 2).await;
    for _ in 0..10 {
        assert!(rig.batched.record(&request(1)).await.is_ok());
    }
}
