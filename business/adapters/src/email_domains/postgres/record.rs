//! How a group is counted: in one statement, or with marks in one transaction.

use business::{
    email_domains::{
        model::{FoldedChange, Group, Outcomes, Tally, fold, resolve_marks},
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
    if group.members.iter().all(|member| member.mark.is_none()) {
        // One statement, which commits itself: one round trip.
        let outcomes = resolve_marks(&group.members, |_| None);
        return apply(connection, group, &key, outcomes, rule, Phase::Committing).await;
    }

    // All lock in one order: marks by key, the writer, domains by name, sums.
    let begun = connection.begin().await;
    let mut transaction = begun.map_err(|error| port_error(OPERATION, Phase::Before, error))?;
    let stored = marks::add(&mut transaction, group).await?;
    let outcomes = resolve_marks(&group.members, |mark| stored.get(&mark).copied());
    let recorded = apply(&mut transaction, group, &key, outcomes, rule, Phase::Before).await?;
    let committed = transaction.commit().await;
    committed.map_err(|error| port_error(OPERATION, Phase::Committing, error))?;
    Ok(recorded)
}

/// Advances the writer and counts what the outcomes let count. A group that was recorded before
/// is answered as then.
async fn apply(
    connection: &mut PgConnection,
    group: &Group,
    key: &GroupKey,
    outcomes: Outcomes,
    rule: &Rule,
    phase: Phase,
) -> Result<Recorded, PortError> {
    let changes = fold(&group.members, &outcomes);
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
            .bind(ledger::encode(&outcomes))
            .bind(rule.threshold())
            .bind(domains)
            .bind(delivered)
            .bind(bounced)
            .fetch_one(&mut *connection)
            .await
            .map_err(|error| port_error(OPERATION, phase, error))?;
    if !applied {
        return ledger::recorded_before(connection, group, key, rule).await;
    }
    let verdict_changes = domains
        .iter()
        .zip(delivered.into_iter().zip(bounced))
        .filter_map(|(domain, after)| verdict_change(&changes, domain, after, rule).transpose())
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Recorded {
        outcomes,
        verdict_changes,
    })
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
