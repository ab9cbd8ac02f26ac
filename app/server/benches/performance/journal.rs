//! The journal of an embedded store over ten million domains, seen from outside.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::server::{self, Server};

/// `store.embedded.snapshot_after_bytes`, as it ships.
const SNAPSHOT_AFTER: f64 = 268_435_456.0;

/// How many snapshots were finished since the server started.
pub(crate) fn snapshots(server: &Server) -> anyhow::Result<f64> {
    server.metric("catchall_snapshot_seconds_count")
}

/// The length at which a journal is replaced by a snapshot.
pub(crate) fn bound(server: &Server) -> anyhow::Result<f64> {
    Ok(server
        .metric("catchall_snapshot_bytes")?
        .max(SNAPSHOT_AFTER))
}

pub(crate) fn bytes(server: &Server) -> anyhow::Result<f64> {
    server.metric("catchall_journal_bytes")
}

/// Sends events until a snapshot is only so many bytes away.
pub(crate) fn fill(server: &Server, room: f64) -> anyhow::Result<()> {
    for seed in 0..200 {
        if bytes(server)? + room >= bound(server)? {
            return Ok(());
        }
        send(server, 300_000, seed)?;
    }
    anyhow::bail!("the journal does not grow")
}

/// Sends events until a snapshot is due, and none while it is written: little stands behind it.
pub(crate) fn force_snapshot(server: &Server) -> anyhow::Result<()> {
    let before = snapshots(server)?;
    fill(server, 10e6)?;
    let patience = Instant::now() + Duration::from_secs(60);
    for seed in 1_000.. {
        ensure!(Instant::now() < patience, "no snapshot is written");
        if snapshots(server)? > before {
            break;
        }
        if bytes(server)? < bound(server)? {
            send(server, 50_000, seed)?;
        } else {
            sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Sends events, uniform over ten million domains, in requests of 10,000.
pub(crate) fn send(server: &Server, events: u32, seed: u32) -> anyhow::Result<()> {
    let flags =
        format!("--events {events} --domains 10000000 --bulk 10000 --connections 2 --seed {seed}");
    let report = server::send(&server.url, &flags)?;
    ensure!(
        report["acknowledged"] == events,
        "not all was acknowledged: {report}"
    );
    Ok(())
}
