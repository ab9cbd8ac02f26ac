//! The tables, and whether a database has those this program knows.

use std::{collections::HashMap, time::Duration};

use business::{
    email_domains::verdict::VerdictPolicy,
    kernel::{ErrorKind, PortError},
};
use foundation::settings::Secret;
use sqlx::{
    ConnectOptions, Connection, PgConnection,
    migrate::{Migrate, MigrateError, Migrator},
    postgres::PgConnectOptions,
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    connect_options,
    error::{Phase, connect_error, port_error},
};

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

const OPERATION: &str = "migrate";
/// How long to wait before the next attempt to connect.
const NEXT_ATTEMPT: Duration = Duration::from_millis(100);
/// For any one lock: another server may be migrating, and a recount waits for groups at work.
const LOCK_TIMEOUT: &str = "60s";
/// undefined_table (PostgreSQL documentation, appendix A).
const UNDEFINED_TABLE: &str = "42P01";
/// cannot_connect_now: it is starting.
const CANNOT_CONNECT_NOW: &str = "57P03";

/// Why a database that answers cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// It has no tables of ours.
    #[error("the database was never migrated: run `catchall migrate`")]
    Never,
    /// It lacks a migration that this program has.
    #[error("the database lacks migration {0}: run `catchall migrate`")]
    Older(i64),
    /// It has a migration that this program lacks.
    #[error("the database has migration {0}, which this program does not know: it is too old")]
    Newer(i64),
    /// A migration was changed after it was applied.
    #[error("migration {0} is not the one that was applied to the database")]
    Changed(i64),
    /// Its catch-alls are counted by another threshold.
    #[error(
        "the database counts catch-alls from {} deliveries on, the configuration says {configured}: \
         change the configuration or run `catchall migrate`",
        .stored.map_or_else(|| "no number of".into(), |stored| stored.to_string())
    )]
    Threshold {
        /// The database's; `None` before the first `catchall migrate`.
        stored: Option<i64>,
        /// Ours.
        configured: i64,
    },
    /// No count reaches it.
    #[error("a threshold is at most {max} deliveries", max = i64::MAX)]
    ThresholdTooHigh,
}

impl SchemaError {
    /// The port's error: nothing is applied as long as this holds, and another server, or this
    /// one after a migration, may do better.
    pub(super) fn refusing(self, operation: &'static str) -> PortError {
        PortError::caused_by(ErrorKind::Unavailable, operation, self)
    }
}

/// The rule by which the totals are counted, here and in the database.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    policy: VerdictPolicy,
    threshold: i64,
}

impl Rule {
    pub(super) fn new(policy: VerdictPolicy) -> Result<Self, SchemaError> {
        let threshold = i64::try_from(policy.threshold());
        let threshold = threshold.map_err(|_| SchemaError::ThresholdTooHigh)?;
        Ok(Self { policy, threshold })
    }

    pub(super) fn policy(&self) -> VerdictPolicy {
        self.policy
    }

    pub(super) fn threshold(&self) -> i64 {
        self.threshold
    }

    /// Whether the database counts by this rule.
    pub(super) fn check(&self, stored: Option<i64>) -> Result<(), SchemaError> {
        if stored == Some(self.threshold) {
            Ok(())
        } else {
            Err(SchemaError::Threshold {
                stored,
                configured: self.threshold,
            })
        }
    }
}

/// Brings a database up to date: applies the migrations it lacks, and counts the catch-alls anew
/// if the policy's threshold is not the one they were counted by. May be run at any time, by
/// several at once, and while servers are at work; a server whose threshold is not the
/// database's any more refuses to count.
///
/// # Errors
/// `Unavailable` when the database cannot be reached or knows migrations that this program does
/// not, else what the database says.
pub async fn migrate(
    url: &Secret,
    policy: VerdictPolicy,
    connect_timeout: Duration,
) -> Result<(), PortError> {
    bring_up_to_date(url, policy, connect_timeout, true).await
}

/// What a server does at its start: the same as [`migrate`], but it never changes a threshold that
/// is set. One server with a mistyped setting must not stop all others.
///
/// # Errors
/// As [`migrate`], and `Unavailable` for another threshold.
pub async fn migrate_at_start(
    url: &Secret,
    policy: VerdictPolicy,
    connect_timeout: Duration,
) -> Result<(), PortError> {
    bring_up_to_date(url, policy, connect_timeout, false).await
}

async fn bring_up_to_date(
    url: &Secret,
    policy: VerdictPolicy,
    connect_timeout: Duration,
    may_change_threshold: bool,
) -> Result<(), PortError> {
    let rule = Rule::new(policy).map_err(|error| error.refusing(OPERATION))?;
    let options = connect_options(url)?.options([
        ("default_transaction_isolation", "read committed"),
        ("lock_timeout", LOCK_TIMEOUT),
    ]);
    let mut connection = connect(&options, connect_timeout).await?;
    MIGRATOR
        .run_direct(None, &mut connection, false)
        .await
        .map_err(|error| match error {
            MigrateError::VersionMissing(version) => {
                SchemaError::Newer(version).refusing(OPERATION)
            }
            MigrateError::VersionMismatch(version) => {
                SchemaError::Changed(version).refusing(OPERATION)
            }
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                failed(error)
            }
            other => PortError::caused_by(ErrorKind::Unexpected, OPERATION, other),
        })?;
    let stored = stored_threshold(&mut connection).await.map_err(failed)?;
    match rule.check(stored) {
        Ok(()) => gather(&mut connection).await,
        Err(_) if stored.is_none() || may_change_threshold => {
            // Two servers that start at once with different thresholds both find none.
            recount(&mut connection, &rule, may_change_threshold).await
        }
        Err(other) => return Err(other.refusing(OPERATION)),
    }
    .map_err(failed)?;
    let stored = stored_threshold(&mut connection).await.map_err(failed)?;
    rule.check(stored)
        .map_err(|error| error.refusing(OPERATION))
}

/// Connects, and waits for a database that is just starting.
async fn connect(options: &PgConnectOptions, within: Duration) -> Result<PgConnection, PortError> {
    let deadline = Instant::now() + within;
    loop {
        let error = match timeout_at(deadline, options.connect()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => error,
            Err(late) => return Err(connect_error(late)),
        };
        let starting = match &error {
            sqlx::Error::Database(error) => error.code().as_deref() == Some(CANNOT_CONNECT_NOW),
            _ => true,
        };
        if !starting || Instant::now() + NEXT_ATTEMPT >= deadline {
            return Err(connect_error(error));
        }
        sleep(NEXT_ATTEMPT).await;
    }
}

/// Whether servers by this rule can use the database.
pub(super) async fn check(connection: &mut PgConnection, rule: &Rule) -> Result<(), PortError> {
    let refused = |error: SchemaError| error.refusing("connect");
    let applied = match connection
        .list_applied_migrations(&MIGRATOR.table_name)
        .await
    {
        Ok(applied) => applied,
        Err(MigrateError::Execute(sqlx::Error::Database(error)))
            if error.code().as_deref() == Some(UNDEFINED_TABLE) =>
        {
            return Err(refused(SchemaError::Never));
        }
        Err(error) => return Err(connect_error(error)),
    };
    let mut applied: HashMap<_, _> = applied
        .into_iter()
        .map(|migration| (migration.version, migration.checksum))
        .collect();
    for known in MIGRATOR.iter() {
        match applied.remove(&known.version) {
            Some(checksum) if checksum == known.checksum => {}
            Some(_) => return Err(refused(SchemaError::Changed(known.version))),
            None => return Err(refused(SchemaError::Older(known.version))),
        }
    }
    if let Some(unknown) = applied.into_keys().max() {
        return Err(refused(SchemaError::Newer(unknown)));
    }
    let stored = stored_threshold(connection).await.map_err(connect_error)?;
    rule.check(stored).map_err(refused)
}

/// Counts everything anew by this rule, unless another one is set that must not be changed. Groups wait at their first statement for the lock, and
/// take what they see of the store after it.
async fn recount(
    connection: &mut PgConnection,
    rule: &Rule,
    may_change_threshold: bool,
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::query("LOCK TABLE domain_tallies IN SHARE ROW EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await?;
    let set = sqlx::query("UPDATE store SET threshold = $1 WHERE threshold IS NULL OR $2")
        .bind(rule.threshold)
        .bind(may_change_threshold)
        .execute(&mut *transaction)
        .await?;
    if set.rows_affected() == 0 {
        return transaction.rollback().await;
    }
    sqlx::query("DELETE FROM writer_totals")
        .execute(&mut *transaction)
        .await?;
    sqlx::query(
        "INSERT INTO writer_totals
             (writer, delivered, bounced, domains, catch_all, not_catch_all)
         SELECT
             '00000000-0000-0000-0000-000000000000',
             LEAST(coalesce(sum(delivered), 0), 9223372036854775807),
             LEAST(coalesce(sum(bounced), 0), 9223372036854775807),
             count(*),
             count(*) FILTER (WHERE bounced = 0 AND delivered >= $1),
             count(*) FILTER (WHERE bounced > 0)
         FROM domain_tallies",
    )
    .bind(rule.threshold)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// Gathers what all writers counted into one row; a writer at work begins a new one.
async fn gather(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "WITH gathered AS (
             DELETE FROM writer_totals
             WHERE writer <> '00000000-0000-0000-0000-000000000000'
             RETURNING *
         )
         INSERT INTO writer_totals AS known
             (writer, delivered, bounced, domains, catch_all, not_catch_all)
         SELECT
             '00000000-0000-0000-0000-000000000000',
             LEAST(sum(delivered), 9223372036854775807),
             LEAST(sum(bounced), 9223372036854775807),
             sum(domains), sum(catch_all), sum(not_catch_all)
         FROM gathered
         HAVING count(*) > 0
         ON CONFLICT (writer) DO UPDATE SET
             delivered = EXCLUDED.delivered
                 + LEAST(known.delivered, 9223372036854775807 - EXCLUDED.delivered),
             bounced = EXCLUDED.bounced
                 + LEAST(known.bounced, 9223372036854775807 - EXCLUDED.bounced),
             domains = known.domains + EXCLUDED.domains,
             catch_all = known.catch_all + EXCLUDED.catch_all,
             not_catch_all = known.not_catch_all + EXCLUDED.not_catch_all",
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn stored_threshold(connection: &mut PgConnection) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar("SELECT threshold FROM store")
        .fetch_one(connection)
        .await
}

fn failed(error: sqlx::Error) -> PortError {
    port_error(OPERATION, Phase::Committing, error)
}
