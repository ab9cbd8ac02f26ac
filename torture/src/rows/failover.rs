//! A standby takes over.

use std::time::{Duration, Instant};

use anyhow::ensure;
use foundation::testing::Postgres;
use tokio::task::block_in_place;

use super::{
    Findings, Ground, Row,
    scene::{Scene, address},
};
use crate::checker::Violation;

/// To a standby that every commit waits for.
pub const SYNCHRONOUS: Row = Row {
    name: "failover to a synchronous standby",
    what: "PostgreSQL is killed under load and its standby, which stands in \
           `synchronous_standby_names`, is promoted behind the proxy; every other time the standby \
           hung before, so that commits waited for it. It has `wal_retrieve_retry_interval = 100ms`: with \
           PostgreSQL's 5 s, the promotion of one that hung takes 5 s longer now and then.",
    client: "503 outcome-unknown for what was being written, overloaded while it waits, then unavailable \
             until the standby serves",
    run: |ground| Box::pin(synchronous(ground)),
};

/// After commits that stopped to wait for the standby.
pub const UNWAITED: Row = Row {
    name: "failover after waits that were ended",
    what: "The synchronous standby hangs, and whoever waits for it is ended: PostgreSQL has committed \
           then, though not on the standby. Then the primary is killed, and the standby promoted.",
    client: "503 outcome-unknown, then unavailable until the standby serves; what it sends again is not \
             acknowledged before a standby has it",
    run: |ground| Box::pin(unwaited(ground)),
};

/// To a standby that no commit waits for.
pub const ASYNCHRONOUS: Row = Row {
    name: "failover to an asynchronous standby",
    what: "The same, with a standby that was cut off and that no commit waited for. What it had not got \
           is lost, though it was acknowledged: the promise needs a synchronous one.",
    client: "503 outcome-unknown or unavailable until the standby serves, which does not know what was \
             acknowledged last",
    run: |ground| Box::pin(asynchronous(ground)),
};

const STANDBY: &str = "torture";

fn sql(postgres: &Postgres, sql: &str) -> String {
    block_in_place(|| postgres.query(&postgres.url("postgres"), sql))
}

/// A standby that soon tries again to receive. One that hung may not be promoted before it does, and
/// PostgreSQL's default is 5 s.
fn standby_of(primary: &Postgres) -> Postgres {
    let standby = block_in_place(|| primary.start_standby(STANDBY));
    sql(
        &standby,
        "ALTER SYSTEM SET wal_retrieve_retry_interval = '100ms'",
    );
    sql(&standby, "SELECT pg_reload_conf()");
    standby
}

/// Lets every commit wait for the standby.
async fn wait_for_standby(primary: &Postgres) -> anyhow::Result<()> {
    sql(
        primary,
        &format!("ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'"),
    );
    sql(primary, "SELECT pg_reload_conf()");
    let began = Instant::now();
    while sql(primary, "SELECT sync_state FROM pg_stat_replication") != "sync" {
        ensure!(
            began.elapsed() < crate::DEADLINE,
            "the standby does not stream"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Lets a standby get no more. To halt it is not enough: it would still find what waits in its socket.
async fn cut_off(standby: &Postgres) -> anyhow::Result<()> {
    sql(standby, "ALTER SYSTEM SET primary_conninfo = ''");
    sql(standby, "SELECT pg_reload_conf()");
    let began = Instant::now();
    while sql(standby, "SELECT count(*) FROM pg_stat_wal_receiver") != "0" {
        ensure!(
            began.elapsed() < crate::DEADLINE,
            "the standby goes on to receive"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Kills the primary and lets the standby take its place: promoted, and behind the proxy.
async fn fail_over(scene: &mut Scene, standby: Postgres) -> anyhow::Result<()> {
    block_in_place(|| scene.postgres.kill());
    let killed = Instant::now();
    // It may have hung.
    block_in_place(|| standby.thaw());
    block_in_place(|| standby.promote());
    scene.proxy.turn_to(address(&standby));
    scene.proxy.reset();
    scene.fleet.recovers(Instant::now()).await?;
    scene.findings.recoveries.push(killed.elapsed());
    scene.postgres = standby;
    Ok(())
}

async fn synchronous(ground: Ground) -> anyhow::Result<Findings> {
    let mut scene = Scene::usual(&ground).await?;
    for round in 0..ground.amount.rounds {
        let standby = standby_of(&scene.postgres);
        wait_for_standby(&scene.postgres).await?;
        scene.fleet.go_on_for(scene.rng.u64(100..400)).await?;
        if round % 2 == 0 {
            // From here on nothing can be acknowledged, neither what is new nor what is repeated.
            block_in_place(|| standby.freeze());
            scene.fleet.are_refused(60).await?;
        }
        scene.findings.faults += 1;
        fail_over(&mut scene, standby).await?;
    }
    scene.end().await
}

async fn unwaited(ground: Ground) -> anyhow::Result<Findings> {
    let primary = block_in_place(Postgres::start);
    let standby = standby_of(&primary);
    wait_for_standby(&primary).await?;
    // PostgreSQL shows a commit that stopped to wait, and forgets it with the primary.
    let mut scene = Scene::set(&ground, primary, |plan| plan.readers = 0).await?;
    scene.fleet.go_on_for(scene.rng.u64(100..400)).await?;
    block_in_place(|| standby.freeze());
    let frozen = Instant::now();
    while frozen.elapsed() < Duration::from_secs(3) {
        let ended = sql(
            &scene.postgres,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE wait_event = 'SyncRep'",
        );
        scene.findings.faults += ended.parse::<u64>()?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    fail_over(&mut scene, standby).await?;
    scene.end().await
}

async fn asynchronous(ground: Ground) -> anyhow::Result<Findings> {
    let primary = block_in_place(Postgres::start);
    let standby = standby_of(&primary);
    let mut scene = Scene::set(&ground, primary, |_| {}).await?;
    scene.fleet.go_on_for(100).await?;
    cut_off(&standby).await?;
    scene.fleet.go_on_for(300).await?;
    scene.findings.faults += 1;
    fail_over(&mut scene, standby).await?;
    let Scene {
        mut findings,
        fleet,
        server,
        ..
    } = scene;
    findings.settle(fleet, &server, Duration::ZERO).await?;
    let lost = findings.lost();
    findings.violations.retain(|violation| {
        use Violation::{Lost, Stale, WentBack};
        !matches!(violation, Lost(_) | Stale(_) | WentBack(_))
    });
    if lost == 0 {
        findings.broken("nothing was lost where something must be");
    }
    findings.expected_losses.push(lost);
    Ok(findings)
}
