//! The suite over the stores that need no other service, and over the policies that wrap them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use adapters::{
    SystemClock,
    email_domains::{
        Accounting, Batched, BatchedOptions, Embedded, Guarded, GuardedOptions, MarkLimits, Memory,
        Spooled, SpooledOptions, Traced,
        embedded::{EmbeddedOptions, disk::Directory},
    },
};
use business::{
    email_domains::ports::{DomainTallies, StoreId},
    kernel::Clock,
};
use conformance::email_domains::{POLICY, Reopenable, Subject, WINDOW_S};
use foundation::supervision::Shutdown;
use prometheus::Registry;
use tempfile::TempDir;

const MARKS: MarkLimits = MarkLimits {
    window_s: WINDOW_S,
    max_count: NonZeroU32::MAX,
};

fn memory() -> Arc<dyn DomainTallies> {
    Arc::new(Memory::new(POLICY, MARKS, StoreId(0xfeed << 64)))
}

/// Small files, so that the suite meets full segments and snapshots.
const SMALL: EmbeddedOptions = EmbeddedOptions {
    segment_bytes: 4_096,
    snapshot_after_bytes: 16_384,
    marks: MARKS,
    min_free_bytes: 0,
};

fn embedded(folder: &TempDir) -> Arc<dyn DomainTallies> {
    let disk = Arc::new(Directory::new(folder.path()).unwrap());
    let (store, _) =
        Embedded::open(disk, SMALL, POLICY, &Shutdown::new(), &Registry::new()).unwrap();
    Arc::new(store)
}

fn batched(inner: Arc<dyn DomainTallies>, committers: usize) -> Arc<dyn DomainTallies> {
    let options = BatchedOptions {
        committers: NonZeroUsize::new(committers).unwrap(),
        queue_capacity: NonZeroU32::new(16_384).unwrap(),
        max_wait: Duration::from_secs(60),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (shutdown, registry) = (Shutdown::new(), Registry::new());
    let accounting = Accounting::register(&registry).unwrap();
    let batched = Batched::start(inner, options, &clock, &shutdown, &accounting, &registry);
    Arc::new(batched.unwrap())
}

fn traced(inner: Arc<dyn DomainTallies>) -> Arc<dyn DomainTallies> {
    let registry = Registry::new();
    let accounting = Accounting::register(&registry).unwrap();
    Arc::new(Traced::new(inner, "memory", &accounting, &registry).unwrap())
}

async fn fresh_memory() -> Subject {
    Subject::new(memory())
}

async fn fresh_embedded() -> Subject {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded(&folder);
    Subject {
        keep: Box::new(folder),
        ..Subject::new(store)
    }
}

async fn fresh_traced() -> Subject {
    Subject::new(traced(memory()))
}

async fn fresh_guarded() -> Subject {
    let options = GuardedOptions {
        record_within: Duration::from_secs(60),
        read_within: Duration::from_secs(60),
    };
    let guarded = Guarded::new(memory(), options, &Registry::new());
    Subject::new(Arc::new(guarded.unwrap()))
}

async fn fresh_spooled() -> Subject {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Directory::new(folder.path()).unwrap());
    let options = SpooledOptions {
        after: Duration::from_secs(60),
        max_bytes: 1 << 20,
        min_free_bytes: 0,
        max_age_s: WINDOW_S.get() / 2,
    };
    let (shutdown, registry) = (Shutdown::new(), Registry::new());
    let clock = Arc::new(SystemClock);
    let accounting = Accounting::register(&registry).unwrap();
    let spooled = Spooled::open(
        memory(),
        disk,
        options,
        clock,
        &shutdown,
        &accounting,
        &registry,
    );
    Subject {
        keep: Box::new(folder),
        ..Subject::new(Arc::new(spooled.await.unwrap()))
    }
}

async fn fresh_batched() -> Subject {
    Subject::new(batched(memory(), 1))
}

async fn fresh_batched_by_four() -> Subject {
    Subject::new(batched(memory(), 4))
}

async fn fresh_stack() -> Subject {
    let folder = tempfile::tempdir().unwrap();
    let store = batched(traced(embedded(&folder)), 1);
    Subject {
        keep: Box::new(folder),
        ..Subject::new(store)
    }
}

struct Stored {
    folder: TempDir,
    open: fn(&TempDir) -> Arc<dyn DomainTallies>,
    subject: Option<Subject>,
}

impl Stored {
    fn new(open: fn(&TempDir) -> Arc<dyn DomainTallies>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let subject = Some(Subject::new(open(&folder)));
        Self {
            folder,
            open,
            subject,
        }
    }
}

impl Reopenable for Stored {
    fn subject(&self) -> &Subject {
        self.subject.as_ref().unwrap()
    }

    async fn reopen(&mut self) {
        self.subject = None;
        self.subject = Some(Subject::new((self.open)(&self.folder)));
    }
}

async fn stored_embedded() -> Stored {
    Stored::new(embedded)
}

conformance::domain_tallies!(a_guarded, fresh_guarded, [mechanism]);
conformance::domain_tallies!(a_spooled, fresh_spooled, [mechanism]);
conformance::domain_tallies!(a_memory, fresh_memory, [mechanism]);
conformance::domain_tallies!(
    an_embedded,
    fresh_embedded,
    [mechanism, reopens(stored_embedded)]
);
conformance::domain_tallies!(traced_memory, fresh_traced, [mechanism]);
conformance::domain_tallies!(batched_memory, fresh_batched, [front]);
conformance::domain_tallies!(batched_by_four, fresh_batched_by_four, [front]);
conformance::domain_tallies!(embedded_stack, fresh_stack, [front]);
