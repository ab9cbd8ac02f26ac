//! PostgreSQL away, and a server that goes on without it.

use std::{
    os::unix::process::ExitStatusExt,
    path::Path,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use fastrand::Rng;
use foundation::testing::Postgres;

use super::{Findings, Ground, Row, scene::fold};
use crate::{
    DEADLINE,
    fleet::{Fleet, Plan},
    http::Connection,
    report::thousands,
    server::{NotServing, Server},
    setup::Setup,
};

/// PostgreSQL away, with `store.when_down = "spool"`.
pub const AWAY: Row = Row {
    name: "PostgreSQL away, spooled",
    what: "With `store.when_down = \"spool\"`, under load, PostgreSQL is frozen in the middle of what it \
           commits, or killed.",
    client: "202, and `behind` with an Age on reads, or 503 unavailable for a read until PostgreSQL is \
             given up; 204 once the spool is empty",
    run: |ground| Box::pin(spooled(ground, [Way::Frozen, Way::Killed])),
};

/// The same, and the server dies too.
pub const CRASHED: Row = Row {
    name: "spooled, crashed, drained",
    what: "With `store.when_down = \"spool\"`, under load, PostgreSQL is killed, and then the server, with \
           a full spool or in the middle of the drain.",
    client: "202, and 503 unavailable for some reads; the connection is lost; what it sends again under its \
             key counts once",
    run: |ground| {
        let ways = [Way::ServerKilledWithin, Way::ServerKilledBefore];
        Box::pin(spooled(ground, ways))
    },
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// What was sent may be committed when it goes on.
    Frozen,
    Killed,
    /// The server is gone before PostgreSQL is back.
    ServerKilledBefore,
    /// The server is killed while it drains.
    ServerKilledWithin,
}

async fn spooled(ground: Ground, ways: [Way; 2]) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    let (postgres, folder) = (Arc::new(Postgres::start()), tempfile::tempdir()?);
    let setup = with_spool(ground.setup("postgres"), &postgres, folder.path());
    let dying = match ground.bug {
        Some(_) => setup.clone(),
        None => with_spool(ground.planted("postgres"), &postgres, folder.path()),
    };
    // Servers that died in the middle of a drain.
    let mut within = 0;
    let mut server = setup.start()?;
    let fleet = Fleet::start(&Plan::new(rng.u64(..)), &[server.address()]);
    // One with a bug has not long to be caught.
    let under_load = match ground.bug {
        Some(_) => Duration::from_millis(300),
        None => Duration::from_secs(20),
    };
    for _ in 0..ground.amount.rounds.div_ceil(2) {
        for way in ways {
            fleet.go_on_for(rng.u64(20..200)).await?;
            let away = Arc::clone(&postgres);
            in_background(move || match way {
                Way::Frozen => away.freeze(),
                _ => away.kill(),
            })
            .await?;
            fleet.are_spooled(rng.u64(50..500)).await?;
            let server_dies = matches!(way, Way::ServerKilledBefore | Way::ServerKilledWithin);
            if server_dies {
                fleet.turn_to(&[]);
                server.kill();
            }
            let back = Arc::clone(&postgres);
            in_background(move || match way {
                Way::Frozen => back.thaw(),
                _ => back.start_again(),
            })
            .await?;
            let healed = Instant::now();
            let mut died = true;
            if way == Way::ServerKilledWithin {
                let at = format!("drained:{}", rng.u64(1..6));
                let status = match dying.clone().with("CATCHALL_KILL_AT", &at).start() {
                    Ok(mut dying) => drains_or_dies(&mut dying).await?,
                    // It may die before it serves.
                    Err(error) => Some(NotServing::status_of(error)?),
                };
                if let Some(status) = status {
                    ensure!(
                        status.signal() == Some(9),
                        "{status} where it had to die at {at}"
                    );
                    within += 1;
                } else {
                    died = false;
                }
            }
            if server_dies {
                server = setup.start()?;
                fleet.turn_to(&[server.address()]);
            }
            findings.faults += u64::from(died);
            if tokio::time::timeout(under_load, until_drained(&server))
                .await
                .is_err()
            {
                // On a slow disk what waits may not get less while more comes.
                fleet.turn_to(&[]);
                until_drained(&server).await?;
            }
            findings.recoveries.push(healed.elapsed());
            fleet.turn_to(&[server.address()]);
        }
    }
    if ways.contains(&Way::ServerKilledWithin) && within == 0 {
        findings.broken("the server never died within a drain");
    }
    let (history, counted) = findings.settle(fleet, &server, Duration::ZERO).await?;
    fold(&mut findings, &postgres, &history, &counted)?;
    let spooled = findings.answers.get("202").copied().unwrap_or(0);
    findings.note("", format!("{} requests were spooled", thousands(spooled)));
    Ok(findings)
}

fn with_spool(setup: Setup, postgres: &Postgres, folder: &Path) -> Setup {
    setup
        .set("store.postgres.url", postgres.url("postgres"))
        .set("store.postgres.connect_timeout_ms", 1_000)
        .set("store.postgres.read_timeout_ms", 1_000)
        .set("store.when_down", "spool")
        .set("store.spool.path", folder.display())
        .set("store.spool.after_ms", 300)
}

/// How a server dies that is told to, while it drains; `None` when it had drained all before.
async fn drains_or_dies(server: &mut Server) -> anyhow::Result<Option<ExitStatus>> {
    let began = Instant::now();
    loop {
        if let Some(status) = server.status() {
            return Ok(Some(status));
        }
        if drained(server).await.unwrap_or(false) {
            server.kill();
            return Ok(None);
        }
        ensure!(began.elapsed() < DEADLINE, "it neither drains nor dies");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until the server says that it shows all that was acknowledged.
async fn until_drained(server: &Server) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while !drained(server).await.unwrap_or(false) {
        ensure!(Instant::now() < deadline, "the spool is not drained");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Whether the server says so; an error when it says nothing.
async fn drained(server: &Server) -> anyhow::Result<bool> {
    let mut connection = Connection::open(server.address()).await?;
    let answer = connection.try_get("/v1/stats", "").await?;
    Ok(answer.status == 200 && answer.field("age").is_none())
}

async fn in_background(work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    Ok(tokio::task::spawn_blocking(work).await?)
}
