//! How a group is counted: in one statement, or with marks in one transaction.

use business::{
    email_domains::{
        model::{FoldedChange, Group, Outcome, Tally, fold, resolve_marks},
        ports::Recorded,
        verdict::VerdictChange,
    },
    kernel::{ErrorKind, PortError},
};
use sqlx::{Connection, PgConnection};

use super::{
    error::{Phase, port_error},
    ledger::{self, GroupKey},
    marks,
    schema::Rule,
};

pub(super) const OPERATION: &str = "record";

/// Counts a group on a connection that nobody else uses. After an error the connection has to be
/// closed: a transaction may be open on it.
pub(super) async fn record(
    connection: &mut PgConnection,
    group: &Group,
    rule: &Rule,
) -> Result<Recorded, PortError> {
    let key = GroupKey::of(group)?;
    if group.members.iter().any(|member| member.mark.is_some()) {
        in_transaction(connection, group, &key, rule).await
    } else {
        // It commits itself: one round trip.
        let outcomes = resolve_marks(&group.members, |_| None);
        match apply(connection, group, &key, &outcomes, rule, Phase::Committing).await? {
            Some(verdict_changes) => Ok(Recorded {
                outcomes,
                verdict_changes,
            }),
            None => ledger::recorded_before(connection, group, &key, rule).await,
        }
    }
}

/// Locks in the order in which all do: the writer, marks by key, domains by name, sums.
async fn in_transaction(
    connection: &mut PgConnection,
    group: &Group,
    key: &GroupKey,
    rule: &Rule,
) -> Result<Recorded, PortError> {
    let begun = connection.begin().await;
    let mut transaction = begun.map_err(|error| port_error(OPERATION, Phase::Before, error))?;
    let recorded = if ledger::is_next(&mut transaction, group, key).await? {
        let stored = marks::add(&mut transaction, group).await?;
        let outcomes = resolve_marks(&group.members, |mark| stored.get(&mark).copied());
        match apply(&mut transaction, group, key, &outcomes, rule, Phase::Before).await? {
            Some(verdict_changes) => Recorded {
                outcomes,
                verdict_changes,
            },
            None => ledger::recorded_before(&mut transaction, group, key, rule).await?,
        }
    } else {
        ledger::recorded_before(&mut transaction, group, key, rule).await?
    };
    // Also when it was recorded before: the commit waits until the original, too, is as durable
    // as a synchronous standby makes it.
    let committed = transaction.commit().await;
    committed.map_err(|error| port_error(OPERATION, Phase::Committing, error))?;
    Ok(recorded)
}

/// Advances the writer and counts what the outcomes let count; gives the verdict changes. `None`
/// when the group was not admitted, and nothing happened: see [`ledger::recorded_before`].
async fn apply(
    connection: &mut PgConnection,
    group: &Group,
    key: &GroupKey,
    outcomes: &[Outcome],
    rule: &Rule,
    phase: Phase,
) -> Result<Option<Vec<VerdictChange>>, PortError> {
    let changes = fold(&group.members, outcomes);
    let domains: Vec<&str> = changes
        .iter()
        .map(|change| change.domain.as_str())
        .collect();
    let delivered: Vec<i64> = changes
        .iter()
        .map(|change| signed(change.delivered))
        .collect();
    let bounced: Vec<i64> = changes
        .iter()
        .map(|change| signed(change.bounced))
        .collect();
    let (applied, domains, delivered, bounced): (bool, Vec<String>, Vec<i64>, Vec<i64>) =
        sqlx::query_as(include_str!("apply.sql"))
            .bind(key.writer)
            .bind(key.sequence)
            .bind(i64::from(group.formed_at.get()))
            .bind(ledger::encode(outcomes))
            .bind(rule.threshold())
            .bind(domains)
            .bind(delivered)
            .bind(bounced)
            .fetch_one(connection)
            .await
            .map_err(|error| port_error(OPERATION, phase, error))?;
    if !applied {
        return Ok(None);
    }
    let mut verdict_changes = domains
        .iter()
        .zip(delivered.into_iter().zip(bounced))
        .filter_map(|(domain, after)| verdict_change(&changes, domain, after, rule).transpose())
        .collect::<Result<Vec<_>, _>>()?;
    verdict_changes.sort_unstable_by(|one, other| one.domain.cmp(&other.domain));
    Ok(Some(verdict_changes))
}

/// How the change that led to this tally changed the verdict.
fn verdict_change(
    changes: &[FoldedChange<'_>],
    domain: &str,
    (delivered, bounced): (i64, i64),
    rule: &Rule,
) -> Result<Option<VerdictChange>, PortError> {
    let place = changes.binary_search_by(|change| change.domain.as_str().cmp(domain));
    let change = place
        .ok()
        .and_then(|place| changes.get(place))
        .ok_or_else(|| PortError::new(ErrorKind::Ambiguous, OPERATION))?;
    let (delivered, bounced) = (delivered.unsigned_abs(), bounced.unsigned_abs());
    let after = Tally {
        delivered,
        bounced,
        seen: None,
    };
    let before = Tally {
        delivered: delivered.saturating_sub(change.delivered),
        bounced: bounced.saturating_sub(change.bounced),
        seen: None,
    };
    let verdicts = rule.policy().change(&before, &after);
    Ok(verdicts.map(|(from, to)| VerdictChange {
        domain: change.domain.to_name(),
        from,
        to,
    }))
}

/// Counts stop at [`Tally::MAX_COUNT`], so a change needs no more.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
