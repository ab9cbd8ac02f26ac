//! The faults, one a row: each sets up what it needs in a private folder, lets clients work, does its
//! harm by a seed, heals, and holds what the store says against what the clients know.

pub mod bombs;
mod clients;
pub mod clock;
pub mod cuts;
pub mod embedded;
pub mod failover;
pub mod overload;
pub mod postgres;
pub mod redis;
mod scene;
pub mod slow;
pub mod spool;
pub mod storms;

use std::{
    collections::BTreeMap,
    future::Future,
    path::PathBuf,
    pin::Pin,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::task::JoinSet;

use crate::{
    DEADLINE,
    checker::{Violation, stale_reads, wrong_counts},
    fleet::{Fleet, Told},
    history::{Fate, History, Kind, Member, Tallies},
    ledger::Ledger,
    server::Server,
    setup::Setup,
};

/// What rows run on.
#[derive(Clone, Debug)]
pub struct Ground {
    /// The program as it ships.
    pub server: PathBuf,
    /// The one that can be told to have a bug, or to die at a point.
    pub planted: PathBuf,
    /// What all that is random comes from.
    pub seed: u64,
    /// How much of each fault.
    pub amount: Amount,
    /// The bug that is to be caught.
    pub bug: Option<&'static str>,
}

/// How much of each fault.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// How often the server is killed at random.
    pub kills: u64,
    /// How often the power fails in memory.
    pub power_losses: u64,
    /// How often every other fault is done.
    pub rounds: u64,
}

/// A row.
pub struct Row {
    /// How it is called.
    pub name: &'static str,
    /// What is done.
    pub what: &'static str,
    /// What a client sees of it.
    pub client: &'static str,
    /// Does it.
    pub run: fn(Ground) -> Running,
}

/// A row at work.
pub type Running = Pin<Box<dyn Future<Output = anyhow::Result<Findings>> + Send>>;

/// What a row found.
#[derive(Clone, Default, Debug)]
pub struct Findings {
    /// How many faults there were.
    pub faults: u64,
    /// Events by what their clients were told in the end.
    pub acknowledged: u64,
    /// Of these clients were told that nothing was done.
    pub refused: u64,
    /// Of these clients know nothing.
    pub unknown: u64,
    /// How many reads were checked.
    pub reads: u64,
    /// What was broken.
    pub violations: Vec<Violation>,
    /// From each fault, or its end, to the next acknowledgement.
    pub recoveries: Vec<Duration>,
    /// The slowest answer.
    pub slowest: Duration,
    /// What clients were told, and how often.
    pub answers: BTreeMap<String, u64>,
    /// How many acknowledged events were lost where they must be expected to be, run by run.
    pub expected_losses: Vec<u64>,
    /// Groups that a row in memory had acknowledged, and those whose outcome it did not know.
    pub groups: [u64; 2],
    /// What else is to be told, by the form of the fault; of several runs the last one tells it.
    pub notes: BTreeMap<&'static str, String>,
}

/// All rows, in the order in which they are run and told.
pub const ROWS: &[Row] = &[
    embedded::POWER_LOSS,
    embedded::TORN_RECORD,
    embedded::KILLS,
    embedded::KILL_POINTS,
    embedded::SYNC_ERROR,
    embedded::DISK_FULL,
    embedded::SIGTERM,
    postgres::KILLED,
    postgres::KILLED_IN_COMMIT,
    postgres::CUT,
    postgres::BLACK_HOLE,
    postgres::RESTARTED,
    postgres::FROZEN,
    postgres::SLOW,
    postgres::CONNECTIONS,
    failover::SYNCHRONOUS,
    failover::UNWAITED,
    failover::ASYNCHRONOUS,
    postgres::TWO_SERVERS,
    spool::AWAY,
    spool::CRASHED,
    redis::FAULTS,
    redis::SLOW_STORE,
    cuts::CUTS,
    storms::STORM,
    storms::SAME_KEYS,
    overload::EMBEDDED,
    overload::POSTGRES,
    overload::STALLS,
    bombs::BOMBS,
    slow::SLOWLORIS,
    clock::EMBEDDED,
    clock::POSTGRES,
];

impl Row {
    /// Does it. A row that panics has failed, and no other with it.
    ///
    /// # Errors
    /// When it cannot be done.
    pub async fn on(&self, ground: &Ground) -> anyhow::Result<Findings> {
        // One that is dropped does not go on.
        let mut running = JoinSet::new();
        running.spawn((self.run)(ground.clone()));
        let ended = running.join_next().await;
        ended.context("it did not run")??
    }
}

impl Ground {
    /// A server with this store: the one that ships, or the one with the bug.
    pub fn setup(&self, store: &str) -> Setup {
        match self.bug {
            Some(bug) => self.planted(store).with("CATCHALL_PLANTED_BUG", bug),
            None => Setup::of(&self.server, store),
        }
    }

    /// A server that can be told to die at a point, or to fail.
    pub fn planted(&self, store: &str) -> Setup {
        Setup::of(&self.planted, store)
    }
}

impl Findings {
    /// What no store may do.
    pub fn broken(&mut self, told: impl Into<String>) {
        self.violations.push(Violation::Broken(told.into()));
    }

    /// What is to be told of a form of the fault; a row with one form leaves it empty.
    fn note(&mut self, form: &'static str, told: String) {
        self.notes.insert(form, told);
    }

    /// Without that answer the fault did not do what it is there for.
    pub fn must_have_told(&mut self, answer: &str) {
        if !self.answers.contains_key(answer) {
            self.broken(format!("nobody was told {answer}"));
        }
    }

    /// How many acknowledged events are missing.
    pub fn lost(&self) -> u64 {
        self.violations.iter().map(Violation::lost).sum()
    }

    /// How many events are counted that should not be.
    pub fn double(&self) -> u64 {
        self.violations.iter().map(Violation::double).sum()
    }

    /// The slowest recovery.
    pub fn worst_recovery(&self) -> Option<Duration> {
        self.recoveries.iter().copied().max()
    }

    /// Lets the clients finish, and holds what the server says against what they know. Says what
    /// the server does.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn settle(
        &mut self,
        fleet: Fleet,
        server: &Server,
        cache: Duration,
    ) -> anyhow::Result<(History, Tallies)> {
        let has_readers = fleet.has_readers();
        let (history, told, slowest) = fleet.finish().await?;
        let was_read =
            !history.reads.is_empty() || told.answers.keys().any(|a| a.starts_with("read"));
        if has_readers && !was_read {
            self.broken("nothing was read");
        }
        let without =
            |member: &&Member| member.keyed && !matches!(member.fate, Fate::Acknowledged(_));
        let without = history.members.iter().filter(without).count();
        if without > 0 {
            self.broken(format!(
                "{without} requests with a key were never acknowledged"
            ));
        }
        let counted = self.judge(&history, server, cache).await?;
        self.tell(&told, slowest);
        if !told.surprises.is_empty() {
            let log = server.log();
            let errors = log.iter().filter(|line| line.contains("\"ERROR\""));
            errors.take(3).for_each(|line| self.broken(line));
        }
        Ok((history, counted))
    }

    /// Holds what a server says against what clients know.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn judge(
        &mut self,
        history: &History,
        server: &Server,
        cache: Duration,
    ) -> anyhow::Result<Tallies> {
        let counted = tallies(server)
            .await
            .context("the server does not tell its tallies")?;
        self.acknowledged += history.events(|fate| matches!(fate, Fate::Acknowledged(_)));
        self.refused += history.events(|fate| fate == Fate::Refused);
        self.unknown += history.events(|fate| fate == Fate::Unknown);
        self.reads += history.reads.len() as u64;
        self.violations.extend(wrong_counts(history, &counted));
        let cache_us = u64::try_from(cache.as_micros())?;
        self.violations.extend(stale_reads(history, cache_us));
        let sums = json(server, "/v1/stats").await?["events"].clone();
        for kind in Kind::ALL {
            let sum: u64 = counted.values().map(|counts| counts[kind as usize]).sum();
            if sums[kind.as_str()] != sum {
                let told = format!("{} in {sums}, {sum} in all domains", kind.as_str());
                self.violations.push(Violation::Sums(told));
            }
        }
        let ledger = Ledger::at_rest(server).await?;
        let imbalances = ledger.imbalances()?;
        if imbalances != [0; 3] {
            self.broken(format!("the ledger is off by {imbalances:?}: {ledger:?}"));
        }
        Ok(counted)
    }

    /// Holds the idempotency keys that a store remembers against the requests that had one.
    fn hold_marks(&mut self, marks: u64, place: &str, history: &History) {
        let keyed = |of: fn(Fate) -> bool| {
            let members = history.members.iter();
            members
                .filter(|member| member.keyed && of(member.fate))
                .count() as u64
        };
        let least = keyed(|fate| matches!(fate, Fate::Acknowledged(_)));
        let most = least + keyed(|fate| fate == Fate::Unknown);
        if !(least..=most).contains(&marks) {
            let told = format!("{marks} keys in {place}, {least} to {most} were sent");
            self.violations.push(Violation::Fold(told));
        }
    }

    /// Takes over what clients were told.
    pub fn tell(&mut self, told: &Told, slowest: Duration) {
        self.slowest = self.slowest.max(slowest);
        for (answer, times) in &told.answers {
            *self.answers.entry(answer.clone()).or_default() += times;
        }
        for surprise in &told.surprises {
            self.broken(format!("a surprise: {surprise}"));
        }
    }

    /// Takes over what another run of the row found.
    pub fn add(&mut self, other: Self) {
        self.faults += other.faults;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.reads += other.reads;
        self.violations.extend(other.violations);
        self.recoveries.extend(other.recoveries);
        self.slowest = self.slowest.max(other.slowest);
        for (answer, times) in other.answers {
            *self.answers.entry(answer).or_default() += times;
        }
        self.expected_losses.extend(other.expected_losses);
        self.groups[0] += other.groups[0];
        self.groups[1] += other.groups[1];
        self.notes.extend(other.notes);
    }
}

/// What a server says of all domains, past every cache.
async fn tallies(server: &Server) -> anyhow::Result<Tallies> {
    let mut tallies = Tallies::new();
    let mut target = "/v1/domains?limit=1000".to_owned();
    loop {
        let page = json(server, &target).await?;
        for domain in page["domains"].as_array().context("no page")? {
            let name = domain["domain"].as_str().context("no name")?;
            let counts = Kind::ALL.map(|kind| domain[kind.as_str()].as_u64().unwrap_or(0));
            tallies.insert(name.to_owned(), counts);
        }
        match page["next"].as_str() {
            Some(next) => target = format!("/v1/domains?limit=1000&cursor={next}"),
            None => return Ok(tallies),
        }
    }
}

/// The JSON behind a GET, past every cache. A server may take a moment to find its store again.
async fn json(server: &Server, target: &str) -> anyhow::Result<serde_json::Value> {
    let began = Instant::now();
    loop {
        let mut connection = server.connect().await;
        let answer = connection
            .try_get(target, "Cache-Control: no-cache\r\n")
            .await?;
        if answer.status == 200 {
            return Ok(answer.json());
        }
        ensure!(began.elapsed() < DEADLINE, "{target}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
