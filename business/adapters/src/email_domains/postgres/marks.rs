//! Callers' idempotency keys, kept in the tables `marks`, one a generation.
//!
//! A generation ends when half of the window is over, or a third of the marks that may be kept are
//! in it. Three are kept: so every mark is, for the window or until there are too many.
//!
//! Whoever begins a generation locks the table; whoever writes to it does so with a snapshot that is
//! taken behind that lock, as PostgreSQL does in READ COMMITTED. So older generations never change,
//! and one look at them is enough.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::atomic::{AtomicU32, Ordering},
};

use business::{
    email_domains::model::{Group, Mark, MarkMemory},
    kernel::{ErrorKind, PortError, UnixSeconds},
};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{
    error::{Phase, port_error},
    record::OPERATION,
    statement::traced,
};
use crate::email_domains::ledger::MarkLimits;

/// How many generations there are.
const KEPT: i64 = 3;
/// What a mark takes in its table, in bytes: 24 and 4 of PostgreSQL's own, and its columns.
const MARK_BYTES: i64 = 61;
/// How long nobody looks again whether a generation has to end, in seconds: when none has to, and when
/// it could not be ended.
const NEXT_LOOK_S: u32 = 1;
const NEXT_TRY_S: u32 = 10;
/// A generation that began in so many seconds from now, or in a window if that is longer, began by a
/// clock that was wrong. What waited in a spool is younger.
const AHEAD_S: i64 = 3_600;

/// When a generation ends.
pub(super) struct Generations {
    limits: MarkLimits,
    /// When to look next whether one has to.
    next_look: AtomicU32,
}

/// What the database knew of a group's marks.
pub(super) struct Stored {
    /// From which moment on it knows them all.
    pub(super) horizon: UnixSeconds,
    /// The fingerprints of those that were there already.
    pub(super) fingerprints: HashMap<u128, u64>,
}

impl Generations {
    pub(super) fn new(limits: MarkLimits) -> Self {
        Self {
            limits,
            next_look: AtomicU32::new(0),
        }
    }

    pub(super) fn memory(&self, forgotten_through: i64, forgotten_stamp: i64) -> MarkMemory {
        let moment = |stored: i64| UnixSeconds::saturating_from(stored.max(0).unsigned_abs());
        MarkMemory {
            window_s: self.limits.window_s.get(),
            forgotten_through: moment(forgotten_through),
            forgotten_stamp: moment(forgotten_stamp),
        }
    }

    /// Begins a new generation, and drops what is too old or too much, if it is time. Looks once a
    /// second at most, by the time of groups.
    ///
    /// What the database does not allow now, it may later: until then marks are kept for longer. A
    /// group does not fail for that.
    pub(super) async fn turn_if_due(
        &self,
        connection: &mut PgConnection,
        now: UnixSeconds,
    ) -> Result<(), PortError> {
        let (now_s, next_look) = (now.get(), self.next_look.load(Ordering::Relaxed));
        // Farther ahead than that, it was set by a clock that was wrong.
        if now_s < next_look && next_look - now_s <= NEXT_TRY_S {
            return Ok(());
        }
        let look_again = |seconds: u32| {
            let next_look = now_s.saturating_add(seconds);
            self.next_look.store(next_look, Ordering::Relaxed);
        };
        look_again(NEXT_LOOK_S);
        match self.turn(connection, now).await {
            Err(sqlx::Error::Database(error)) => {
                tracing::warn!(%error, "marks are kept for longer: no generation could be begun");
                look_again(NEXT_TRY_S);
                Ok(())
            }
            result => result.map_err(|error| port_error(OPERATION, Phase::Before, error)),
        }
    }

    async fn turn(&self, connection: &mut PgConnection, now: UnixSeconds) -> sqlx::Result<()> {
        let now = i64::from(now.get());
        if self.ending(connection, now).await?.is_none() {
            return Ok(());
        }
        let mut transaction = connection.begin().await?;
        // Waits until nobody counts marks; from then on others wait for this. A backup reads for
        // hours: not behind that.
        sqlx::query("SET LOCAL lock_timeout = '250ms'")
            .execute(&mut *transaction)
            .await?;
        let lock = sqlx::query("LOCK TABLE marks IN ACCESS EXCLUSIVE MODE");
        traced("LOCK marks", lock.execute(&mut *transaction)).await?;
        // Another may have been quicker.
        let Some((ending, began_at)) = self.ending(&mut transaction, now).await? else {
            return transaction.rollback().await;
        };
        let next = ending + 1;
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "CREATE TABLE marks_{next} PARTITION OF marks FOR VALUES IN ({next})"
        )))
        .execute(&mut *transaction)
        .await?;
        sqlx::query("INSERT INTO mark_generations VALUES ($1, $2, 0, 0)")
            .bind(next)
            .bind(began_at)
            .execute(&mut *transaction)
            .await?;
        let dropped: Vec<(i64, i64, i64)> = sqlx::query_as(
            "DELETE FROM mark_generations WHERE generation <= $1
             RETURNING generation, newest, newest_stamp",
        )
        .bind(next - KEPT)
        .fetch_all(&mut *transaction)
        .await?;
        for (generation, newest, newest_stamp) in dropped {
            sqlx::query(sqlx::AssertSqlSafe(format!(
                "DROP TABLE marks_{generation}"
            )))
            .execute(&mut *transaction)
            .await?;
            sqlx::query(
                "UPDATE store
                 SET marks_forgotten_through = GREATEST(marks_forgotten_through, $1),
                     marks_forgotten_stamp = GREATEST(marks_forgotten_stamp, $2)",
            )
            .bind(newest)
            .bind(newest_stamp)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await
    }

    /// The newest generation, if it has to end, and when the next one begins.
    async fn ending(
        &self,
        connection: &mut PgConnection,
        now: i64,
    ) -> sqlx::Result<Option<(i64, i64)>> {
        let ask = sqlx::query_as(
            "SELECT generation, began_at, pg_relation_size(format('marks_%s', generation))
             FROM mark_generations ORDER BY generation DESC LIMIT 1",
        );
        let (generation, began_at, bytes): (i64, i64, i64) =
            traced("SELECT mark_generations", ask.fetch_one(connection)).await?;
        let window_s = i64::from(self.limits.window_s.get());
        let most = i64::from(self.limits.max_count.get()) * MARK_BYTES / KEPT;
        // Rounded up: two generations are the window, or more.
        let was_wrong = now < began_at - window_s.max(AHEAD_S);
        let ends = now >= began_at + (window_s + 1) / 2 || was_wrong || bytes >= most.max(8_192);
        // What is late must not make the next one end early.
        let next_began_at = if was_wrong { now } else { now.max(began_at) };
        Ok(ends.then_some((generation, next_began_at)))
    }

    /// Notes the latest moment of marks that were added. All write this one row: do it last.
    pub(super) async fn note(
        &self,
        connection: &mut PgConnection,
        group: &Group,
    ) -> Result<(), PortError> {
        let note = sqlx::query(
            "UPDATE mark_generations
             SET newest = GREATEST(newest, $1 + 5), newest_stamp = CASE
                 WHEN $2 >= 0 THEN GREATEST(newest_stamp, $2 + 5)
                 ELSE newest_stamp
             END
             WHERE generation = (SELECT max(generation) FROM mark_generations)
                 AND (newest < $1 OR newest_stamp < $2)",
        )
        .bind(i64::from(group.formed_at.get()))
        .bind(Given::of(group).latest_stamp);
        let noted = traced("UPDATE mark_generations", note.execute(connection)).await;
        noted.map_err(|error| port_error(OPERATION, Phase::Before, error))?;
        Ok(())
    }

    /// Adds the group's marks in a transaction, and tells which were there already. Waits for other transactions that add the same ones, so what it tells is
    /// committed.
    pub(super) async fn add(
        &self,
        connection: &mut PgConnection,
        group: &Group,
    ) -> Result<Stored, PortError> {
        let failed = |error| port_error(OPERATION, Phase::Before, error);
        let Given {
            keys,
            fingerprints,
            stamps,
            ..
        } = Given::of(group);

        let add = sqlx::query_as(include_str!("add_marks.sql"))
            .bind(&keys)
            .bind(fingerprints)
            .bind(&stamps)
            .bind(i64::from(group.formed_at.get()))
            .bind(i64::from(self.limits.window_s.get()));
        let (forgotten_stamp, older, their_fingerprints, added): (
            i64,
            Vec<Uuid>,
            Vec<i64>,
            Vec<Uuid>,
        ) = traced("INSERT marks", add.fetch_one(&mut *connection))
            .await
            .map_err(failed)?;
        let horizon = self.memory(0, forgotten_stamp).horizon(group.formed_at);
        let mut stored: HashMap<u128, u64> = older
            .into_iter()
            .zip(their_fingerprints)
            .map(known)
            .collect();

        // Those that are neither stand in the newest generation, or were made before the horizon.
        let added: HashSet<Uuid> = added.into_iter().collect();
        let missing = |key: &Uuid| !added.contains(key) && !stored.contains_key(&key.as_u128());
        let missing: Vec<Uuid> = keys.iter().copied().filter(missing).collect();
        if !missing.is_empty() {
            let ask = sqlx::query_as("SELECT key, fingerprint FROM marks WHERE key = ANY($1)")
                .bind(&missing);
            let found: Vec<(Uuid, i64)> = traced("SELECT marks", ask.fetch_all(connection))
                .await
                .map_err(failed)?;
            stored.extend(found.into_iter().map(known));
        }
        let accounted = |(key, stamp): (&Uuid, &i64)| {
            let is_stored = added.contains(key) || stored.contains_key(&key.as_u128());
            is_stored || (*stamp >= 0 && *stamp < i64::from(horizon.get()))
        };
        if !keys.iter().zip(&stamps).all(accounted) {
            return Err(PortError::new(ErrorKind::Unexpected, OPERATION));
        }
        Ok(Stored {
            horizon,
            fingerprints: stored,
        })
    }
}

/// The marks of a group, as they are sent.
pub(super) struct Given {
    /// Sorted: one order for all, so that none waits for another in a circle.
    pub(super) keys: Vec<Uuid>,
    pub(super) fingerprints: Vec<i64>,
    /// When each key was made; -1 if it does not say so.
    pub(super) stamps: Vec<i64>,
    /// The latest of them.
    pub(super) latest_stamp: i64,
}

impl Given {
    pub(super) fn of(group: &Group) -> Self {
        let mut marks = BTreeMap::new();
        for mark in group.members.iter().filter_map(|member| member.mark) {
            // Of several under one key the first counts.
            marks.entry(Uuid::from_u128(mark.key.hash)).or_insert(mark);
        }
        let stamp = |mark: &Mark| mark.key.stamped_at.map_or(-1, |stamp| stamp.get().into());
        let stamps: Vec<i64> = marks.values().map(stamp).collect();
        let fingerprint = |mark: &Mark| mark.fingerprint.cast_signed();
        Self {
            latest_stamp: stamps.iter().copied().max().unwrap_or(-1),
            fingerprints: marks.values().map(fingerprint).collect(),
            keys: marks.into_keys().collect(),
            stamps,
        }
    }
}

fn known((key, fingerprint): (Uuid, i64)) -> (u128, u64) {
    (key.as_u128(), fingerprint.cast_unsigned())
}
