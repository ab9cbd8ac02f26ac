//! The same keys from many clients at once, who come again as soon as they are refused.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use fastrand::Rng;
use foundation::testing::Postgres;
use tokio::{
    sync::{Barrier, Mutex},
    task::{JoinSet, block_in_place},
};
use uuid::Uuid;

use super::{
    Findings, Ground, Row,
    clients::{Client, DOMAINS, empty_history, micros, put, told},
    tallies,
};
use crate::{
    DEADLINE,
    history::{Fate, Kind, Member},
    report::rate,
    server::Server,
};

/// On one server.
pub const STORM: Row = Row {
    name: "retry storm",
    what: "48 clients send the same keys at the same time, to a server with a short queue, and come \
           again at once when they are refused; in turn with the same load under keys of their own.",
    client: "204, with `Idempotency-Replayed` for all but one; 503 overloaded",
    run: |ground| Box::pin(storm(ground)),
};

/// On two servers.
pub const SAME_KEYS: Row = Row {
    name: "same keys on two servers",
    what: "Half of 48 clients send the same keys at the same time to one of two servers on one \
           PostgreSQL, half to the other; in turn with the same load under keys of their own.",
    client: "204, with `Idempotency-Replayed` for all but one",
    run: |ground| Box::pin(same_keys(ground)),
};

const CLIENTS: usize = 48;
/// How many keys a client sends in one go.
const KEYS: usize = 20;

/// What a storm came to.
#[derive(Default)]
struct Storm {
    answers: u64,
    requests: u64,
    took: Duration,
}

async fn storm(ground: Ground) -> anyhow::Result<Findings> {
    let folder = tempfile::tempdir()?;
    let server = ground
        .setup("embedded")
        .set("store.embedded.path", folder.path().display())
        .set("store.embedded.added_sync_delay_us", 2_000)
        .set("queue.capacity", 16)
        .start()?;
    storms(&ground, &[&server]).await
}

async fn same_keys(ground: Ground) -> anyhow::Result<Findings> {
    let postgres = block_in_place(Postgres::start);
    let setup = ground
        .setup("postgres")
        .set("store.postgres.url", postgres.url("postgres"));
    let servers = [setup.start()?, setup.start()?];
    storms(&ground, &[&servers[0], &servers[1]]).await
}

/// Storms in turn with loads of as many requests under keys of their own.
async fn storms(ground: &Ground, servers: &[&Server]) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    let addresses: Vec<_> = servers.iter().map(|server| server.address()).collect();
    let began = Instant::now();
    let mut history = empty_history();
    let [mut same, mut distinct] = [Storm::default(), Storm::default()];
    for _ in 0..2 * ground.amount.rounds {
        // Each client sends the keys in an order of its own.
        let keys: Vec<_> = (0..KEYS).map(|_| any_key(&mut rng)).collect();
        let orders = (0..CLIENTS).map(|_| {
            let mut keys = keys.clone();
            rng.shuffle(&mut keys);
            keys
        });
        let orders = orders.collect();
        let told = rush(&addresses, orders, began, &mut findings).await?;
        same.add(&told);
        for key in &keys {
            let first = told.first_of(key, &mut findings);
            history.members.push(member(key, first));
        }
        let orders = (0..CLIENTS).map(|_| (0..KEYS).map(|_| any_key(&mut rng)).collect());
        let orders: Vec<Vec<_>> = orders.collect();
        let keys: Vec<_> = orders.iter().flatten().cloned().collect();
        let told = rush(&addresses, orders, began, &mut findings).await?;
        distinct.add(&told);
        for key in &keys {
            let first = told.first_of(key, &mut findings);
            history.members.push(member(key, first));
        }
        findings.faults += 1;
    }
    let (first, others) = servers.split_first().context("no server")?;
    let counted = findings.judge(&history, first, Duration::ZERO).await?;
    for other in others {
        if tallies(other).await? != counted {
            findings.broken("the servers do not say the same");
        }
    }
    let a_second = |storm: &Storm| storm.answers as f64 / storm.took.as_secs_f64();
    let told = format!(
        "{} acknowledgements a key, of which one counted it; {} acknowledgements a second, and {} \
         under keys of their own; {:.2} and {:.2} requests for each",
        CLIENTS,
        rate(a_second(&same)),
        rate(a_second(&distinct)),
        same.requests as f64 / same.answers as f64,
        distinct.requests as f64 / distinct.answers as f64,
    );
    findings.note("", told);
    Ok(findings)
}

/// A key, and the domain that it counts for.
type Key = (String, usize);

fn any_key(rng: &mut Rng) -> Key {
    let key = match rng.bool() {
        true => Uuid::now_v7().to_string(),
        false => format!("\"storm {:x}\"", rng.u128(..)),
    };
    (key, rng.usize(..DOMAINS))
}

fn member(key: &Key, first: Option<[u64; 2]>) -> Member {
    Member {
        events: vec![(key.1, Kind::Delivered)],
        keyed: true,
        began_us: first.map_or(0, |[began_us, _]| began_us),
        fate: first.map_or(Fate::Unknown, |[_, ended_us]| Fate::Acknowledged(ended_us)),
    }
}

/// All acknowledgements of one rush.
#[derive(Default)]
struct Rush {
    /// By key: whether it was told to be a repeat, when it was sent, and when it was answered.
    acknowledged: Vec<(String, bool, [u64; 2])>,
    requests: u64,
    took: Duration,
}

impl Storm {
    fn add(&mut self, rush: &Rush) {
        self.answers += rush.acknowledged.len() as u64;
        self.requests += rush.requests;
        self.took += rush.took;
    }
}

impl Rush {
    /// When the one was sent and answered that counted. There is exactly one, for no answer is lost.
    fn first_of(&self, key: &Key, findings: &mut Findings) -> Option<[u64; 2]> {
        let of_key = self.acknowledged.iter().filter(|told| told.0 == key.0);
        let counted: Vec<_> = of_key.filter(|told| !told.1).map(|told| told.2).collect();
        if counted.len() != 1 {
            findings.broken(format!(
                "{} of the requests under one key were told that they counted",
                counted.len()
            ));
        }
        counted.first().copied()
    }
}

/// Lets each client send its keys one after the other, each until it is acknowledged, all at once.
async fn rush(
    servers: &[SocketAddr],
    orders: Vec<Vec<Key>>,
    began: Instant,
    findings: &mut Findings,
) -> anyhow::Result<Rush> {
    let start = Arc::new(Barrier::new(orders.len() + 1));
    let all = Arc::new(Mutex::new(Findings::default()));
    let mut clients: JoinSet<anyhow::Result<Rush>> = JoinSet::new();
    for (number, keys) in orders.into_iter().enumerate() {
        let server = servers[number % servers.len()];
        let (start, all) = (Arc::clone(&start), Arc::clone(&all));
        clients.spawn(async move {
            let mut client = Client::of(server);
            let mut rush = Rush::default();
            let mut answers = Findings::default();
            start.wait().await;
            for (key, domain) in keys {
                let request = put(domain, Some(&key));
                let first = Instant::now();
                loop {
                    ensure!(first.elapsed() < DEADLINE, "a key is refused for ever");
                    let sent = Instant::now();
                    let answer = client.send(&request).await?;
                    rush.requests += 1;
                    answers.slowest = answers.slowest.max(sent.elapsed());
                    let told = told(&answer);
                    let is_known = matches!(&told[..], "204" | "503 overloaded");
                    if !is_known && !answers.answers.contains_key(&told) {
                        answers.broken(format!("a surprise: {answer:?}"));
                    }
                    *answers.answers.entry(told).or_default() += 1;
                    if answer.status == 204 {
                        let repeat = answer.field("idempotency-replayed") == Some("true");
                        let moments = [sent, Instant::now()].map(|at| micros(at - began));
                        rush.acknowledged.push((key, repeat, moments));
                        break;
                    }
                }
            }
            all.lock().await.add(answers);
            Ok(rush)
        });
    }
    start.wait().await;
    let rushed = Instant::now();
    let mut sum = Rush::default();
    while let Some(joined) = clients.join_next().await {
        let rush = joined??;
        sum.acknowledged.extend(rush.acknowledged);
        sum.requests += rush.requests;
    }
    sum.took = rushed.elapsed();
    findings.add(std::mem::take(&mut *all.lock().await));
    Ok(sum)
}
