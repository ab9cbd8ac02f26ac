//! What happens when code in the background panics.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    any::Any,
    io::{self, Read},
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use adapters::{
    SystemClock,
    email_domains::{
        Accounting, Batched, BatchedOptions, Embedded, MarkLimits, Memory,
        embedded::{
            EmbeddedOptions,
            disk::{Directory, Disk, DiskFile},
        },
    },
};
use async_trait::async_trait;
use business::{
    email_domains::{
        model::{Changes, DomainName, EventKind, Group, Member, Tally},
        ports::{DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, StoreId, Totals},
    },
    kernel::{Clock, ErrorKind, PortError},
};
use conformance::email_domains::{POLICY, WINDOW_S};
use foundation::supervision::{Cause, Shutdown};
use prometheus::Registry;
use smallvec::smallvec;

const MARKS: MarkLimits = MarkLimits {
    window_s: WINDOW_S,
    max_count: NonZeroU32::MAX,
};

fn event(domain: &str) -> Group {
    let name = DomainName::parse(domain).unwrap();
    Group {
        id: None,
        formed_at: 1_800_000_000.into(),
        members: smallvec![Arc::new(Member {
            mark: None,
            changes: Changes::event(name, EventKind::Delivered),
        })],
    }
}

fn batched(inner: Arc<dyn DomainTallies>, shutdown: &Shutdown) -> Batched {
    let options = BatchedOptions {
        committers: NonZeroUsize::MIN,
        queue_capacity: NonZeroU32::new(100).unwrap(),
        max_wait: Duration::from_secs(60),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let registry = Registry::new();
    let accounting = Accounting::register(&registry).unwrap();
    Batched::start(inner, options, &clock, shutdown, &accounting, &registry).unwrap()
}

/// Panics whenever it is to count something for `panic.example`.
struct Panicking(Memory);

#[async_trait]
impl DomainTallies for Panicking {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        let mut changes = group
            .members
            .iter()
            .flat_map(|member| member.changes.iter());
        let sound = changes.all(|change| change.domain.as_str() != "panic.example");
        assert!(sound, "planted");
        self.0.record(group).await
    }

    async fn get(
        &self,
        domains: &[DomainName],
        freshness: Freshness,
    ) -> Result<Vec<Tally>, PortError> {
        self.0.get(domains, freshness).await
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        self.0.page(request).await
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        self.0.totals().await
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        self.0.probe().await
    }
}

#[tokio::test]
async fn a_committer_that_panics_is_started_again_until_it_is_too_often() {
    let shutdown = Shutdown::new();
    let store = Arc::new(Panicking(Memory::new(POLICY, MARKS, StoreId(1))));
    let batched = batched(store.clone(), &shutdown);
    let mut counted = 0;
    let cause = loop {
        // Nobody knows what was applied before the panic.
        let unknown = batched.record(&event("panic.example")).await.unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::Ambiguous);
        // The next one waits for the next life, if there is one.
        let next = event("a.example");
        tokio::select! {
            recorded = batched.record(&next) => match recorded {
                Ok(_) => counted += 1,
                // Refused, or queued and never taken.
                Err(error) => {
                    let kinds = [ErrorKind::Unavailable, ErrorKind::Ambiguous];
                    assert!(kinds.contains(&error.kind()), "{error}");
                    break shutdown.requested().await;
                }
            },
            cause = shutdown.requested() => break cause,
        }
    };
    assert!(matches!(cause, Cause::Fatal(_)), "{cause}");
    // It was started again 3 times, and 3 times with its group; each time 3 times more.
    assert_eq!(counted, 15);
    assert_eq!(store.totals().await.unwrap().delivered, counted);
}

/// A folder whose files cannot be synced without a panic, once that is told.
struct Fragile {
    directory: Directory,
    panics: Arc<AtomicBool>,
}

struct FragileFile(Box<dyn DiskFile>, Arc<AtomicBool>);

impl Fragile {
    fn wrap(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FragileFile(file, Arc::clone(&self.panics)))
    }
}

impl DiskFile for FragileFile {
    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_at(bytes, at)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.truncate(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        assert!(!self.1.load(Ordering::SeqCst), "planted");
        self.0.sync()
    }
}

impl Disk for Fragile {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.directory.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.directory.list()
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        self.directory.read(name)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.directory.create(name).map(|file| self.wrap(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.directory.open(name).map(|file| self.wrap(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.directory.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.directory.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_directory()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.directory.free_bytes()
    }
}

#[tokio::test]
async fn a_panic_between_the_journal_and_the_map_is_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let panics = Arc::new(AtomicBool::new(false));
    let disk = Arc::new(Fragile {
        directory: Directory::new(folder.path()).unwrap(),
        panics: Arc::clone(&panics),
    });
    let options = EmbeddedOptions {
        segment_bytes: 4_096,
        snapshot_after_bytes: 1 << 20,
        marks: MARKS,
        min_free_bytes: 0,
    };
    let shutdown = Shutdown::new();
    let (store, _) = Embedded::open(disk, options, POLICY, &shutdown, &Registry::new()).unwrap();
    let store = Arc::new(store);
    let batched = batched(store.clone(), &shutdown);
    batched.record(&event("a.example")).await.unwrap();
    panics.store(true, Ordering::SeqCst);
    let unknown = batched.record(&event("a.example")).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Ambiguous);
    let Cause::Fatal(reason) = shutdown.requested().await else {
        panic!("it goes on");
    };
    assert!(reason.contains("panicked"), "{reason}");
    // It could be written again: but what is in memory may not be what is on the disk.
    panics.store(false, Ordering::SeqCst);
    let refused = store.record(&event("a.example")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
}
