//! PostgreSQL: killed, restarted, frozen, slow, out of connections, cut off, shared.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use fastrand::Rng;
use foundation::testing::Postgres;
use tokio::task::block_in_place;

use super::{Findings, Ground, Row};
use crate::{
    checker::Violation,
    fleet::{Fleet, Plan},
    history::{Fate, History, Kind, Tallies},
    proxy::{Proxy, Rules},
    server::Server,
    setup::Setup,
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
    client: "503 outcome-unknown; what it sends again under its key counts once",
    run: |ground| Box::pin(killed_in_commit(ground)),
};

/// The answers of PostgreSQL are cut.
pub const CUT: Row = Row {
    name: "PostgreSQL cut off",
    what: "Its connections are reset in the middle of a statement and of an answer.",
    client: "nothing, or 503; the server asks again by itself where that is safe",
    run: |ground| Box::pin(cut(ground)),
};

/// PostgreSQL is in a black hole.
pub const BLACK_HOLE: Row = Row {
    name: "PostgreSQL in a black hole",
    what: "What is sent to it vanishes, and the connection stays open, until the server gives up.",
    client: "503 outcome-unknown at the deadline, then 503 at once until the way is open",
    run: |ground| Box::pin(black_hole(ground)),
};

/// PostgreSQL is restarted.
pub const RESTARTED: Row = Row {
    name: "PostgreSQL restarted",
    what: "It is stopped in an orderly way under load, and started again.",
    client: "503 unavailable while it is away",
    run: |ground| Box::pin(restarted(ground)),
};

/// PostgreSQL hangs.
pub const FROZEN: Row = Row {
    name: "PostgreSQL frozen",
    what: "All its processes are halted under load, and go on.",
    client: "503 outcome-unknown at the deadline, then 503 at once until it goes on",
    run: |ground| Box::pin(frozen(ground)),
};

/// PostgreSQL is slow.
pub const SLOW: Row = Row {
    name: "PostgreSQL slow",
    what: "Everything to and from it is held back by 100 ms, and then throttled to 20 kB/s.",
    client: "its answer, later; 503 overloaded when too many wait",
    run: |ground| Box::pin(slow(ground)),
};

/// PostgreSQL has no connection to give.
pub const CONNECTIONS: Row = Row {
    name: "PostgreSQL out of connections",
    what: "Somebody else has all its connections, and the server's are ended.",
    client: "503 unavailable until there is one again",
    run: |ground| Box::pin(out_of_connections(ground)),
};

/// Two servers share it.
pub const TWO_SERVERS: Row = Row {
    name: "two servers at once",
    what: "Two servers on one database; what one did not answer is sent to the other under its key; \
           one of them is killed and started again.",
    client: "the connection is lost; the other server answers",
    run: |ground| Box::pin(two_servers(ground)),
};

/// The URL of a database behind a proxy.
pub(super) fn through(proxy: &Proxy) -> String {
    format!(
        "postgres://postgres@127.0.0.1:{}/postgres",
        proxy.address().port()
    )
}

pub(super) fn address(postgres: &Postgres) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, postgres.port()).into()
}

/// A server that gives up soon.
pub(super) fn brief(setup: Setup, url: &str) -> Setup {
    setup
        .set("store.postgres.url", url)
        .set("store.postgres.write_timeout_ms", 2_000)
        .set("store.postgres.read_timeout_ms", 2_000)
        .set("store.postgres.connect_timeout_ms", 1_000)
        .set("store.postgres.lock_timeout_ms", 1_000)
}

/// A database, a server on it behind a proxy, and clients.
struct Scene {
    postgres: Postgres,
    proxy: Proxy,
    server: Server,
    fleet: Fleet,
    rng: Rng,
    findings: Findings,
}

impl Scene {
    async fn set(ground: &Ground) -> anyhow::Result<Self> {
        Self::with(ground, &[], |_| {}).await
    }

    /// Where each group is one statement, and one committer writes them all: single events, sent again
    /// only when they have to be. The breaker opens after three failures, and where several fail at
    /// once none would be tried again.
    async fn simple(ground: &Ground) -> anyhow::Result<Self> {
        Self::with(ground, &[], |plan| (plan.bulk, plan.resent) = (0, 0)).await
    }

    async fn with(
        ground: &Ground,
        settings: &[&str],
        change: impl FnOnce(&mut Plan),
    ) -> anyhow::Result<Self> {
        let mut rng = Rng::with_seed(ground.seed);
        let postgres = block_in_place(|| Postgres::start_with(settings));
        let proxy = Proxy::start(address(&postgres)).await?;
        let server = brief(ground.setup("postgres"), &through(&proxy)).start()?;
        let mut plan = Plan::new(rng.u64(..));
        change(&mut plan);
        let fleet = Fleet::start(&plan, &[server.address()]);
        Ok(Self {
            postgres,
            proxy,
            server,
            fleet,
            rng,
            findings: Findings::default(),
        })
    }

    async fn go_on(&mut self) -> anyhow::Result<()> {
        self.fleet.go_on_for(self.rng.u64(50..400)).await
    }

    /// The fault that began then is over.
    async fn recovers(&mut self, since: Instant) -> anyhow::Result<()> {
        self.findings.faults += 1;
        self.fleet.recovers(Instant::now()).await?;
        self.findings.recoveries.push(since.elapsed());
        Ok(())
    }

    async fn end(mut self) -> anyhow::Result<Findings> {
        self.proxy.set(Rules::default());
        let settled = self
            .findings
            .settle(self.fleet, &self.server, Duration::ZERO);
        let (history, counted) = settled.await?;
        fold(&mut self.findings, &self.postgres, &history, &counted)?;
        Ok(self.findings)
    }
}

async fn killed(ground: Ground) -> anyhow::Result<Findings> {
    let mut scene = Scene::set(&ground).await?;
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
    let mut scene = Scene::set(&ground).await?;
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
    let mut scene = Scene::set(&ground).await?;
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
    let mut scene = Scene::set(&ground).await?;
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
    let mut scene = Scene::set(&ground).await?;
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
    let mut scene = Scene::with(&ground, &settings, |_| {}).await?;
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

/// Holds PostgreSQL's own sums and keys against what the server said.
pub(super) fn fold(
    findings: &mut Findings,
    postgres: &Postgres,
    history: &History,
    counted: &Tallies,
) -> anyhow::Result<()> {
    let ask = |sql: &str| block_in_place(|| postgres.query(&postgres.url("postgres"), sql));
    let sum = |kind: Kind| {
        counted
            .values()
            .map(|counts| counts[kind as usize])
            .sum::<u64>()
    };
    let told = format!("{}|{}", sum(Kind::Delivered), sum(Kind::Bounced));
    for table in ["domain_tallies", "writer_totals"] {
        let found = ask(&format!(
            "SELECT coalesce(sum(delivered), 0), coalesce(sum(bounced), 0) FROM {table}"
        ));
        if found != told {
            let told = format!("{table} adds up to {found}, the server says {told}");
            findings.violations.push(Violation::Fold(told));
        }
    }
    let marks: u64 = ask("SELECT count(*) FROM marks").parse()?;
    let keyed = |of: fn(Fate) -> bool| {
        let members = history.members.iter();
        members
            .filter(|member| member.keyed && of(member.fate))
            .count() as u64
    };
    let least = keyed(|fate| matches!(fate, Fate::Acknowledged(_)));
    let most = least + keyed(|fate| fate == Fate::Unknown);
    if !(least..=most).contains(&marks) {
        let told = format!("{marks} keys in PostgreSQL, {least} to {most} were sent");
        findings.violations.push(Violation::Fold(told));
    }
    Ok(())
}
