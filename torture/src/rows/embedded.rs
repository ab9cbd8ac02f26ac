//! The embedded store: kills, power cuts, failing disks.

use std::{
    os::unix::process::ExitStatusExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use fastrand::Rng;

use super::{Findings, Ground, Row};
use crate::{
    checker::Violation,
    fleet::{Fleet, Plan},
    history::{Fate, History, Tallies},
    journal,
    power_loss::{Torn, lose_power, tear_the_last_record},
    report::thousands,
    server::{NotServing, Server},
    setup::Setup,
    small_disk::SmallDisk,
};

/// Power cuts in memory.
pub const POWER_LOSS: Row = Row {
    name: "power loss",
    what: "In memory: unsynced writes lost or kept in part, sectors out of order, names lost, syncs \
           and writes that fail.",
    client: "no answer; what it sends again under its key counts once",
    run: |ground| Box::pin(power_loss(ground)),
};

/// A torn record in memory.
pub const TORN_RECORD: Row = Row {
    name: "torn record",
    what: "In memory: the last record of the journal torn at every byte, with sectors of it missing.",
    client: "no answer; what it sends again under its key counts once",
    run: |ground| Box::pin(torn_record(ground)),
};

/// SIGKILL at random.
pub const KILLS: Row = Row {
    name: "kill -9 at random",
    what: "The server is killed under load and started again on the same folder; half of the time \
           with segments and snapshots so small that the kills hit those too.",
    client: "the connection is lost, and there is none until the server is back; what it sends again under its key counts once",
    run: |ground| Box::pin(kills(ground)),
};

/// SIGKILL where it hurts.
pub const KILL_POINTS: Row = Row {
    name: "kill -9 at named points",
    what: "The server kills itself before and after a sync, before it answers, while it makes a \
           segment, and at each step of a snapshot.",
    client: "the connection is lost, and there is none until the server is back; what it sends again under its key counts once",
    run: |ground| Box::pin(kill_points(ground)),
};

/// A sync that fails.
pub const SYNC_ERROR: Row = Row {
    name: "sync error",
    what: "A sync of the journal fails with EIO under load.",
    client: "503 outcome-unknown for what was being written, unavailable or a lost connection for what came \
             behind it; the server exits with 1, and counts on when it is started again",
    run: |ground| Box::pin(sync_error(ground)),
};

/// A full disk.
pub const DISK_FULL: Row = Row {
    name: "disk full",
    what: "Somebody else fills the disk to the last byte, under load, and frees it again.",
    client: "503 unavailable; reads go on",
    run: |ground| Box::pin(disk_full(ground)),
};

/// SIGTERM under load.
pub const SIGTERM: Row = Row {
    name: "SIGTERM in load",
    what: "The server is told to stop under load, and started again.",
    client: "every answer ends its connection (`Connection: close`), then there is none until it is \
             back; a request over a connection that was idle until then, or that was not accepted any \
             more, is lost, and not counted",
    run: |ground| Box::pin(sigterm(ground)),
};

async fn power_loss(ground: Ground) -> anyhow::Result<Findings> {
    let losses = ground.amount.power_losses;
    let within = Duration::from_secs(60 + losses / 20);
    let lost = tokio::task::spawn_blocking(move || lose_power(ground.seed, losses, within)).await?;
    let mut findings = Findings::default();
    match lost {
        Ok(survived) => {
            ensure!(survived.power_losses >= losses, "too slow: {survived:?}");
            findings.faults = survived.power_losses;
            findings.groups = [survived.groups, survived.unknown];
            let told = format!(
                "{} groups sent again that were not acknowledged, {} deaths of the process alone, {} \
                 syncs and {} writes that failed",
                thousands(survived.resent),
                thousands(survived.process_deaths),
                thousands(survived.failed_syncs),
                thousands(survived.failed_writes)
            );
            findings.note("", told);
        }
        Err(error) => findings.broken(format!("{error:#}")),
    }
    Ok(findings)
}

async fn torn_record(ground: Ground) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut torn = Torn::default();
    for seed in 0..ground.amount.rounds.min(8) {
        let seed = ground.seed.wrapping_add(seed);
        match tokio::task::spawn_blocking(move || tear_the_last_record(seed)).await? {
            Ok(more) => torn += more,
            Err(error) => findings.broken(format!("{error:#}")),
        }
    }
    findings.faults = torn.ways;
    findings.groups = [torn.held, torn.ways];
    let told = format!(
        "{} records of {} bytes together, torn in {} ways: each time the store was opened, and all of \
         the up to four groups before it were there; the torn one counted whole {} times and not at \
         all {} times, and once after it was sent again",
        torn.records,
        thousands(torn.bytes),
        thousands(torn.ways),
        thousands(torn.whole),
        thousands(torn.ways - torn.whole)
    );
    findings.note("", told);
    Ok(findings)
}

async fn kills(ground: Ground) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    for (small, kills) in [
        (true, ground.amount.kills.div_ceil(2)),
        (false, ground.amount.kills / 2),
    ] {
        let folder = tempfile::tempdir()?;
        let setup = match small {
            true => with_small_files(ground.setup("embedded")),
            false => ground.setup("embedded"),
        };
        let setup = setup.set("store.embedded.path", folder.path().display());
        let mut rng = Rng::with_seed(ground.seed.wrapping_add(small.into()));
        let mut server = setup.start()?;
        let fleet = Fleet::start(&Plan::new(rng.u64(..)), &[server.address()]);
        for _ in 0..kills {
            fleet.go_on_for(rng.u64(20..600)).await?;
            tokio::time::sleep(Duration::from_micros(rng.u64(..5_000))).await;
            server.kill();
            let killed = Instant::now();
            fleet.turn_to(&[]);
            let again = start_again(&setup, &fleet, "SIGKILL", killed, &mut findings);
            let Some(started) = again.await? else {
                return Ok(findings);
            };
            server = started;
        }
        settle_and_fold(&mut findings, fleet, server, folder.path()).await?;
    }
    Ok(findings)
}

/// Where the process may be told to die, and how often it may pass by before.
const POINTS: [(&str, std::ops::Range<u64>); 8] = [
    ("before-sync", 1..300),
    ("after-sync", 1..300),
    ("before-answer", 1..300),
    ("segment-unnamed", 1..5),
    ("snapshot-half", 1..256),
    ("snapshot-unnamed", 1..3),
    ("snapshot-renamed", 1..3),
    ("snapshot-named", 1..3),
];

async fn kill_points(ground: Ground) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    for _ in 0..ground.amount.rounds.div_ceil(2) {
        // Another folder each time: snapshots that grow become rare.
        let folder = tempfile::tempdir()?;
        let setup = ground
            .planted("embedded")
            .set("store.embedded.path", folder.path().display())
            .set("store.embedded.segment_bytes", 16_384)
            .set("store.embedded.snapshot_after_bytes", 32_768);
        let fleet = Fleet::start(&Plan::new(rng.u64(..)), &[]);
        for (point, times) in POINTS {
            let at = format!("{point}:{}", rng.u64(times));
            let dying = setup.clone().with("CATCHALL_KILL_AT", &at).start();
            let status = match dying {
                Ok(mut dying) => {
                    fleet.turn_to(&[dying.address()]);
                    let status = dying.dies().await;
                    fleet.turn_to(&[]);
                    status.with_context(|| format!("it does not come to {at}"))?
                }
                // It may die before it serves.
                Err(error) => NotServing::status_of(error)?,
            };
            ensure!(
                status.signal() == Some(9),
                "{status} where it had to die at {at}"
            );
            let again = start_again(&setup, &fleet, &at, Instant::now(), &mut findings);
            let Some(_server) = again.await? else {
                return Ok(findings);
            };
            fleet.turn_to(&[]);
        }
        let server = setup.start()?;
        fleet.turn_to(&[server.address()]);
        findings.settle(fleet, &server, Duration::ZERO).await?;
    }
    Ok(findings)
}

async fn sync_error(ground: Ground) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    let folder = tempfile::tempdir()?;
    let setup = ground
        .planted("embedded")
        .set("store.embedded.path", folder.path().display());
    let fleet = Fleet::start(&Plan::new(rng.u64(..)), &[]);
    for _ in 0..ground.amount.rounds {
        let at = format!("sync:{}", rng.u64(20..300));
        let server = setup.clone().with("CATCHALL_FAIL_AT", &at).start()?;
        fleet.turn_to(&[server.address()]);
        let (status, log) = tokio::task::block_in_place(|| server.ended());
        if status.code() != Some(1) {
            findings.broken(format!("{status} after a failed sync: {:?}", log.last()));
        }
        let again = start_again(&setup, &fleet, &at, Instant::now(), &mut findings);
        let Some(_server) = again.await? else {
            return Ok(findings);
        };
        fleet.turn_to(&[]);
    }
    let server = setup.start()?;
    fleet.turn_to(&[server.address()]);
    settle_and_fold(&mut findings, fleet, server, folder.path()).await?;
    Ok(findings)
}

async fn disk_full(ground: Ground) -> anyhow::Result<Findings> {
    const MIB: u64 = 1 << 20;
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    let disk = SmallDisk::new();
    let setup = ground
        .setup("embedded")
        .set("store.embedded.path", disk.data().display())
        .set("store.embedded.segment_bytes", MIB)
        .set("store.embedded.min_free_bytes", disk.min_free_bytes());
    let server = setup.start()?;
    let fleet = Fleet::start(&Plan::new(rng.u64(..)), &[server.address()]);
    for _ in 0..ground.amount.rounds {
        fleet.go_on_for(rng.u64(100..500)).await?;
        disk.fill();
        fleet.are_refused(200).await?;
        let read = server.get("/v1/domains/d0.example").await;
        if read.status != 200 {
            findings.broken(format!("a full disk, and a read is answered {read:?}"));
        }
        disk.free();
        findings.faults += 1;
        let freed = Instant::now();
        fleet.recovers(freed).await?;
        findings.recoveries.push(freed.elapsed());
    }
    settle_and_fold(&mut findings, fleet, server, &disk.data()).await?;
    Ok(findings)
}

async fn sigterm(ground: Ground) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    let folder = tempfile::tempdir()?;
    let setup = ground
        .setup("embedded")
        .set("store.embedded.path", folder.path().display())
        .set("http.unready_ms", 100);
    let mut server = setup.start()?;
    let fleet = Fleet::start(&Plan::new(rng.u64(..)), &[server.address()]);
    for _ in 0..ground.amount.rounds {
        fleet.go_on_for(rng.u64(20..600)).await?;
        server.terminate();
        let told = Instant::now();
        let (status, log) = tokio::task::block_in_place(|| server.ended());
        fleet.turn_to(&[]);
        if status.code() != Some(0) {
            findings.broken(format!("{status} after SIGTERM: {:?}", log.last()));
        }
        let again = start_again(&setup, &fleet, "SIGTERM", told, &mut findings);
        let Some(started) = again.await? else {
            return Ok(findings);
        };
        server = started;
    }
    let counted = settle_and_fold(&mut findings, fleet, server, folder.path()).await?;
    let told = format!("{counted} of {} events are counted", findings.unknown);
    findings.note("of unknown outcome", told);
    Ok(findings)
}

fn with_small_files(setup: Setup) -> Setup {
    setup
        .set("store.embedded.segment_bytes", 16_384)
        .set("store.embedded.snapshot_after_bytes", 65_536)
}

/// Starts a server again that ended by this fault at that moment, and lets the clients find it.
/// `None` when it does not start: that is a finding, and the row ends with it.
async fn start_again(
    setup: &Setup,
    fleet: &Fleet,
    fault: &str,
    since: Instant,
    findings: &mut Findings,
) -> anyhow::Result<Option<Server>> {
    findings.faults += 1;
    let server = match setup.start() {
        Ok(server) => server,
        Err(error) => {
            findings.broken(format!("after {fault}: {error:#}"));
            return Ok(None);
        }
    };
    fleet.turn_to(&[server.address()]);
    let recovered = fleet.recovers(Instant::now()).await;
    recovered.with_context(|| format!("after {fault}"))?;
    findings.recoveries.push(since.elapsed());
    Ok(Some(server))
}

/// Holds what the server says against what the clients know, and its journal against both. How many
/// events are counted of which no client knows.
async fn settle_and_fold(
    findings: &mut Findings,
    fleet: Fleet,
    mut server: Server,
    folder: &Path,
) -> anyhow::Result<u64> {
    let (history, counted) = findings.settle(fleet, &server, Duration::ZERO).await?;
    server.kill();
    fold(findings, folder, &history, &counted)?;
    let acknowledged = history.events(|fate| matches!(fate, Fate::Acknowledged(_)));
    let counted: u64 = counted.values().flatten().sum();
    Ok(counted.saturating_sub(acknowledged))
}

/// Holds the journal itself against what the server said of it before it ended, and its keys against
/// the members that had one. A folder with a snapshot has no whole journal.
fn fold(
    findings: &mut Findings,
    folder: &Path,
    history: &History,
    counted: &Tallies,
) -> anyhow::Result<()> {
    let Some(fold) = journal::fold(folder)? else {
        return Ok(());
    };
    if fold.tallies != *counted {
        let told = "the journal adds up to something else than the server told";
        findings.violations.push(Violation::Fold(told.to_owned()));
    }
    findings.hold_marks(fold.marks, "the journal", history);
    let told = format!(
        "{} records of the journal folded to the same counts",
        thousands(fold.records)
    );
    findings.note("", told);
    Ok(())
}
