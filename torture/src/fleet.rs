//! Clients at work, who write down what they did and what they were told.
//!
//! Each sends one request after the other over a connection of its own, to any of the servers there
//! are. A request with a key is sent again, maybe to another server, until it is acknowledged; one
//! without is sent once.

mod client;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
};

use self::client::Client;
use crate::history::History;

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many count events.
    pub writers: usize,
    /// How many read.
    pub readers: usize,
    /// How many domains there are, one half for events with keys; every third event is for the first of
    /// its half.
    pub domains: usize,
    /// Of a hundred requests, how many have an idempotency key.
    pub keyed: u8,
    /// Of a hundred, how many are bulk requests.
    pub bulk: u8,
    /// Of a hundred with a key that are acknowledged, how many are sent again all the same.
    pub resent: u8,
    /// How long a client waits for an answer.
    pub patience: Duration,
    /// Whether readers go past every cache; otherwise every other read does.
    pub latest: bool,
    /// Whether readers have the first server to themselves, and writers the last.
    pub apart: bool,
    /// What all else comes from.
    pub seed: u64,
}

impl Plan {
    /// The usual one.
    pub fn new(seed: u64) -> Self {
        Self {
            writers: 24,
            readers: 4,
            domains: 40,
            keyed: 60,
            bulk: 15,
            resent: 5,
            patience: Duration::from_secs(10),
            latest: true,
            apart: false,
            seed,
        }
    }
}

/// Clients at work.
pub struct Fleet {
    shared: Arc<Shared>,
    clients: JoinSet<History>,
    domains: Vec<String>,
}

struct Shared {
    plan: Plan,
    began: Instant,
    servers: watch::Sender<Vec<SocketAddr>>,
    stopping: AtomicBool,
    /// Nothing is sent again any more.
    over: AtomicBool,
    acknowledged: AtomicU64,
    /// Of these are to be counted later.
    spooled: AtomicU64,
    unanswered: AtomicU64,
    last_acknowledged_us: AtomicU64,
    slowest_us: AtomicU64,
    told: Mutex<Told>,
}

/// What clients were told, and how often; what no server should say stands in `surprises`.
#[derive(Clone, Default, Debug)]
pub struct Told {
    /// Answers, and what came in place of one.
    pub answers: BTreeMap<String, u64>,
    /// The first few answers that should not be.
    pub surprises: Vec<String>,
}

impl Fleet {
    /// Sets clients on servers.
    pub fn start(plan: &Plan, servers: &[SocketAddr]) -> Self {
        let shared = Arc::new(Shared {
            plan: plan.clone(),
            began: Instant::now(),
            servers: watch::Sender::new(servers.to_vec()),
            stopping: AtomicBool::new(false),
            over: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            spooled: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            last_acknowledged_us: AtomicU64::new(0),
            slowest_us: AtomicU64::new(0),
            told: Mutex::default(),
        });
        let domains: Vec<String> = (0..plan.domains).map(|n| format!("d{n}.example")).collect();
        let mut clients = JoinSet::new();
        for number in 0..plan.writers + plan.readers {
            let client = Client::new(Arc::clone(&shared), number as u64);
            if number < plan.writers {
                clients.spawn(client.write());
            } else {
                clients.spawn(client.read());
            }
        }
        Self {
            shared,
            clients,
            domains,
        }
    }

    /// From now on the servers are these; none while there are none.
    pub fn turn_to(&self, servers: &[SocketAddr]) {
        self.shared.servers.send_replace(servers.to_vec());
    }

    /// Whether any of them reads.
    pub fn has_readers(&self) -> bool {
        self.shared.plan.readers > 0
    }

    /// How many requests were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// How many attempts were refused, or not answered.
    pub fn unanswered(&self) -> u64 {
        self.shared.unanswered.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests are acknowledged.
    ///
    /// # Errors
    /// When they are not within a minute.
    pub async fn go_on_for(&self, requests: u64) -> anyhow::Result<()> {
        let goal = self.acknowledged() + requests;
        self.until("requests are acknowledged", || self.acknowledged() >= goal)
            .await
    }

    /// Waits until so many more requests are acknowledged that are to be counted later.
    ///
    /// # Errors
    /// When they are not within a minute.
    pub async fn are_spooled(&self, requests: u64) -> anyhow::Result<()> {
        let spooled = || self.shared.spooled.load(Ordering::Relaxed);
        let goal = spooled() + requests;
        self.until("requests are spooled", || spooled() >= goal)
            .await
    }

    /// Waits until so many more attempts came to nothing.
    ///
    /// # Errors
    /// When they do not within a minute.
    pub async fn are_refused(&self, attempts: u64) -> anyhow::Result<()> {
        let goal = self.unanswered() + attempts;
        self.until("requests come to nothing", || self.unanswered() >= goal)
            .await
    }

    /// Waits until a request that is acknowledged after `since` is, and says how long that took.
    ///
    /// # Errors
    /// When none is within a minute.
    pub async fn recovers(&self, since: Instant) -> anyhow::Result<Duration> {
        let since_us = micros(since.duration_since(self.shared.began));
        let last_us = || self.shared.last_acknowledged_us.load(Ordering::Relaxed);
        self.until("requests are acknowledged again", || last_us() > since_us)
            .await?;
        Ok(Duration::from_micros(last_us() - since_us))
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + crate::DEADLINE;
        while !holds() {
            if Instant::now() > deadline {
                bail!("in vain: until {what}; {:?}", self.shared.told.lock().await);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Lets each finish what it is at, with a key until it is acknowledged, and gives what they know,
    /// what they were told, and how long the slowest answer took.
    ///
    /// # Errors
    /// When a client cannot be had back.
    pub async fn finish(mut self) -> anyhow::Result<(History, Told, Duration)> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let mut history = History {
            domains: self.domains,
            ..History::default()
        };
        let give_up = tokio::time::sleep(crate::DEADLINE / 2);
        tokio::pin!(give_up);
        loop {
            tokio::select! {
                () = &mut give_up, if !self.shared.over.load(Ordering::Relaxed) => {
                    self.shared.over.store(true, Ordering::Relaxed);
                }
                joined = self.clients.join_next() => match joined {
                    Some(joined) => history.add(joined?),
                    None => break,
                },
            }
        }
        ensure!(!history.members.is_empty(), "no client did anything");
        let told = self.shared.told.lock().await.clone();
        let slowest = Duration::from_micros(self.shared.slowest_us.load(Ordering::Relaxed));
        Ok((history, told, slowest))
    }
}

impl Shared {
    fn now_us(&self) -> u64 {
        micros(self.began.elapsed())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
