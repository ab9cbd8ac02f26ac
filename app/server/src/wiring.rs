//! Puts the server together. The one place where an adapter is named: a store is a stack of
//! policies over a mechanism, and here it is read from the outside in.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use adapters::{
    SystemClock,
    email_domains::{
        Accounting, Batched, BatchedOptions, Embedded, Guarded, GuardedOptions, MarkLimits, Memory,
        Postgres, PostgresOptions, RedisCached, RedisOptions, Shadowed, ShadowedOptions, Spooled,
        SpooledOptions, Traced,
        embedded::{
            EmbeddedOptions, Opened,
            disk::{Delayed, Directory, Disk},
        },
        postgres, spooled,
    },
    system_millis,
};
use anyhow::{Context, bail, ensure};
use business::{
    email_domains::{
        ports::{DomainTallies, PendingEvents, StoreId},
        service::EmailDomains,
        verdict::VerdictPolicy,
    },
    kernel::{Clock, UnixSeconds},
};
use foundation::{supervision::Shutdown, telemetry::Metrics};
use uuid::Uuid;

use crate::settings::{CacheKind, PostgresSettings, Settings, StoreKind, StoreSettings, WhenDown};

/// Segments of the journal are allocated whole.
const MAX_SEGMENT_BYTES: u64 = 1 << 30;

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
    let (policy, marks) = (policy(settings), marks(settings));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let registry = metrics.registry();
    let accounting = Accounting::register(registry)?;

    let store: Arc<dyn DomainTallies> = match settings.store.kind {
        StoreKind::Memory => Arc::new(memory(policy, marks)),
        StoreKind::Embedded => Arc::new(embedded(
            &settings.store,
            policy,
            marks,
            &*clock,
            shutdown,
            metrics,
        )?),
        StoreKind::Postgres => {
            let postgres = Arc::new(postgres(&settings.store.postgres, policy, marks).await?);
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
    let mut email_domains = EmailDomains::new(Arc::clone(&tallies), policy, clock)
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

/// Brings the schema of the PostgreSQL store up to date.
///
/// # Errors
/// When the database cannot be reached, or is newer than this program.
pub async fn migrate(settings: &Settings) -> anyhow::Result<()> {
    let postgres = &settings.store.postgres;
    postgres::migrate(
        &postgres.url()?,
        policy(settings),
        millis(postgres.connect_timeout_ms),
    )
    .await
    .context("cannot migrate the database")
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

/// For how long keys are remembered.
fn marks(settings: &Settings) -> MarkLimits {
    MarkLimits {
        window_s: settings.keys.window_s,
        max_count: settings.keys.max_count,
    }
}

fn memory(policy: VerdictPolicy, marks: MarkLimits) -> Memory {
    tracing::warn!("the store is in memory: all counts are lost when the server stops");
    Memory::new(policy, marks, StoreId(Uuid::new_v4().as_u128()))
}

fn embedded(
    store: &StoreSettings,
    policy: VerdictPolicy,
    marks: MarkLimits,
    clock: &dyn Clock,
    shutdown: &Shutdown,
    metrics: &Metrics,
) -> anyhow::Result<Embedded> {
    let settings = &store.embedded;
    let path = &settings.path;
    let failed = || format!("cannot open the store in {}", path.display());
    ensure!(
        settings.segment_bytes.get() <= MAX_SEGMENT_BYTES,
        "`store.embedded.segment_bytes` is at most {MAX_SEGMENT_BYTES}"
    );
    let options = EmbeddedOptions {
        segment_bytes: settings.segment_bytes.get(),
        snapshot_after_bytes: settings.snapshot_after_bytes.get(),
        marks,
        min_free_bytes: settings.min_free_bytes,
    };
    let directory = Arc::new(Directory::new(path).with_context(failed)?);
    let disk = slowed(directory, settings.added_sync_delay_us)?;
    let (
        embedded,
        Opened {
            domains,
            replayed_records,
            newest,
            torn,
        },
    ) = Embedded::open(disk, options, policy, shutdown, metrics.registry()).with_context(failed)?;
    if let Some(torn) = torn {
        let (file, offset, bytes) = (torn.file, torn.offset, torn.bytes);
        tracing::warn!(file, offset, bytes, "cut off what a crash left unfinished");
    }
    tracing::info!(path = %path.display(), domains, replayed_records, "opened the store");
    if let Some(newest) = newest {
        check_clock(clock.now(), newest, store.max_clock_lag_s)?;
    }
    Ok(embedded)
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
    let (policy, marks) = (policy(settings), marks(settings));
    // What breaks in the shadow does not stop the process.
    let contained = Shutdown::of_part("shadow");
    let shadow: Arc<dyn DomainTallies> = match kind {
        StoreKind::Memory => Arc::new(memory(policy, marks)),
        kind if kind == settings.store.kind => bail!(
            "`store.shadow.kind` is \"{0}\", as `store.kind` is: a shadow is another store",
            kind.as_str()
        ),
        StoreKind::Embedded => Arc::new(
            embedded(&settings.store, policy, marks, clock, &contained, metrics)
                .context("there is no shadow")?,
        ),
        StoreKind::Postgres => Arc::new(
            postgres(&settings.store.postgres, policy, marks)
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

/// A clock that was set back would date events before those that are counted already, and a key by
/// the hour it is made would look as if it came from the future.
fn check_clock(now: UnixSeconds, newest: UnixSeconds, max_lag_s: u32) -> anyhow::Result<()> {
    let lag_s = newest.get().saturating_sub(now.get());
    ensure!(
        lag_s <= max_lag_s,
        "the clock is {lag_s} s behind the newest record of the store: set it right, or, if it was \
         wrong then, raise `store.max_clock_lag_s`"
    );
    Ok(())
}

/// The disk as it is, or slower on purpose.
fn slowed(disk: Arc<dyn Disk>, added_sync_delay_us: u32) -> anyhow::Result<Arc<dyn Disk>> {
    const MAX: u32 = 1_000_000;
    ensure!(
        added_sync_delay_us <= MAX,
        "`store.embedded.added_sync_delay_us` is at most {MAX}"
    );
    if added_sync_delay_us == 0 {
        return Ok(disk);
    }
    tracing::warn!(
        added_sync_delay_us,
        "every sync of the store is slowed down, as for a benchmark"
    );
    let delay = Duration::from_micros(added_sync_delay_us.into());
    Ok(Arc::new(Delayed::new(disk, delay)))
}

async fn postgres(
    settings: &PostgresSettings,
    policy: VerdictPolicy,
    marks: MarkLimits,
) -> anyhow::Result<Postgres> {
    let url = settings.url()?;
    if settings.migrate_at_start {
        postgres::migrate_at_start(&url, policy, millis(settings.connect_timeout_ms))
            .await
            .context("cannot migrate the database")?;
    }
    let options = PostgresOptions {
        url,
        max_read_connections: settings.max_read_connections,
        max_write_connections: settings.committers,
        connect_timeout: millis(settings.connect_timeout_ms),
        read_timeout: millis(settings.read_timeout_ms),
        write_timeout: millis(settings.write_timeout_ms),
        lock_timeout: millis(settings.lock_timeout_ms),
        marks,
    };
    Postgres::connect(options, policy)
        .await
        .context("cannot open the store in PostgreSQL")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_may_be_a_little_behind_the_newest_record_and_no_more() {
        let check = |now: u32, newest: u32| check_clock(now.into(), newest.into(), 60);
        assert!(check(1_000, 900).is_ok() && check(1_000, 1_060).is_ok());
        let reason = check(1_000, 1_061).unwrap_err().to_string();
        assert!(reason.contains("61 s") && reason.contains("store.max_clock_lag_s"));
    }
}
