//! How a group is counted: in one statement, or with marks in one transaction.

use business::{
    email_domains::{
        model::{DomainRef, Group, Outcomes, fold, resolve_marks},
        ports::Recorded,
        verdict::{Verdict, VerdictChange},
    },
    kernel::{ErrorKind, PortError},
};
use sqlx::{Connection, PgConnection};

use super::{
    error::{Phase, port_error},
    ledger::{self, GroupKey},
    marks::{self, Generations},
    schema::Rule,
};

pub(super) const OPERATION: &str = "record";

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
        return apply(connection, group, &key, outcomes, rule, Phase::Committing).await;
    }

    generations.turn_if_due(connection, group.formed_at).await?;
    // All lock in one order: marks by key, the writer, domains by name, sums.
    let begun = connection.begin_with(marks::BEGIN).await;
    let mut transaction = begun.map_err(|error| port_error(OPERATION, Phase::Before, error))?;
    let stored = generations.add(&mut transaction, group).await?;
    let outcomes = resolve_marks(&group.members, stored.horizon, |hash| {
        stored.fingerprints.get(&hash).copied()
    });
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
    let (all_delivered, all_bounced) = (sum(&delivered), sum(&bounced));
    let (applied, turned, turns): (bool, Vec<String>, Vec<i16>) =
        sqlx::query_as(include_str!("apply.sql"))
            .bind(key.writer)
            .bind(key.sequence)
            .bind(i64::from(group.formed_at.get()))
            .bind(ledger::encode(&outcomes))
            .bind(rule.threshold())
            .bind(domains)
            .bind(delivered)
            .bind(bounced)
            .bind(all_delivered)
            .bind(all_bounced)
            .fetch_one(&mut *connection)
            .await
            .map_err(|error| port_error(OPERATION, phase, error))?;
    if !applied {
        return ledger::recorded_before(connection, group, key, rule).await;
    }
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
