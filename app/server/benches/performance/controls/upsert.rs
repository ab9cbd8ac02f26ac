//! The raw bulk upsert of PostgreSQL: one statement for a batch of distinct, sorted domains, from
//! some connections in a closed loop. No HTTP, no ledger, no totals, no moments.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection};
use tokio::task::LocalSet;

use crate::{
    keys::{Draw, Keys, Name},
    sample::{Latency, Run},
};

/// The best found for batches of 1,000 (docs/postgres-tuning.md).
pub(crate) const CONNECTIONS: u64 = 4;

/// With room for the new version of a row beside the old one.
pub(crate) const TABLE: &str = "CREATE TABLE raw (
    delivered bigint NOT NULL, bounced bigint NOT NULL, domain text COLLATE \"C\" PRIMARY KEY
) WITH (fillfactor = 70)";

const UPSERT: &str = "INSERT INTO raw (domain, delivered, bounced)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[])
    ON CONFLICT (domain) DO UPDATE SET
        delivered = raw.delivered + EXCLUDED.delivered, bounced = raw.bounced + EXCLUDED.bounced";

pub(crate) fn run(
    database: &str,
    keys: Keys,
    batch: u32,
    events: u64,
    seed: u64,
) -> anyhow::Result<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(PgConnection::connect(database).await?);
        }
        let left = Rc::new(Cell::new(events));
        let start = Instant::now();
        let tasks: Vec<_> = connections
            .into_iter()
            .zip(0..)
            .map(|(connection, number)| {
                let draw = Draw::new(keys, (seed << 16) + number);
                tokio::task::spawn_local(drive(connection, draw, batch, Rc::clone(&left)))
            })
            .collect();
        let mut took = Vec::new();
        let mut elapsed = Duration::ZERO;
        for task in tasks {
            took.extend(task.await??);
            elapsed = start.elapsed();
        }
        Ok(Run {
            done: events,
            elapsed,
            latency: Latency::of(&mut took),
        })
    })
}

async fn drive(
    mut connection: PgConnection,
    mut draw: Draw,
    batch: u32,
    left: Rc<Cell<u64>>,
) -> anyhow::Result<Vec<f64>> {
    let mut took = Vec::new();
    loop {
        let now = left.get().min(batch.into());
        if now == 0 {
            connection.close().await?;
            return Ok(took);
        }
        left.set(left.get() - now);
        let rows = distinct(&mut draw, now);
        let domains: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
        let delivered: Vec<i64> = rows.iter().map(|(_, count)| *count).collect();
        let start = Instant::now();
        sqlx::query(UPSERT)
            .bind(domains)
            .bind(delivered)
            .bind(vec![0_i64; rows.len()])
            .execute(&mut connection)
            .await?;
        took.push(start.elapsed().as_secs_f64() * 1e3);
    }
}

/// So many events as rows: one statement cannot change a row twice.
fn distinct(draw: &mut Draw, events: u64) -> Vec<(Name, i64)> {
    let mut rows: Vec<_> = (0..events).map(|_| (draw.name(), 1)).collect();
    rows.sort_unstable();
    rows.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
    rows
}
