//! Puts the server together. The one place where an adapter is named: a store is a stack of
//! policies over a mechanism, and here it is read from the outside in.

mod mechanisms;

use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use adapters::{
    SystemClock,
    email_domains::{
        Accounting, Batched, BatchedOptions, Guarded, GuardedOptions, RedisCached, RedisOptions,
        Shadowed, ShadowedOptions, Spooled, SpooledOptions, Traced,
        embedded::disk::{Directory, Disk},
        spooled,
    },
    system_millis,
};
use anyhow::{Context, bail, ensure};
use business::{
    email_domains::{
        ports::{DomainTallies, PendingEvents},
        service::EmailDomains,
        verdict::VerdictPolicy,
    },
    kernel::Clock,
};
use foundation::{supervision::Shutdown, telemetry::Metrics};

pub use self::mechanisms::migrate;
use self::mechanisms::{check_clock, embedded, memory, postgres};
use crate::settings::{CacheKind, PostgresSettings, Settings, StoreKind, WhenDown};

/// The stores of a server, and the services over them.
pub struct Wired {
    /// The context over its store.
    pub email_domains: EmailDomains,
    tallies: Arc<dyn DomainTallies>,
    batched: Option<Arc<Batched>>,
    shadowed: Option<Arc<Shadowed>>,
    spooled: Option<Arc<Spooled>>,
}

/// Opens the store that is set, and puts the policies around it.
///
/// # Errors
/// Says what is missing or does not answer. A half-wired server does not start.
pub async fn wire(
    settings: &Settings,
    shutdown: &Shutdown,
    metrics: &Metrics,
) -> anyhow::Result<Wired> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let registry = metrics.registry();
    let accounting = Accounting::register(registry)?;

    let store: Arc<dyn DomainTallies> = match settings.store.kind {
        StoreKind::Memory => Arc::new(memory(settings)),
        StoreKind::Embedded => Arc::new(embedded(settings, &*clock, shutdown, metrics)?),
        StoreKind::Postgres => {
            let postgres = Arc::new(postgres(settings, metrics).await?);
            let newest = postgres.newest().await;
            if let Some(newest) = newest.context("cannot read the store in PostgreSQL")? {
                check_clock(clock.now(), newest, settings.store.max_clock_lag_s)?;
            }
            let options = guarded_options(&settings.store.postgres);
            Arc::new(Guarded::new(postgres, options, registry)?)
        }
    };
    let shadowed = shadowed(settings, &store, &*clock, metrics).await?;
    let store = match &shadowed {
        Some(shadowed) => shadowed.clone(),
        None => store,
    };
    let spooled = spooled(&store, settings, &clock, shutdown, &accounting, metrics).await?;
    if let (Some(shadowed), Some(true)) =
        (&shadowed, spooled.as_ref().map(|s| s.oldest().is_some()))
    {
        shadowed.earlier_groups_wait();
    }
    let store = match &spooled {
        Some(spooled) => Arc::clone(spooled) as Arc<dyn DomainTallies>,
        None => store,
    };
    let cached: Arc<dyn DomainTallies> = match settings.cache.kind {
        CacheKind::None => store,
        CacheKind::Redis => Arc::new(
            RedisCached::new(
                store,
                &redis_options(settings)?,
                Arc::new(system_millis),
                shutdown,
                registry,
            )
            .context("cannot set up the cache")?,
        ),
    };
    let store_name = settings.store.kind.as_str();
    let traced = Arc::new(Traced::new(cached, store_name, &accounting, registry)?);

    // What is never durable gains nothing by being written in groups.
    let committers = match settings.store.kind {
        StoreKind::Memory => None,
        StoreKind::Embedded => Some(NonZeroUsize::MIN),
        StoreKind::Postgres => Some(settings.store.postgres.committers.into()),
    };
    let batched = committers
        .map(|committers| {
            let options = BatchedOptions {
                committers,
                queue_capacity: settings.queue.capacity,
                max_wait: millis(settings.queue.max_wait_ms),
            };
            let batched = Batched::start(
                traced.clone(),
                options,
                &clock,
                shutdown,
                &accounting,
                registry,
            );
            batched.map(Arc::new)
        })
        .transpose()
        .context("cannot start the committers")?;
    let tallies: Arc<dyn DomainTallies> = match &batched {
        Some(batched) => batched.clone(),
        None => traced,
    };
    let mut email_domains = EmailDomains::new(Arc::clone(&tallies), policy(settings), clock)
        .with_verdict_changes(Arc::new(accounting));
    if let Some(spooled) = &spooled {
        email_domains = email_domains.with_pending(spooled.clone());
    }
    Ok(Wired {
        email_domains,
        tallies,
        batched,
        shadowed,
        spooled,
    })
}

impl Wired {
    /// The whole stack behind `email_domains`, for the suite that every store has to pass.
    pub fn tallies(&self) -> Arc<dyn DomainTallies> {
        Arc::clone(&self.tallies)
    }

    /// Takes nothing more, and returns when all that waits is committed. The stores close when the
    /// last who holds them lets go.
    pub async fn close(self) {
        if let Some(batched) = self.batched {
            batched.close().await;
        }
        if let Some(spooled) = self.spooled {
            spooled.close().await;
        }
        if let Some(shadowed) = self.shadowed {
            shadowed.close().await;
        }
    }
}

fn policy(settings: &Settings) -> VerdictPolicy {
    VerdictPolicy::new(settings.verdict.threshold)
}

/// The store with a shadow, if one is set.
async fn shadowed(
    settings: &Settings,
    store: &Arc<dyn DomainTallies>,
    clock: &dyn Clock,
    metrics: &Metrics,
) -> anyhow::Result<Option<Arc<Shadowed>>> {
    let Some(kind) = settings.store.shadow.kind.store() else {
        return Ok(None);
    };
    // What breaks in the shadow does not stop the process.
    let contained = Shutdown::of_part("shadow");
    let shadow: Arc<dyn DomainTallies> = match kind {
        StoreKind::Memory => Arc::new(memory(settings)),
        kind if kind == settings.store.kind => bail!(
            "`store.shadow.kind` is \"{0}\", as `store.kind` is: a shadow is another store",
            kind.as_str()
        ),
        StoreKind::Embedded => {
            Arc::new(embedded(settings, clock, &contained, metrics).context("there is no shadow")?)
        }
        StoreKind::Postgres => Arc::new(
            postgres(settings, metrics)
                .await
                .context("there is no shadow")?,
        ),
    };
    let options = ShadowedOptions {
        queue_capacity: settings.store.shadow.queue_capacity,
        compared_per_s: settings.store.shadow.compared_per_s,
    };
    let shadowed = Shadowed::begin(
        Arc::clone(store),
        shadow,
        options,
        clock,
        contained,
        metrics.registry(),
    );
    let shadowed = shadowed.await.context("`store.shadow` cannot be kept")?;
    Ok(Some(Arc::new(shadowed)))
}

/// Opens the spool of the store, if there is to be one.
async fn spooled(
    store: &Arc<dyn DomainTallies>,
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    shutdown: &Shutdown,
    accounting: &Accounting,
    metrics: &Metrics,
) -> anyhow::Result<Option<Arc<Spooled>>> {
    let spool = &settings.store.spool;
    let path = spool.path.display();
    let failed = || format!("cannot open the spool in {path}");
    if settings.store.when_down == WhenDown::Refuse {
        // What was acknowledged must not be forgotten with a setting.
        let left = spool.path.exists() && {
            let disk: Arc<dyn Disk> = Arc::new(Directory::new(&spool.path).with_context(failed)?);
            spooled::holds_groups(&disk).with_context(failed)?
        };
        ensure!(
            !left,
            "the spool in {path} holds events that were acknowledged and do not count yet: set \
             `store.when_down` to \"spool\" until it is empty"
        );
        return Ok(None);
    }
    ensure!(
        settings.store.kind == StoreKind::Postgres,
        "`store.when_down = \"spool\"` is for the store in PostgreSQL: no other can be away"
    );
    let disk = Arc::new(Directory::new(&spool.path).with_context(failed)?);
    let options = SpooledOptions {
        after: millis(spool.after_ms),
        max_bytes: spool.max_bytes.get(),
        min_free_bytes: spool.min_free_bytes,
        max_age_s: settings.keys.window_s.get() / 2,
    };
    let (store, registry) = (Arc::clone(store), metrics.registry());
    let spooled = Spooled::open(
        store,
        disk,
        options,
        Arc::clone(clock),
        shutdown,
        accounting,
        registry,
    )
    .await
    .with_context(failed)?;
    if let Some(oldest) = spooled.oldest() {
        let age_s = clock.now().get().saturating_sub(oldest.get());
        tracing::warn!(
            age_s,
            "the spool holds events that the store does not have yet"
        );
        if age_s > settings.keys.window_s.get() {
            tracing::error!(
                age_s,
                "the spool is older than keys are remembered: what was sent again elsewhere since \
                 may count twice"
            );
        }
    }
    Ok(Some(Arc::new(spooled)))
}

/// A group, and a read, take no longer with every try than the one that is allowed to.
fn guarded_options(settings: &PostgresSettings) -> GuardedOptions {
    GuardedOptions {
        record_within: millis(settings.write_timeout_ms),
        read_within: millis(settings.read_timeout_ms),
    }
}

fn millis(millis: NonZeroU32) -> Duration {
    Duration::from_millis(millis.get().into())
}

fn redis_options(settings: &Settings) -> anyhow::Result<RedisOptions> {
    let redis = &settings.cache.redis;
    Ok(RedisOptions {
        url: redis.url()?,
        ttl_ms: settings.cache.ttl_ms,
        timeout_ms: redis.timeout_ms,
        retry_after_ms: redis.retry_after_ms,
        connections: redis.connections,
        queue_capacity: redis.queue_capacity,
    })
}
