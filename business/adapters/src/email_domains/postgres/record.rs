//! How a group is counted: in one statement, or in one transaction when some of its marks are
//! known.

use std::sync::LazyLock;

use business::{
    email_domains::{
        model::{DomainRef, Group, Outcomes, fold, resolve_marks},
        ports::Recorded,
        verdict::{Verdict, VerdictChange},
    },
    kernel::{ErrorKind, PortError, UnixSeconds},
};
use foundation::planted::planted_bug;
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgArguments, query::QueryAs};

use super::{
    error::{Phase, port_error},
    ledger::{self, GroupKey},
    marks::{Generations, Given},
    schema::Rule,
    statement::traced,
};

pub(super) const OPERATION: &str = "record";

const APPLY: &str = include_str!("apply.sql");

/// `APPLY` for a group with marks of which none is known.
static MARKED: LazyLock<String> = LazyLock::new(|| {
    let parts = [
        (
            "-- (marked: are they fresh?)",
            include_str!("fresh_marks.sql"),
        ),
        ("-- (marked: if fresh)", "AND EXISTS (SELECT FROM fresh)"),
        (
            "-- (marked: add them)",
            "added AS (
                INSERT INTO marks (generation, key, fingerprint)
                SELECT (SELECT generation FROM current), key, fingerprint
                FROM unnest($11::uuid[], $12::bigint[]) AS mark (key, fingerprint)
                WHERE EXISTS (SELECT FROM admitted)
                ORDER BY key
                RETURNING key
            ),",
        ),
        (
            "-- (marked: once they are added)",
            "AND (SELECT count(*) FROM added) > 0",
        ),
    ];
    let sql = APPLY.to_owned();
    parts
        .iter()
        .fold(sql, |sql, (place, part)| sql.replace(place, part))
});

/// Counts a group on a connection that nobody else uses. After an error the connection has to be
/// closed: a transaction may be open on it.
pub(super) async fn record(
    connection: &mut PgConnection,
    group: &Group,
    rule: &Rule,
    generations: &Generations,
) -> Result<Recorded, PortError> {
    let key = GroupKey::of(group)?;
    if group.members.iter().all(|member| member.mark.is_none()) {
        // One statement, which commits itself: one round trip.
        let outcomes = resolve_marks(&group.members, group.formed_at, |_| None);
        let applied = apply(connection, group, &key, outcomes, rule, Phase::Committing).await?;
        return match applied {
            Some(recorded) => Ok(recorded),
            None => ledger::recorded_before(connection, group, &key, rule).await,
        };
    }

    generations.turn_if_due(connection, group.formed_at).await?;
    // Nearly always none of the marks is known, and one statement will do.
    let apart = planted_bug("mark-in-another-transaction");
    if !apart && let Some(recorded) = fresh(connection, group, &key, rule, generations).await? {
        return Ok(recorded);
    }
    // All lock in one order: the writer, marks by key, domains by name, sums, the generation.
    let failed = |error| port_error(OPERATION, Phase::Before, error);
    let mut transaction = traced("BEGIN", connection.begin()).await.map_err(failed)?;
    let lock = sqlx::query("SELECT FROM writers WHERE writer = $1 FOR UPDATE").bind(key.writer);
    traced("SELECT writers", lock.execute(&mut *transaction))
        .await
        .map_err(failed)?;
    let stored = generations.add(&mut transaction, group).await?;
    if apart {
        transaction.commit().await.map_err(failed)?;
        transaction = connection.begin().await.map_err(failed)?;
    }
    let outcomes = resolve_marks(&group.members, stored.horizon, |hash| {
        stored.fingerprints.get(&hash).copied()
    });
    let applied = apply(&mut transaction, group, &key, outcomes, rule, Phase::Before).await?;
    let Some(recorded) = applied else {
        // Nor do its marks: they are those of the first time, or forgotten since.
        transaction.rollback().await.map_err(failed)?;
        return ledger::recorded_before(connection, group, &key, rule).await;
    };
    generations.note(&mut transaction, group).await?;
    let committed = traced("COMMIT", transaction.commit()).await;
    committed.map_err(|error| port_error(OPERATION, Phase::Committing, error))?;
    Ok(recorded)
}

/// Counts a group none of whose marks is known, in one statement with its marks, which commits
/// itself. `None` when that cannot be said of it: nothing was counted then.
async fn fresh(
    connection: &mut PgConnection,
    group: &Group,
    key: &GroupKey,
    rule: &Rule,
    generations: &Generations,
) -> Result<Option<Recorded>, PortError> {
    let given = Given::of(group);
    let earliest = given.stamps.iter().copied().filter(|stamp| *stamp >= 0);
    let earliest = earliest.min().unwrap_or(i64::MAX);
    let horizon = generations.memory(0, 0).horizon(group.formed_at);
    if earliest < horizon.get().into() {
        return Ok(None);
    }
    let outcomes = resolve_marks(&group.members, UnixSeconds::ZERO, |_| None);
    let folded = Folded::of(group, &outcomes);
    let statement = folded
        .bind(
            sqlx::query_as(AssertSqlSafe(MARKED.as_str())),
            group,
            key,
            &outcomes,
            rule,
        )
        .bind(given.keys)
        .bind(given.fingerprints)
        .bind(earliest)
        .bind(given.latest_stamp);
    let counted = traced(
        "INSERT marks domain_tallies",
        statement.fetch_one(connection),
    );
    let (applied, turned, turns): Applied = match counted.await {
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => return Ok(None),
        result => result.map_err(|error| port_error(OPERATION, Phase::Committing, error))?,
    };
    if !applied {
        return Ok(None);
    }
    recorded(outcomes, &turned, turns).map(Some)
}

/// Advances the writer and counts what the outcomes let count; `None` when the group was recorded
/// before, or not by this rule.
async fn apply(
    connection: &mut PgConnection,
    group: &Group,
    key: &GroupKey,
    outcomes: Outcomes,
    rule: &Rule,
    phase: Phase,
) -> Result<Option<Recorded>, PortError> {
    let folded = Folded::of(group, &outcomes);
    let statement = folded.bind(sqlx::query_as(APPLY), group, key, &outcomes, rule);
    let counted = traced("INSERT domain_tallies", statement.fetch_one(connection)).await;
    let (applied, turned, turns): Applied =
        counted.map_err(|error| port_error(OPERATION, phase, error))?;
    if !applied {
        return Ok(None);
    }
    recorded(outcomes, &turned, turns).map(Some)
}

/// Whether it was applied, and the domains whose verdict changed, with how.
type Applied = (bool, Vec<String>, Vec<i16>);

fn recorded(outcomes: Outcomes, turned: &[String], turns: Vec<i16>) -> Result<Recorded, PortError> {
    let verdict_changes = turned
        .iter()
        .zip(turns)
        .map(|(domain, turn)| verdict_change(domain, turn))
        .collect::<Option<Vec<_>>>()
        // It was counted, by a rule that is not ours.
        .ok_or_else(|| PortError::new(ErrorKind::Ambiguous, OPERATION))?;
    Ok(Recorded {
        outcomes,
        verdict_changes,
    })
}

/// What of a group counts, as it is sent.
struct Folded<'a> {
    domains: Vec<&'a str>,
    delivered: Vec<i64>,
    bounced: Vec<i64>,
}

type Query<'q> = QueryAs<'q, sqlx::Postgres, Applied, PgArguments>;

impl<'a> Folded<'a> {
    fn of(group: &'a Group, outcomes: &Outcomes) -> Self {
        let changes = fold(&group.members, outcomes);
        Self {
            domains: changes
                .iter()
                .map(|change| change.domain.as_str())
                .collect(),
            delivered: changes
                .iter()
                .map(|change| signed(change.delivered))
                .collect(),
            bounced: changes
                .iter()
                .map(|change| signed(change.bounced))
                .collect(),
        }
    }

    /// Binds $1 to $10 of `apply.sql`.
    fn bind<'q>(
        self,
        query: Query<'q>,
        group: &Group,
        key: &GroupKey,
        outcomes: &Outcomes,
        rule: &Rule,
    ) -> Query<'q>
    where
        'a: 'q,
    {
        let (all_delivered, all_bounced) = (sum(&self.delivered), sum(&self.bounced));
        query
            .bind(key.writer)
            .bind(key.sequence)
            .bind(i64::from(group.formed_at.get()))
            .bind(ledger::encode(outcomes))
            .bind(rule.threshold())
            .bind(self.domains)
            .bind(self.delivered)
            .bind(self.bounced)
            .bind(all_delivered)
            .bind(all_bounced)
    }
}

/// What the column `turn` says of a verdict that changed.
fn verdict_change(domain: &str, turn: i16) -> Option<VerdictChange> {
    use Verdict::{CatchAll, NotCatchAll, Unknown};
    let (from, to) = match turn {
        2 | 12 => (Unknown, CatchAll),
        3 | 13 => (Unknown, NotCatchAll),
        23 => (CatchAll, NotCatchAll),
        _ => return None,
    };
    let domain = DomainRef::from_stored(domain).ok()?.to_name();
    Some(VerdictChange { domain, from, to })
}

/// As far as a total goes.
fn sum(counts: &[i64]) -> i64 {
    counts.iter().copied().fold(0, i64::saturating_add)
}

/// Counts stop at `Tally::MAX_COUNT`, so a change needs no more.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_marks_need_stands_in_the_statement() {
        for part in ["fresh AS", "added AS", "FROM fresh", "FROM added"] {
            assert!(MARKED.contains(part), "{part}");
        }
        assert_eq!(MARKED.matches("EXISTS (SELECT FROM fresh)").count(), 2);
        assert!(!MARKED.contains("(marked: "));
    }
}
