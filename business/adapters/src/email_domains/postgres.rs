//! Tallies in PostgreSQL (14 or newer), which several servers may share.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `writers` | the connections that write, one a committer |
//! | `record`, `apply.sql` | how a group is counted |
//! | `ledger`, `marks` | why it is counted once |
//! | `read` | what is asked |
//! | `schema` | migrations, and the check at the start |
//! | `statement` | what a trace shows of a statement |
//! | `metrics` | what is shown of the connections |
//! | `error` | what a failure of the database means |
//!
//! The tables are in the folder `migrations` at the top of the repository.

mod error;
mod ledger;
mod marks;
mod metrics;
mod read;
mod record;
mod schema;
mod statement;
mod writers;

use std::{future::Future, num::NonZeroU16, str::FromStr, time::Duration};

use async_trait::async_trait;
use business::{
    email_domains::{
        model::{DomainName, Group, Tally},
        ports::{DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, Totals},
        verdict::VerdictPolicy,
    },
    kernel::{ErrorKind, PortError, UnixSeconds},
};
use foundation::settings::Secret;
use prometheus::Registry;
use sqlx::{
    ConnectOptions, Connection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;

pub use self::schema::{SchemaError, migrate, migrate_at_start};
use self::{
    error::connect_error,
    marks::Generations,
    schema::Rule,
    writers::{TRUSTED_IDLE, Writers},
};

use super::ledger::MarkLimits;

/// How a PostgreSQL store is reached, and how long anything there may take.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database`, with `sslmode` and the like as in libpq.
    pub url: Secret,
    /// Connections for reads, shared by all of them.
    pub max_read_connections: NonZeroU16,
    /// Connections for groups: one for each committer, or they close each other's.
    pub max_write_connections: NonZeroU16,
    /// For opening a connection, and for waiting until one for a group is free.
    pub connect_timeout: Duration,
    /// For a whole read, from waiting for a connection to the answer.
    pub read_timeout: Duration,
    /// For a whole group, from its first statement to the commit. After it the outcome is
    /// unknown. The server is never told to stop: it may be waiting for its standby.
    pub write_timeout: Duration,
    /// For any one lock that another's group holds.
    pub lock_timeout: Duration,
    /// For how long marks are remembered.
    pub marks: MarkLimits,
}

/// The mechanism. Its work is done on the caller's Tokio runtime, which must have time and I/O
/// enabled; a writer must stay on one runtime.
pub struct Postgres {
    pool: PgPool,
    writers: Writers,
    rule: Rule,
    generations: Generations,
    read_timeout: Duration,
    write_timeout: Duration,
}

impl Postgres {
    /// Connects, and makes sure that the database is one for this program and this policy.
    ///
    /// # Errors
    /// `Invalid` for a URL that cannot be read. `Unavailable` when the database cannot be reached,
    /// or is not ready for this program; then the source is a [`SchemaError`].
    pub async fn connect(
        options: PostgresOptions,
        policy: VerdictPolicy,
    ) -> Result<Self, PortError> {
        let rule = Rule::new(policy).map_err(|error| error.refusing("connect"))?;
        let connect = connect_options(&options.url)?;
        timeout(options.connect_timeout, async {
            let mut connection = connect.connect().await.map_err(connect_error)?;
            schema::check(&mut connection, &rule).await?;
            connection.close().await.map_err(connect_error)
        })
        .await
        .map_err(connect_error)??;
        let writing = connect
            .clone()
            .options(write_settings(options.lock_timeout));
        Ok(Self {
            pool: read_pool(&options, connect),
            writers: Writers::new(
                writing,
                options.max_write_connections.get().into(),
                options.connect_timeout,
            ),
            rule,
            generations: Generations::new(options.marks),
            read_timeout: options.read_timeout,
            write_timeout: options.write_timeout,
        })
    }

    /// Shows the connections for reads in this registry. Those that write are shown by the committers
    /// that have one each.
    ///
    /// # Errors
    /// When they are there already.
    pub fn show(&self, registry: &Registry) -> prometheus::Result<()> {
        metrics::register(&self.pool, registry)
    }

    /// When the last group of any writer was formed; `None` when there was none.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn newest(&self) -> Result<Option<UnixSeconds>, PortError> {
        self.read("newest", read::newest(&self.pool)).await
    }

    async fn read<T>(
        &self,
        operation: &'static str,
        read: impl Future<Output = Result<T, PortError>> + Send,
    ) -> Result<T, PortError> {
        timeout(self.read_timeout, read)
            .await
            .map_err(|late| PortError::caused_by(ErrorKind::Unavailable, operation, late))?
    }
}

#[async_trait]
impl DomainTallies for Postgres {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        let mut lease = self.writers.take(group.id.map(|id| id.writer)).await?;
        let recorded = timeout(
            self.write_timeout,
            record::record(&mut lease.connection, group, &self.rule, &self.generations),
        )
        .await
        .map_err(|late| PortError::caused_by(ErrorKind::Ambiguous, record::OPERATION, late))??;
        self.writers.keep(lease);
        Ok(recorded)
    }

    async fn get(
        &self,
        domains: &[DomainName],
        _freshness: Freshness,
    ) -> Result<Vec<Tally>, PortError> {
        self.read("get", read::get(&self.pool, domains)).await
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        self.read("page", read::page(&self.pool, request, &self.rule))
            .await
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        self.read("totals", read::totals(&self.pool)).await
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        self.read(
            "probe",
            read::probe(&self.pool, &self.rule, &self.generations),
        )
        .await
    }
}

fn connect_options(url: &Secret) -> Result<PgConnectOptions, PortError> {
    let options = PgConnectOptions::from_str(url.expose())
        .map_err(|error| PortError::caused_by(ErrorKind::Invalid, "connect", error))?;
    // Statements are timed and logged by the policies above.
    Ok(options
        .application_name("catchall")
        .disable_statement_logging())
}

fn read_pool(options: &PostgresOptions, connect: PgConnectOptions) -> PgPool {
    let statement_timeout = format!("{}ms", options.read_timeout.as_millis());
    PgPoolOptions::new()
        .max_connections(options.max_read_connections.get().into())
        .acquire_timeout(options.read_timeout)
        .test_before_acquire(false)
        .before_acquire(|connection, idle| {
            Box::pin(async move {
                if idle.idle_for > TRUSTED_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(connect.options([("statement_timeout", statement_timeout)]))
}

/// What sessions that write are told. There is no `statement_timeout`: it would cut short the
/// wait for a synchronous standby, after which a commit shows but can still be lost.
fn write_settings(lock_timeout: Duration) -> [(&'static str, String); 6] {
    let millis = |duration: Duration| format!("{}ms", duration.as_millis());
    [
        // The statements are few and always planned the same way, so plan them once.
        ("plan_cache_mode", "force_generic_plan".into()),
        // Such a plan expects groups of ten domains; with thousands only a hash join will do.
        ("enable_nestloop", "off".into()),
        ("jit", "off".into()),
        // Groups that meet at a row wait for each other; they need not fail.
        ("default_transaction_isolation", "read committed".into()),
        ("lock_timeout", millis(lock_timeout)),
        // What a lost connection left open ends before those who wait for it give up.
        (
            "idle_in_transaction_session_timeout",
            millis(lock_timeout / 2),
        ),
    ]
}
