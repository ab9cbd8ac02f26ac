//! A store that is away when it is told so, and a spool before it.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use adapters::email_domains::{
    Accounting, Guarded, GuardedOptions, MarkLimits, Memory, SpoolError, Spooled, SpooledOptions,
    embedded::disk::{Directory, Disk},
};
use async_trait::async_trait;
use business::{
    email_domains::{
        model::{
            Changes, DomainName, EventKind, Group, GroupId, Key, Mark, Member, Outcome, Tally,
            WriterId,
        },
        ports::{
            DomainTallies, Freshness, Page, PageRequest, PendingEvents, Probe, Recorded, StoreId,
            Totals,
        },
    },
    kernel::{Clock, ErrorKind, PortError, UnixSeconds},
};
use conformance::email_domains::{POLICY, WINDOW_S};
use foundation::supervision::Shutdown;
use parking_lot::Mutex;
use prometheus::Registry;
use tempfile::TempDir;

/// When the tests happen.
pub(crate) const NOW: u32 = 1_800_000_000;

/// How a store is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Weather {
    Up,
    /// Refuses: nothing is applied.
    Down(ErrorKind),
    /// Applies, and does not say so: as when a connection is lost during COMMIT.
    Silent,
    /// Never answers.
    Frozen,
    /// Once so many groups are recorded it never answers, and applies what it was sent when it is told
    /// to: as when a statement stands in some buffer on the way.
    LateAfter(usize),
}

/// A store in memory, and the way to it.
pub(crate) struct Store {
    memory: Memory,
    pub(crate) weather: Mutex<Weather>,
    /// What was sent and is not applied.
    late: Mutex<Vec<Group>>,
    /// How many calls of `record` were answered well.
    pub(crate) recorded: AtomicUsize,
}

impl Store {
    pub(crate) fn new(id: u128) -> Arc<Self> {
        let marks = MarkLimits {
            window_s: WINDOW_S,
            max_count: NonZeroU32::MAX,
        };
        Arc::new(Self {
            memory: Memory::new(POLICY, marks, StoreId(id)),
            weather: Mutex::new(Weather::Up),
            late: Mutex::default(),
            recorded: AtomicUsize::new(0),
        })
    }

    /// The highest number of a group that is late.
    pub(crate) fn latest_late(&self) -> u64 {
        let late = self.late.lock();
        let numbers = late.iter().filter_map(|group| group.id);
        numbers.map(|id| id.sequence).max().unwrap_or(0)
    }

    /// Applies what is late, as far as it may be.
    pub(crate) async fn deliver(&self) {
        let late = std::mem::take(&mut *self.late.lock());
        for group in late {
            let _ = self.memory.record(&group).await;
        }
    }

    pub(crate) fn set(&self, weather: Weather) {
        *self.weather.lock() = weather;
    }

    async fn reach(&self) -> Result<Weather, PortError> {
        let weather = *self.weather.lock();
        match weather {
            Weather::Down(kind) => Err(PortError::new(kind, "test")),
            Weather::Frozen => std::future::pending().await,
            weather => Ok(weather),
        }
    }

    /// What is counted of a domain, in whatever weather: delivered, bounced.
    pub(crate) async fn counts(&self, domain: &str) -> (u64, u64) {
        let tallies = self.memory.get(&[name(domain)], Freshness::Latest).await;
        let tally = tallies.unwrap()[0];
        (tally.delivered, tally.bounced)
    }

    pub(crate) async fn all(&self) -> Totals {
        self.memory.totals().await.unwrap()
    }
}

#[async_trait]
impl DomainTallies for Store {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        let weather = self.reach().await?;
        let recorded = self.recorded.load(Ordering::Relaxed);
        if matches!(weather, Weather::LateAfter(after) if recorded >= after) {
            self.late.lock().push(group.clone());
            std::future::pending::<()>().await;
        }
        let recorded = self.memory.record(group).await?;
        if weather == Weather::Silent {
            return Err(PortError::new(ErrorKind::Ambiguous, "test"));
        }
        self.recorded.fetch_add(1, Ordering::Relaxed);
        Ok(recorded)
    }

    async fn get(
        &self,
        domains: &[DomainName],
        freshness: Freshness,
    ) -> Result<Vec<Tally>, PortError> {
        self.reach().await?;
        self.memory.get(domains, freshness).await
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        self.reach().await?;
        self.memory.page(request).await
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        self.reach().await?;
        self.memory.totals().await
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        self.reach().await?;
        self.memory.probe().await
    }
}

pub(crate) const OPTIONS: SpooledOptions = SpooledOptions {
    after: Duration::from_millis(100),
    max_bytes: 1 << 30,
    min_free_bytes: 0,
    max_age_s: 3_600,
};

struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> UnixSeconds {
        NOW.into()
    }
}

pub(crate) async fn open(store: &Arc<Store>, folder: &TempDir) -> Spooled {
    open_with(store, folder, OPTIONS).await.unwrap()
}

pub(crate) async fn open_with(
    store: &Arc<Store>,
    folder: &TempDir,
    options: SpooledOptions,
) -> Result<Spooled, SpoolError> {
    open_shown(store, folder, options, &Registry::new()).await
}

/// The same, and shows its metrics in this registry.
pub(crate) async fn open_shown(
    store: &Arc<Store>,
    folder: &TempDir,
    options: SpooledOptions,
    registry: &Registry,
) -> Result<Spooled, SpoolError> {
    let disk = Arc::new(Directory::new(folder.path()).unwrap());
    open_on(store, disk, options, registry).await
}

/// The same, on a disk of any kind.
pub(crate) async fn open_on(
    store: &Arc<Store>,
    disk: Arc<dyn Disk>,
    options: SpooledOptions,
    registry: &Registry,
) -> Result<Spooled, SpoolError> {
    let shutdown = Shutdown::new();
    // It gives up on a store that is frozen, and makes no other difference.
    let within = GuardedOptions {
        record_within: Duration::from_millis(200),
        read_within: Duration::from_millis(200),
    };
    let guarded = Arc::new(Guarded::new(store.clone(), within, registry).unwrap());
    let accounting = Accounting::register(registry).unwrap();
    Spooled::open(
        guarded,
        disk,
        options,
        Arc::new(Stopped),
        &shutdown,
        &accounting,
        registry,
    )
    .await
}

pub(crate) fn name(domain: &str) -> DomainName {
    DomainName::parse(domain).unwrap()
}

/// One delivery.
pub(crate) fn event(domain: &str, mark: Option<Mark>) -> Member {
    Member {
        mark,
        changes: Changes::event(name(domain), EventKind::Delivered),
    }
}

pub(crate) fn mark(hash: u128, stamped_at: Option<u32>) -> Option<Mark> {
    let stamped_at = stamped_at.map(Into::into);
    Some(Mark {
        key: Key { hash, stamped_at },
        fingerprint: 1,
    })
}

pub(crate) fn group(
    writer: u128,
    sequence: u64,
    members: impl IntoIterator<Item = Member>,
) -> Group {
    Group {
        id: Some(GroupId {
            writer: WriterId(writer),
            sequence,
        }),
        formed_at: UnixSeconds::from(NOW),
        members: members.into_iter().map(Arc::new).collect(),
    }
}

/// Whether the only member's outcome is this.
pub(crate) fn is(result: &Result<Recorded, PortError>, outcome: Outcome) -> bool {
    result.as_ref().is_ok_and(|r| r.outcomes[..] == [outcome])
}

/// Waits until nothing waits in the spool.
pub(crate) async fn drained(spooled: &Spooled) {
    eventually("the spool is empty", || spooled.oldest().is_none()).await;
}

pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
