//! The suite over a primary with a shadow, which stays in step with it whatever the suite does.

use std::sync::Arc;

use adapters::email_domains::Shadowed;
use business::email_domains::ports::DomainTallies;
use conformance::email_domains::{Reopenable, Subject};
use foundation::supervision::Shutdown;
use prometheus::Registry;
use tempfile::TempDir;

use super::{
    begin::{connected, embedded, migrated},
    in_step, memory, metric, options,
    rig::Ticks,
};

/// What a shadow told of itself.
struct Told(Registry);

impl Told {
    /// It may be out of step.
    fn differs_not(&self) {
        assert_eq!(metric(&self.0, "catchall_shadow_differences_total"), 0);
    }
}

/// Dropped with its subject.
struct CameAlong(Told);

impl Drop for CameAlong {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(in_step(&self.0.0), "the shadow is out of step");
            self.0.differs_not();
        }
    }
}

async fn shadowed(
    primary: Arc<dyn DomainTallies>,
    shadow: Arc<dyn DomainTallies>,
    began: u32,
) -> (Arc<Shadowed>, Told) {
    let clock = Ticks::from(began);
    let registry = Registry::new();
    let options = options(10_000_000, 1_000);
    let shadowed = Shadowed::begin(primary, shadow, options, &clock, Shutdown::new(), &registry);
    (Arc::new(shadowed.await.unwrap()), Told(registry))
}

async fn fresh_memory() -> Subject {
    let (store, check) = shadowed(memory(), memory(), 0).await;
    Subject {
        keep: Box::new(CameAlong(check)),
        ..Subject::new(store)
    }
}

async fn fresh_postgres_with_embedded() -> Subject {
    let folder = tempfile::tempdir().unwrap();
    let primary = connected(&migrated().await).await;
    let (store, check) = shadowed(primary, embedded(&folder), 0).await;
    Subject {
        keep: Box::new((CameAlong(check), folder)),
        ..Subject::new(store)
    }
}

/// Both stores outlive the process.
struct Stored {
    url: String,
    folder: TempDir,
    open: Option<(Subject, Arc<Shadowed>, Told)>,
    began: u32,
}

async fn stored() -> Stored {
    let mut stored = Stored {
        url: migrated().await,
        folder: tempfile::tempdir().unwrap(),
        open: None,
        began: 0,
    };
    stored.open().await;
    stored
}

impl Stored {
    async fn open(&mut self) {
        let primary = connected(&self.url).await;
        let (store, check) = shadowed(primary, embedded(&self.folder), self.began).await;
        let subject = Subject::new(store.clone());
        self.open = Some((subject, store, check));
        // In a later life the suite repeats groups of this one.
        self.began = u32::MAX - 1;
    }
}

impl Reopenable for Stored {
    fn subject(&self) -> &Subject {
        &self.open.as_ref().unwrap().0
    }

    async fn reopen(&mut self) {
        let (subject, store, check) = self.open.take().unwrap();
        store.close().await;
        drop((subject, store));
        check.differs_not();
        self.open().await;
    }
}

conformance::domain_tallies!(a_memory_with_a_shadow, fresh_memory, [mechanism]);
conformance::domain_tallies!(
    a_postgres_with_an_embedded_shadow,
    fresh_postgres_with_embedded,
    [mechanism, reopens(stored)]
);
