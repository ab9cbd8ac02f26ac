//! PostgreSQL: killed, restarted, frozen, slow, out of connections, cut off, shared.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fastrand::Rng;
use foundation::testing::Postgres;
use tokio::task::block_in_place;

use super::{
    Findings, Ground, Row,
    scene::{Scene, brief, fold},
};
use crate::{
    fleet::{Fleet, Plan},
    proxy::Rules,
};

/// PostgreSQL is killed.
pub const KILLED: Row = Row {
    name: "PostgreSQL killed",
    what: "All its processes are killed under load, and it is started again.",
    client: "503 unavailable, or outcome-unknown for what was being written",
    run: |ground| Box::pin(killed(ground)),
};

/// PostgreSQL is killed with commits whose answers nobody got.
pub const KILLED_IN_COMMIT: Row = Row {
    name: "PostgreSQL killed in COMMIT",
    what: "What it answers is held up, so that it commits and nobody knows; then it is killed, and \
           started again.",
    client: "503 outcome-unknown, then unavailable until it is back; what it sends again under its key \
             counts once",
    run: |ground| Box::pin(killed_in_commit(ground)),
};

/// The answers of PostgreSQL are cut.
pub const CUT: Row = Row {
    name: "PostgreSQL cut off",
    what: "Its connections are reset in the middle of a statement and of an answer.",
    client: "nothing where the server may ask again by itself; otherwise 503 outcome-unknown or unavailable",
    run: |ground| Box::pin(cut(ground)),
};

/// PostgreSQL is in a black hole.
pub const BLACK_HOLE: Row = Row {
    name: "PostgreSQL in a black hole",
    what: "What is sent to it vanishes, and the connection stays open, until the server gives up.",
    client: "503 outcome-unknown at the deadline and overloaded behind it, then unavailable at once until \
             the way is open",
    run: |ground| Box::pin(black_hole(ground)),
};

/// PostgreSQL is restarted.
pub const RESTARTED: Row = Row {
    name: "PostgreSQL restarted",
    what: "It is stopped in an orderly way under load, and started again.",
    client: "503 outcome-unknown for what was being written, then unavailable while it is away",
    run: |ground| Box::pin(restarted(ground)),
};

/// PostgreSQL hangs.
pub const FROZEN: Row = Row {
    name: "PostgreSQL frozen",
    what: "All its processes are halted under load, and go on.",
    client: "503 outcome-unknown at the deadline and overloaded behind it, then unavailable at once until \
             it goes on",
    run: |ground| Box::pin(frozen(ground)),
};

/// PostgreSQL is slow.
pub const SLOW: Row = Row {
    name: "PostgreSQL slow",
    what: "Everything to and from it is held back by 100 ms, and then throttled to 20 kB/s.",
    client: "its answer, later; 503 overloaded when the oldest waits too long, and rarely outcome-unknown \
             where the deadline is over first",
    run: |ground| Box::pin(slow(ground)),
};

/// PostgreSQL has no connection to give.
pub const CONNECTIONS: Row = Row {
    name: "PostgreSQL out of connections",
    what: "Somebody else has all its connections, and the server's are ended.",
    client: "503 outcome-unknown for what was being written, then unavailable until there is one again",
    run: |ground| Box::pin(out_of_connections(ground)),
};

/// Two servers share it.
pub const TWO_SERVERS: Row = Row {
    name: "two servers at once",
    what: "Two servers on one database; what one did not answer is sent to the other under its key; \
           one of them is killed and started again.",
    client: "the connection is lost, or there is none; the other server answers",
    run: |ground| Box::pin(two_servers(ground)),
};

async fn killed(ground: Ground) -> anyhow::Result<Findings> {
    let mut scene = Scene::usual(&ground).await?;
    for _ in 0..ground.amount.rounds {
        scene.go_on().await?;
        block_in_place(|| scene.postgres.kill());
        scene.fleet.are_refused(30).await?;
        block_in_place(|| scene.postgres.start_again());
        scene.recovers(Instant::now()).await?;
    }
    scene.end().await
}

async fn killed_in_commit(ground: Ground) -> anyhow::Result<Findings> {
    let mut scene = Scene::simple(&ground).await?;
    for _ in 0..ground.amount.rounds {
        scene.go_on().await?;
        scene.proxy.set(Rules {
            answers_vanish: true,
            ..Rules::default()
        });
        // Until whatever was sent is committed.
        tokio::time::sleep(Duration::from_millis(scene.rng.u64(20..100))).await;
        block_in_place(|| scene.postgres.kill());
        scene.proxy.reset();
        scene.proxy.set(Rules::default());
        scene.fleet.are_refused(30).await?;
        block_in_place(|| scene.postgres.start_again());
        scene.recovers(Instant::now()).await?;
    }
    let mut findings = scene.end().await?;
    findings.must_have_told("503 outcome-unknown");
    Ok(findings)
}

async fn cut(ground: Ground) -> anyhow::Result<Findings> {
    let mut scene = Scene::simple(&ground).await?;
    for round in 0..5 * ground.amount.rounds {
        let after = Some(scene.rng.u64(200..20_000));
        scene.proxy.set(match round % 3 {
            // What was sent may be committed, and its answer is lost.
            0 => Rules {
                answers_vanish: true,
                ..Rules::default()
            },
            1 => Rules {
                cut_requests_after: after,
                ..Rules::default()
            },
            _ => Rules {
                cut_answers_after: after,
                ..Rules::default()
            },
        });
        tokio::time::sleep(Duration::from_millis(scene.rng.u64(5..200))).await;
        scene.proxy.reset();
        scene.proxy.set(Rules::default());
        let healed = Instant::now();
        scene.recovers(healed).await?;
        scene.fleet.go_on_for(20).await?;
    }
    scene.end().await
}

async fn black_hole(ground: Ground) -> anyhow::Result<Findings> {
    let mut scene = Scene::usual(&ground).await?;
    for _ in 0..ground.amount.rounds {
        scene.go_on().await?;
        scene.proxy.set(Rules {
            requests_vanish: true,
            ..Rules::default()
        });
        scene.fleet.are_refused(30).await?;
        scene.proxy.reset();
        scene.proxy.set(Rules::default());
        scene.recovers(Instant::now()).await?;
    }
    scene.end().await
}

async fn restarted(ground: Ground) -> anyhow::Result<Findings> {
    let mut scene = Scene::usual(&ground).await?;
    for _ in 0..ground.amount.rounds {
        scene.go_on().await?;
        block_in_place(|| scene.postgres.stop());
        scene.fleet.are_refused(30).await?;
        block_in_place(|| scene.postgres.start_again());
        scene.recovers(Instant::now()).await?;
    }
    scene.end().await
}

async fn frozen(ground: Ground) -> anyhow::Result<Findings> {
    let mut scene = Scene::usual(&ground).await?;
    for _ in 0..ground.amount.rounds {
        scene.go_on().await?;
        block_in_place(|| scene.postgres.freeze());
        scene.fleet.are_refused(30).await?;
        block_in_place(|| scene.postgres.thaw());
        scene.recovers(Instant::now()).await?;
    }
    scene.end().await
}

async fn slow(ground: Ground) -> anyhow::Result<Findings> {
    let mut scene = Scene::usual(&ground).await?;
    for _ in 0..ground.amount.rounds {
        for rules in [
            Rules {
                delay: Duration::from_millis(100),
                ..Rules::default()
            },
            Rules {
                bytes_per_s: Some(20_000),
                ..Rules::default()
            },
        ] {
            scene.go_on().await?;
            scene.proxy.set(rules);
            scene.fleet.go_on_for(100).await?;
            scene.proxy.set(Rules::default());
            scene.recovers(Instant::now()).await?;
        }
    }
    scene.end().await
}

async fn out_of_connections(ground: Ground) -> anyhow::Result<Findings> {
    let settings = ["max_connections=12", "superuser_reserved_connections=0"];
    let postgres = block_in_place(|| Postgres::start_with(&settings));
    let mut scene = Scene::set(&ground, postgres, |_| {}).await?;
    let url = scene.postgres.url("postgres");
    for _ in 0..ground.amount.rounds {
        scene.go_on().await?;
        let mut squatters = Vec::new();
        // Each keeps its session; the first ends those of the server, again and again.
        let refused = scene.fleet.unanswered() + 50;
        let ends = "SET application_name = 'squatter';
            SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE application_name = 'catchall';\n";
        let began = Instant::now();
        while scene.fleet.unanswered() < refused {
            ensure!(
                began.elapsed() < crate::DEADLINE,
                "the server keeps its connections"
            );
            squatters.retain_mut(|squatter: &mut Squatter| squatter.is_there());
            while squatters.len() < 12 {
                squatters.push(Squatter::sit(&scene.postgres, &url)?);
            }
            squatters[0].says(ends)?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(squatters);
        scene.recovers(Instant::now()).await?;
    }
    scene.end().await
}

/// A `psql` that does nothing with its session.
struct Squatter(std::process::Child);

impl Squatter {
    fn sit(postgres: &Postgres, url: &str) -> anyhow::Result<Self> {
        use std::process::Stdio;
        let mut psql = postgres.psql(url);
        psql.stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(Self(psql.spawn()?))
    }

    fn is_there(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|ended| ended.is_none())
    }

    fn says(&mut self, sql: &str) -> anyhow::Result<()> {
        use std::io::Write;
        let stdin = self.0.stdin.as_mut().context("no stdin")?;
        // It may have been turned away.
        let _ = stdin.write_all(sql.as_bytes()).and_then(|()| stdin.flush());
        Ok(())
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn two_servers(ground: Ground) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    let postgres = block_in_place(Postgres::start);
    let setup = brief(ground.setup("postgres"), &postgres.url("postgres"));
    let one = setup.start()?;
    let mut other = setup.start()?;
    // Few domains, so that both write the same rows all the time.
    let plan = Plan {
        domains: 8,
        resent: 20,
        ..Plan::new(rng.u64(..))
    };
    let fleet = Fleet::start(&plan, &[one.address(), other.address()]);
    for _ in 0..ground.amount.rounds {
        fleet.go_on_for(rng.u64(100..500)).await?;
        other.kill();
        let killed = Instant::now();
        findings.faults += 1;
        fleet.recovers(killed).await?;
        findings.recoveries.push(killed.elapsed());
        other = setup.start()?;
        fleet.turn_to(&[one.address(), other.address()]);
    }
    fleet.go_on_for(200).await?;
    let (history, counted) = findings.settle(fleet, &one, Duration::ZERO).await?;
    let mut told_by_other = Findings::default();
    let told = told_by_other
        .judge(&history, &other, Duration::ZERO)
        .await?;
    findings.violations.extend(told_by_other.violations);
    if told != counted {
        findings.broken("the two servers do not say the same");
    }
    fold(&mut findings, &postgres, &history, &counted)?;
    Ok(findings)
}
