//! What can be set. The defaults, and what each setting is for, stand in `config/default.toml`,
//! which is part of the binary.

use std::{
    net::SocketAddr,
    num::{NonZeroU8, NonZeroU16, NonZeroU32, NonZeroU64},
    path::{Path, PathBuf},
};

use foundation::{
    settings::{Loader, Secret, SettingsError},
    telemetry::TelemetrySettings,
};
use serde::Deserialize;

/// The documented defaults.
pub const DEFAULTS: &str = include_str!("../config/default.toml");

/// All settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The address to serve on.
    pub listen: SocketAddr,
    /// The rule.
    pub verdict: VerdictSettings,
    /// Where tallies are kept.
    pub store: StoreSettings,
    /// What is remembered of idempotency keys.
    pub keys: KeysSettings,
    /// What answers reads before the store does.
    pub cache: CacheSettings,
    /// What waits for the store.
    pub queue: QueueSettings,
    /// The HTTP server.
    pub http: api::Settings,
    /// Logs and traces.
    pub telemetry: TelemetrySettings,
}

/// `[verdict]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerdictSettings {
    /// Deliveries that make a catch-all.
    pub threshold: NonZeroU64,
}

/// `[store]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSettings {
    /// Which of them.
    pub kind: StoreKind,
    /// How far the clock may be behind the newest record.
    pub max_clock_lag_s: u32,
    /// What becomes of events while the store is away.
    pub when_down: WhenDown,
    /// For `when_down = "spool"`.
    pub spool: SpoolSettings,
    /// A second store beside it.
    pub shadow: ShadowSettings,
    /// For `embedded`.
    pub embedded: EmbeddedSettings,
    /// For `postgres`.
    pub postgres: PostgresSettings,
}

/// The stores there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(
    missing_docs,
    reason = "the names say it; config/default.toml says more"
)]
pub enum StoreKind {
    Memory,
    Embedded,
    Postgres,
}

impl StoreKind {
    /// The name in settings, metrics and `/v1/stats`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Embedded => "embedded",
            Self::Postgres => "postgres",
        }
    }
}

/// What becomes of events while the store is away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(
    missing_docs,
    reason = "the names say it; config/default.toml says more"
)]
pub enum WhenDown {
    Refuse,
    Spool,
}

/// `[store.spool]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml says what each is for")]
pub struct SpoolSettings {
    pub path: PathBuf,
    pub max_bytes: NonZeroU64,
    pub min_free_bytes: u64,
    pub after_ms: NonZeroU32,
}

/// `[store.shadow]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShadowSettings {
    /// Which of the stores, if any.
    pub kind: ShadowKind,
    /// How many events may wait for it.
    pub queue_capacity: NonZeroU32,
    /// How many domains are compared in a second.
    pub compared_per_s: NonZeroU16,
}

/// The stores that can be a shadow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(
    missing_docs,
    reason = "the names say it; config/default.toml says more"
)]
pub enum ShadowKind {
    None,
    Memory,
    Embedded,
    Postgres,
}

impl ShadowKind {
    /// The store, if there is to be one.
    pub fn store(self) -> Option<StoreKind> {
        match self {
            Self::None => None,
            Self::Memory => Some(StoreKind::Memory),
            Self::Embedded => Some(StoreKind::Embedded),
            Self::Postgres => Some(StoreKind::Postgres),
        }
    }
}

/// `[store.embedded]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml says what each is for")]
pub struct EmbeddedSettings {
    pub path: PathBuf,
    pub segment_bytes: NonZeroU64,
    pub snapshot_after_bytes: NonZeroU64,
    pub min_free_bytes: u64,
    pub added_sync_delay_us: u32,
}

/// `[store.postgres]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml says what each is for")]
pub struct PostgresSettings {
    pub url: Option<Secret>,
    pub url_file: Option<PathBuf>,
    pub migrate_at_start: bool,
    pub committers: NonZeroU16,
    pub max_read_connections: NonZeroU16,
    pub connect_timeout_ms: NonZeroU32,
    pub read_timeout_ms: NonZeroU32,
    pub write_timeout_ms: NonZeroU32,
    pub lock_timeout_ms: NonZeroU32,
}

/// `[keys]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysSettings {
    /// For how many seconds.
    pub window_s: NonZeroU32,
    /// How many at the most.
    pub max_count: NonZeroU32,
}

/// `[cache]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheSettings {
    /// Which of them.
    pub kind: CacheKind,
    /// How old an answer may be.
    pub ttl_ms: NonZeroU32,
    /// For `redis`.
    pub redis: RedisSettings,
}

/// The caches there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(
    missing_docs,
    reason = "the names say it; config/default.toml says more"
)]
pub enum CacheKind {
    None,
    Redis,
}

/// `[cache.redis]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml says what each is for")]
pub struct RedisSettings {
    pub url: Option<Secret>,
    pub url_file: Option<PathBuf>,
    pub timeout_ms: NonZeroU32,
    pub retry_after_ms: NonZeroU32,
    pub connections: NonZeroU8,
    pub queue_capacity: NonZeroU32,
}

/// `[queue]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSettings {
    /// Requests that may wait for each committer.
    pub capacity: NonZeroU32,
    /// How long the oldest of them may have waited for one more to be taken.
    pub max_wait_ms: NonZeroU32,
}

impl Settings {
    /// The defaults, `file`, the environment and `flags` (key and value), each over the one before.
    ///
    /// # Errors
    /// One line that names what is unknown, missing or wrong, and where it stands.
    pub fn load(
        file: Option<&Path>,
        flags: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self, SettingsError> {
        Loader::new(DEFAULTS)
            .file(file)
            .environment("CATCHALL")
            .overrides(flags)
            .load()
    }
}

impl PostgresSettings {
    /// The database's URL, from wherever it was given.
    ///
    /// # Errors
    /// When it was not given, or twice, or its file cannot be read.
    pub fn url(&self) -> Result<Secret, SettingsError> {
        required(
            "store.postgres.url",
            &self.url,
            self.url_file.as_deref(),
            "--database-url",
        )
    }
}

impl RedisSettings {
    /// Redis's URL, from wherever it was given.
    ///
    /// # Errors
    /// When it was not given, or twice, or its file cannot be read.
    pub fn url(&self) -> Result<Secret, SettingsError> {
        required(
            "cache.redis.url",
            &self.url,
            self.url_file.as_deref(),
            "--redis-url",
        )
    }
}

fn required(
    key: &str,
    given: &Option<Secret>,
    file: Option<&Path>,
    flag: &str,
) -> Result<Secret, SettingsError> {
    Secret::given_or_in_file(key, given.clone(), file)?.ok_or_else(|| {
        SettingsError::Invalid(format!(
            "`{key}` is not set: give it, or `{key}_file`, or {flag}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_whole_and_flags_come_last() {
        let settings = Settings::load(None, [("store.kind", "memory".to_owned())]).unwrap();
        assert_eq!(settings.store.kind, StoreKind::Memory);
        assert_eq!(settings.verdict.threshold.get(), 1_000);
        assert_eq!(settings.cache.ttl_ms.get(), 1_000);
        assert!(settings.queue.capacity.get() >= 16_384);
        assert_eq!(settings.http.max_body_bytes.get(), 8 << 20);
        assert_eq!(settings.store.embedded.added_sync_delay_us, 0);
    }

    #[test]
    fn a_missing_url_is_told_with_the_ways_to_give_it() {
        let settings = Settings::load(None, []).unwrap();
        let error = settings.store.postgres.url().unwrap_err().to_string();
        assert!(
            error.contains("store.postgres.url") && error.contains("--database-url"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_key_and_a_zero_threshold_are_refused() {
        for (key, value) in [("store.kidn", "memory"), ("verdict.threshold", "0")] {
            let error = Settings::load(None, [(key, value.to_owned())]).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains(key.split('.').next_back().unwrap()),
                "{error}"
            );
        }
    }
}
