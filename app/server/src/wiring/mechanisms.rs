//! Opens the mechanisms that stacks stand on, as they are set.

use std::{sync::Arc, time::Duration};

use adapters::email_domains::{
    Embedded, MarkLimits, Memory, Postgres, PostgresOptions,
    embedded::{
        EmbeddedOptions, Opened,
        disk::{Delayed, Directory, Disk},
    },
    postgres,
};
use anyhow::{Context, ensure};
use business::{
    email_domains::ports::StoreId,
    kernel::{Clock, UnixSeconds},
};
use foundation::{supervision::Shutdown, telemetry::Metrics};
use uuid::Uuid;

use super::{millis, policy};
use crate::settings::Settings;

/// Segments of the journal are allocated whole.
const MAX_SEGMENT_BYTES: u64 = 1 << 30;

/// In memory alone.
pub(super) fn memory(settings: &Settings) -> Memory {
    tracing::warn!("the store is in memory: all counts are lost when the server stops");
    let id = StoreId(Uuid::new_v4().as_u128());
    Memory::new(policy(settings), marks(settings), id)
}

/// In the folder that is set.
pub(super) fn embedded(
    settings: &Settings,
    clock: &dyn Clock,
    shutdown: &Shutdown,
    metrics: &Metrics,
) -> anyhow::Result<Embedded> {
    let store = &settings.store.embedded;
    let path = &store.path;
    let failed = || format!("cannot open the store in {}", path.display());
    ensure!(
        store.segment_bytes.get() <= MAX_SEGMENT_BYTES,
        "`store.embedded.segment_bytes` is at most {MAX_SEGMENT_BYTES}"
    );
    let options = EmbeddedOptions {
        segment_bytes: store.segment_bytes.get(),
        snapshot_after_bytes: store.snapshot_after_bytes.get(),
        marks: marks(settings),
        min_free_bytes: store.min_free_bytes,
    };
    let directory = Arc::new(Directory::new(path).with_context(failed)?);
    let disk = slowed(directory, store.added_sync_delay_us)?;
    let (
        embedded,
        Opened {
            domains,
            replayed_records,
            newest,
            torn,
        },
    ) = Embedded::open(
        disk,
        options,
        policy(settings),
        shutdown,
        metrics.registry(),
    )
    .with_context(failed)?;
    if let Some(torn) = torn {
        let (file, offset, bytes) = (torn.file, torn.offset, torn.bytes);
        tracing::warn!(file, offset, bytes, "cut off what a crash left unfinished");
    }
    tracing::info!(path = %path.display(), domains, replayed_records, "opened the store");
    if let Some(newest) = newest {
        check_clock(clock.now(), newest, settings.store.max_clock_lag_s)?;
    }
    Ok(embedded)
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

/// In the database that is set, whose schema is brought up to date first if that is wanted.
pub(super) async fn postgres(settings: &Settings, metrics: &Metrics) -> anyhow::Result<Postgres> {
    let store = &settings.store.postgres;
    let url = store.url()?;
    if store.migrate_at_start {
        postgres::migrate_at_start(&url, policy(settings), millis(store.connect_timeout_ms))
            .await
            .context("cannot migrate the database")?;
    }
    let options = PostgresOptions {
        url,
        max_read_connections: store.max_read_connections,
        max_write_connections: store.committers,
        connect_timeout: millis(store.connect_timeout_ms),
        read_timeout: millis(store.read_timeout_ms),
        write_timeout: millis(store.write_timeout_ms),
        lock_timeout: millis(store.lock_timeout_ms),
        marks: marks(settings),
    };
    let postgres = Postgres::connect(options, policy(settings))
        .await
        .context("cannot open the store in PostgreSQL")?;
    postgres.show(metrics.registry())?;
    Ok(postgres)
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

/// A clock that was set back would date events before those that are counted already, and a key by
/// the hour it is made would look as if it came from the future.
pub(super) fn check_clock(
    now: UnixSeconds,
    newest: UnixSeconds,
    max_lag_s: u32,
) -> anyhow::Result<()> {
    let lag_s = newest.get().saturating_sub(now.get());
    ensure!(
        lag_s <= max_lag_s,
        "the clock is {lag_s} s behind the newest record of the store: set it right, or, if it was \
         wrong then, raise `store.max_clock_lag_s`"
    );
    Ok(())
}

/// For how long keys are remembered.
fn marks(settings: &Settings) -> MarkLimits {
    MarkLimits {
        window_s: settings.keys.window_s,
        max_count: settings.keys.max_count,
    }
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
