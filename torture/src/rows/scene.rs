//! What the rows about PostgreSQL are played on: a database behind a proxy, a server that gives up on
//! it soon, and clients.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use fastrand::Rng;
use foundation::testing::Postgres;
use tokio::task::block_in_place;

use super::{Findings, Ground};
use crate::{
    checker::Violation,
    fleet::{Fleet, Plan},
    history::{History, Kind, Tallies},
    proxy::{Proxy, Rules},
    server::Server,
    setup::Setup,
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
pub(super) struct Scene {
    pub(super) postgres: Postgres,
    pub(super) proxy: Proxy,
    pub(super) server: Server,
    pub(super) fleet: Fleet,
    pub(super) rng: Rng,
    pub(super) findings: Findings,
}

impl Scene {
    /// A database of its own, and the usual clients.
    pub(super) async fn usual(ground: &Ground) -> anyhow::Result<Self> {
        Self::set(ground, block_in_place(Postgres::start), |_| {}).await
    }

    /// Where each group is one statement, and one committer writes them all: single events, sent again
    /// only when they have to be. The breaker opens after three failures, and where several fail at
    /// once none would be tried again.
    pub(super) async fn simple(ground: &Ground) -> anyhow::Result<Self> {
        let plain = |plan: &mut Plan| (plan.bulk, plan.resent) = (0, 0);
        Self::set(ground, block_in_place(Postgres::start), plain).await
    }

    /// On this database, with clients that do something else than usual.
    pub(super) async fn set(
        ground: &Ground,
        postgres: Postgres,
        change: impl FnOnce(&mut Plan),
    ) -> anyhow::Result<Self> {
        let mut rng = Rng::with_seed(ground.seed);
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

    /// Lets clients work for a while.
    pub(super) async fn go_on(&mut self) -> anyhow::Result<()> {
        self.fleet.go_on_for(self.rng.u64(50..400)).await
    }

    /// The fault that began then is over.
    pub(super) async fn recovers(&mut self, since: Instant) -> anyhow::Result<()> {
        self.findings.faults += 1;
        self.fleet.recovers(Instant::now()).await?;
        self.findings.recoveries.push(since.elapsed());
        Ok(())
    }

    /// Heals the network, and holds what the server and PostgreSQL say against what the clients know.
    pub(super) async fn end(mut self) -> anyhow::Result<Findings> {
        self.proxy.set(Rules::default());
        let settled = self
            .findings
            .settle(self.fleet, &self.server, Duration::ZERO);
        let (history, counted) = settled.await?;
        fold(&mut self.findings, &self.postgres, &history, &counted)?;
        Ok(self.findings)
    }
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
    findings.hold_marks(marks, "PostgreSQL", history);
    Ok(())
}
