//! A standby takes over.

use std::time::{Duration, Instant};

use anyhow::ensure;
use fastrand::Rng;
use foundation::testing::Postgres;
use tokio::task::block_in_place;

use super::{
    Findings, Ground, Row,
    postgres::{address, brief, fold, through},
};
use crate::{
    checker::Violation,
    fleet::{Fleet, Plan},
    proxy::Proxy,
};

/// To a standby that every commit waits for.
pub const SYNCHRONOUS: Row = Row {
    name: "failover to a synchronous standby",
    what: "PostgreSQL is killed under load and its standby, which stands in \
           `synchronous_standby_names`, is promoted behind the proxy; every other time the standby \
           hung before, so that commits waited for it.",
    client: "503 unavailable or outcome-unknown until the standby serves",
    run: |ground| Box::pin(synchronous(ground)),
};

/// After commits that stopped to wait for the standby.
pub const UNWAITED: Row = Row {
    name: "failover after waits that were ended",
    what: "The synchronous standby hangs, and whoever waits for it is ended: PostgreSQL has committed \
           then, though not on the standby. Then the primary is killed, and the standby promoted.",
    client: "503 outcome-unknown; what it sends again is not acknowledged before a standby has it",
    run: |ground| Box::pin(unwaited(ground)),
};

/// To a standby that no commit waits for.
pub const ASYNCHRONOUS: Row = Row {
    name: "failover to an asynchronous standby",
    what: "The same, with a standby that was cut off and that no commit waited for. What it had not got \
           is lost, though it was acknowledged: the promise needs a synchronous one.",
    client: "503 until the standby serves, which does not know what was acknowledged last",
    run: |ground| Box::pin(asynchronous(ground)),
};

const STANDBY: &str = "torture";

fn sql(postgres: &Postgres, sql: &str) -> String {
    block_in_place(|| postgres.query(&postgres.url("postgres"), sql))
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

async fn synchronous(ground: Ground) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    let mut primary = block_in_place(Postgres::start);
    let proxy = Proxy::start(address(&primary)).await?;
    let server = brief(ground.setup("postgres"), &through(&proxy)).start()?;
    let fleet = Fleet::start(&Plan::new(rng.u64(..)), &[server.address()]);
    for round in 0..ground.amount.rounds {
        let standby = block_in_place(|| primary.start_standby(STANDBY));
        wait_for_standby(&primary).await?;
        fleet.go_on_for(rng.u64(100..400)).await?;
        if round % 2 == 0 {
            // From here on nothing can be acknowledged, neither what is new nor what is repeated.
            block_in_place(|| standby.freeze());
            fleet.are_refused(60).await?;
        }
        block_in_place(|| primary.kill());
        let killed = Instant::now();
        if round % 2 == 0 {
            block_in_place(|| standby.thaw());
        }
        block_in_place(|| standby.promote());
        proxy.turn_to(address(&standby));
        proxy.reset();
        findings.faults += 1;
        fleet.recovers(Instant::now()).await?;
        findings.recoveries.push(killed.elapsed());
        primary = standby;
    }
    let (history, counted) = findings.settle(fleet, &server, Duration::ZERO).await?;
    fold(&mut findings, &primary, &history, &counted)?;
    Ok(findings)
}

async fn unwaited(ground: Ground) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    let primary = block_in_place(Postgres::start);
    let standby = block_in_place(|| primary.start_standby(STANDBY));
    let proxy = Proxy::start(address(&primary)).await?;
    let server = brief(ground.setup("postgres"), &through(&proxy)).start()?;
    wait_for_standby(&primary).await?;
    let plan = Plan {
        // PostgreSQL shows a commit that stopped to wait, and forgets it with the primary.
        readers: 0,
        ..Plan::new(rng.u64(..))
    };
    let fleet = Fleet::start(&plan, &[server.address()]);
    fleet.go_on_for(rng.u64(100..400)).await?;
    block_in_place(|| standby.freeze());
    let frozen = Instant::now();
    while frozen.elapsed() < Duration::from_secs(3) {
        let ended = sql(
            &primary,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE wait_event = 'SyncRep'",
        );
        findings.faults += ended.parse::<u64>()?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    block_in_place(|| primary.kill());
    let killed = Instant::now();
    block_in_place(|| standby.thaw());
    block_in_place(|| standby.promote());
    proxy.turn_to(address(&standby));
    proxy.reset();
    fleet.recovers(Instant::now()).await?;
    findings.recoveries.push(killed.elapsed());
    let (history, counted) = findings.settle(fleet, &server, Duration::ZERO).await?;
    fold(&mut findings, &standby, &history, &counted)?;
    Ok(findings)
}

async fn asynchronous(ground: Ground) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    let primary = block_in_place(Postgres::start);
    let standby = block_in_place(|| primary.start_standby(STANDBY));
    let proxy = Proxy::start(address(&primary)).await?;
    let server = brief(ground.setup("postgres"), &through(&proxy)).start()?;
    let fleet = Fleet::start(&Plan::new(rng.u64(..)), &[server.address()]);
    fleet.go_on_for(100).await?;
    cut_off(&standby).await?;
    fleet.go_on_for(300).await?;
    block_in_place(|| primary.kill());
    let killed = Instant::now();
    block_in_place(|| standby.promote());
    proxy.turn_to(address(&standby));
    proxy.reset();
    findings.faults += 1;
    fleet.recovers(Instant::now()).await?;
    findings.recoveries.push(killed.elapsed());
    findings.settle(fleet, &server, Duration::ZERO).await?;
    let lost = findings.lost();
    findings.violations.retain(|violation| {
        use Violation::{Lost, Stale, WentBack};
        !matches!(violation, Lost(_) | Stale(_) | WentBack(_))
    });
    if lost == 0 {
        findings.broken("nothing was lost where something must be");
    }
    findings.notes.push(format!(
        "{lost} acknowledged events lost, as they must be expected to be"
    ));
    Ok(findings)
}
