//! Callers' idempotency keys, kept in the table `marks`.

use std::collections::{BTreeMap, HashMap, HashSet};

use business::{
    email_domains::model::Group,
    kernel::{ErrorKind, PortError},
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    error::{Phase, port_error},
    record::OPERATION,
};

/// Adds the group's marks, and gives the fingerprints of those that were there already. Waits for
/// other transactions that add the same ones, so what it gives is committed.
pub(super) async fn add(
    connection: &mut PgConnection,
    group: &Group,
) -> Result<HashMap<u128, u64>, PortError> {
    // Sorted by key: one order for all, so that none waits for another in a circle.
    let mut marks = BTreeMap::new();
    for mark in group.members.iter().filter_map(|member| member.mark) {
        // Of several under one key the first counts.
        marks
            .entry(Uuid::from_u128(mark.key))
            .or_insert(mark.fingerprint.cast_signed());
    }
    let (keys, fingerprints): (Vec<Uuid>, Vec<i64>) = marks.into_iter().unzip();

    let failed = |error| port_error(OPERATION, Phase::Before, error);
    let added: Vec<(Uuid,)> = sqlx::query_as(
        "INSERT INTO marks (key, fingerprint, counted_at)
         SELECT key, fingerprint, $3
         FROM unnest($1::uuid[], $2::bigint[]) AS mark (key, fingerprint)
         ON CONFLICT (key) DO NOTHING
         RETURNING key",
    )
    .bind(&keys)
    .bind(fingerprints)
    .bind(i64::from(group.formed_at.get()))
    .fetch_all(&mut *connection)
    .await
    .map_err(failed)?;
    if added.len() == keys.len() {
        return Ok(HashMap::new());
    }

    let added: HashSet<Uuid> = added.into_iter().map(|(key,)| key).collect();
    let known: Vec<Uuid> = keys
        .into_iter()
        .filter(|key| !added.contains(key))
        .collect();
    let stored: Vec<(Uuid, i64)> =
        sqlx::query_as("SELECT key, fingerprint FROM marks WHERE key = ANY($1)")
            .bind(&known)
            .fetch_all(connection)
            .await
            .map_err(failed)?;
    if stored.len() != known.len() {
        // One was cleared away between the two statements; the next try adds it.
        return Err(PortError::new(ErrorKind::Unavailable, OPERATION));
    }
    Ok(stored
        .into_iter()
        .map(|(key, fingerprint)| (key.as_u128(), fingerprint.cast_unsigned()))
        .collect())
}
