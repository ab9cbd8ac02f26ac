//! The whole stack, put together by the server's own wiring, keeps the promises of the port.

use std::{any::Any, sync::Arc};

use catchall::{
    settings::Settings,
    wiring::{Wired, wire},
};
use conformance::email_domains::{POLICY, Reopenable, Subject};
use foundation::{
    supervision::Shutdown,
    telemetry::Metrics,
    testing::{Postgres, Redis},
};

/// What is set beside the threshold, and what must live as long as the store.
type Made = (Vec<(&'static str, String)>, Arc<dyn Any + Send + Sync>);

fn memory() -> Made {
    (vec![("store.kind", "memory".into())], Arc::new(()))
}

fn embedded() -> Made {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap().to_owned();
    let settings = vec![
        ("store.kind", "embedded".into()),
        ("store.embedded.path", path),
        // Small, so that segments and snapshots come and go.
        ("store.embedded.segment_bytes", "16384".into()),
        ("store.embedded.snapshot_after_bytes", "65536".into()),
    ];
    (settings, Arc::new(folder))
}

fn postgres() -> Made {
    let url = Postgres::shared().create_database();
    let settings = vec![
        ("store.kind", "postgres".into()),
        ("store.postgres.url", url),
    ];
    (settings, Arc::new(()))
}

/// The embedded store, with PostgreSQL as its shadow.
fn shadowed() -> Made {
    let (mut settings, keep) = embedded();
    let url = Postgres::shared().create_database();
    settings.push(("store.postgres.url", url));
    settings.push(("store.shadow.kind", "postgres".into()));
    (settings, keep)
}

fn cached((mut settings, keep): Made) -> Made {
    settings.push(("cache.kind", "redis".into()));
    settings.push(("cache.redis.url", Redis::shared().url()));
    (settings, keep)
}

async fn wired(settings: &[(&'static str, String)]) -> Wired {
    let threshold = ("verdict.threshold", POLICY.threshold().to_string());
    let settings = settings.iter().cloned().chain([threshold]);
    let settings = Settings::load(None, settings).unwrap();
    let (shutdown, metrics) = (Shutdown::new(), Metrics::new().unwrap());
    wire(&settings, &shutdown, &metrics).await.unwrap()
}

async fn fresh((settings, keep): Made) -> Subject {
    let wired = wired(&settings).await;
    Subject {
        keep: Box::new(keep),
        ..Subject::new(wired.tallies())
    }
}

/// A stack that is closed as the server closes it.
struct Stored {
    made: Made,
    open: Option<(Wired, Subject)>,
}

impl Stored {
    async fn new(made: Made) -> Self {
        let mut stored = Self { made, open: None };
        stored.open().await;
        stored
    }

    async fn open(&mut self) {
        let wired = wired(&self.made.0).await;
        let subject = Subject::new(wired.tallies());
        self.open = Some((wired, subject));
    }
}

impl Reopenable for Stored {
    fn subject(&self) -> &Subject {
        &self.open.as_ref().unwrap().1
    }

    async fn reopen(&mut self) {
        let (wired, subject) = self.open.take().unwrap();
        drop(subject);
        wired.close().await;
        self.open().await;
    }
}

conformance::domain_tallies!(in_memory, || fresh(memory()), [front]);
conformance::domain_tallies!(
    on_disk,
    || fresh(embedded()),
    [front, reopens(|| Stored::new(embedded()))]
);
conformance::domain_tallies!(
    in_postgres,
    || fresh(postgres()),
    [front, reopens(|| Stored::new(postgres()))]
);
conformance::domain_tallies!(
    on_disk_behind_redis,
    || fresh(cached(embedded())),
    [front, reopens(|| Stored::new(cached(embedded())))]
);
conformance::domain_tallies!(
    in_postgres_behind_redis,
    || fresh(cached(postgres())),
    [front, reopens(|| Stored::new(cached(postgres())))]
);
conformance::domain_tallies!(
    on_disk_beside_postgres,
    || fresh(shadowed()),
    [front, reopens(|| Stored::new(shadowed()))]
);
