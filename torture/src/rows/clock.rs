//! The server's clock, set forward and back while it runs and before it starts.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use fastrand::Rng;
use foundation::testing::Postgres;
use serde_json::json;
use tokio::{
    task::{JoinSet, block_in_place},
    time::sleep,
};
use uuid::Uuid;

use super::{
    Findings, Ground, Row,
    clients::{Client, DOMAINS, empty_history, micros, put, told},
};
use crate::{
    DEADLINE,
    history::{Fate, Kind, Member},
    server::Server,
    setup::Setup,
};

/// Of a server with the embedded store.
pub const EMBEDDED: Row = Row {
    name: "clock jumps",
    what: "The server's clock jumps by an hour and by two days, forward and back, while it runs and \
           before it starts; keys that say when they were made are sent again all the time.",
    client: "400 idempotency-key-expired or idempotency-key-ahead for keys that the clock cannot be \
             right about; a server whose clock is behind its store does not start",
    run: |ground| Box::pin(embedded(ground)),
};

/// Of a server on PostgreSQL.
pub const POSTGRES: Row = Row {
    name: "clock jumps on PostgreSQL",
    what: "The same on PostgreSQL, whose own clock stays right. A jump makes it forget keys early, and \
           it knows the newest that it forgot to 5 s only: keys made within 5 s behind that are \
           refused too, which is the recovery here.",
    client: "400 idempotency-key-expired or idempotency-key-ahead for keys that the clock cannot be \
             right about; a server whose clock is behind its store does not start",
    run: |ground| Box::pin(postgres(ground)),
};

const HOUR: i64 = 3_600;
const JUMPS: [i64; 4] = [HOUR, -HOUR, 48 * HOUR, -48 * HOUR];
const CLIENTS: usize = 16;
/// What each does between two jumps: events it has not sent before, and keys it sends again.
const FRESH: usize = 8;
const AGAIN: usize = 8;
/// So many keys at once that the store may forget some, once they are old enough.
const MANY: usize = 5_000;
const EXPECTED: [&str; 3] = [
    "204",
    "400 idempotency-key-expired",
    "400 idempotency-key-ahead",
];

/// An event, and what is known of it.
struct Event {
    domain: usize,
    key: Option<String>,
    /// Its key says when it was made: one that does not may count again once it is forgotten.
    again: bool,
    began_us: u64,
    counted_us: Option<u64>,
}

async fn embedded(ground: Ground) -> anyhow::Result<Findings> {
    let folder = tempfile::tempdir()?;
    let setup = program(&ground, "embedded").set("store.embedded.path", folder.path().display());
    jumps(&ground, &setup).await
}

async fn postgres(ground: Ground) -> anyhow::Result<Findings> {
    let postgres = block_in_place(Postgres::start);
    let setup = program(&ground, "postgres").set("store.postgres.url", postgres.url("postgres"));
    jumps(&ground, &setup).await
}

/// Only the program with the planted points can be told to have a wrong clock.
fn program(ground: &Ground, store: &str) -> Setup {
    let setup = match ground.bug {
        Some(_) => ground.setup(store),
        None => ground.planted(store),
    };
    // A disk may stall for a second.
    setup.set("queue.max_wait_ms", 30_000)
}

async fn jumps(ground: &Ground, setup: &Setup) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    let folder = tempfile::tempdir()?;
    let clock = folder.path().join("clock");
    let setup = setup
        .clone()
        .with("CATCHALL_CLOCK_FILE", &clock.to_string_lossy());
    set(&clock, 0)?;
    let mut server = setup.start()?;
    let mut history = empty_history();
    let mut events = Vec::new();
    let mut work = Work {
        began: Instant::now(),
        findings: Findings::default(),
    };
    let mut refused_starts = 0;
    for _ in 0..ground.amount.rounds.div_ceil(2) {
        let mut jumps = JUMPS;
        rng.shuffle(&mut jumps);
        for jump in jumps {
            work.go_on(server.address(), &mut events, &mut rng).await?;
            let began_us = micros(work.began.elapsed());
            let many = many(&server, &mut rng).await?;
            let ended_us = micros(work.began.elapsed());
            history.members.push(Member {
                events: many,
                keyed: true,
                began_us,
                fate: Fate::Acknowledged(ended_us),
            });
            set(&clock, jump)?;
            findings.faults += 1;
            if rng.bool() {
                refused_starts += start_again(&setup, &mut server, &mut findings)?;
            }
            work.go_on(server.address(), &mut events, &mut rng).await?;
            set(&clock, 0)?;
            if rng.bool() {
                refused_starts += start_again(&setup, &mut server, &mut findings)?;
            }
            let recovery = work
                .recovers(server.address(), &mut events, &mut rng)
                .await?;
            findings.recoveries.push(recovery);
            work.go_on(server.address(), &mut events, &mut rng).await?;
        }
        if !work.findings.violations.is_empty() {
            break;
        }
    }
    history
        .members
        .extend(events.into_iter().map(|event| Member {
            events: vec![(event.domain, Kind::Delivered)],
            keyed: event.key.is_some(),
            began_us: event.began_us,
            fate: event.counted_us.map_or(Fate::Refused, Fate::Acknowledged),
        }));
    findings.add(work.findings);
    findings.judge(&history, &server, Duration::ZERO).await?;
    let told =
        format!("{refused_starts} times a server with a clock behind its store did not start");
    findings.note("", told);
    Ok(findings)
}

/// Sets the server's clock so many seconds wrong, all at once.
fn set(clock: &Path, seconds: i64) -> anyhow::Result<()> {
    let other = clock.with_extension("new");
    fs::write(&other, seconds.to_string())?;
    Ok(fs::rename(other, clock)?)
}

/// Stops the server and starts it again. How often it would not, for its clock.
fn start_again(setup: &Setup, server: &mut Server, findings: &mut Findings) -> anyhow::Result<u64> {
    server.terminate();
    let began = Instant::now();
    while server.status().is_none() {
        ensure!(began.elapsed() < DEADLINE, "the server does not stop");
        std::thread::sleep(Duration::from_millis(5));
    }
    match setup.start() {
        Ok(started) => {
            *server = started;
            Ok(0)
        }
        Err(error) => {
            let told = format!("{error:#}");
            if !told.contains("the clock is") {
                findings.broken(told);
            }
            *server = setup
                .clone()
                .set("store.max_clock_lag_s", 1_000_000)
                .start()?;
            Ok(1)
        }
    }
}

/// Counts many at once, each under a key of its own that does not say when it was made.
async fn many(server: &Server, rng: &mut Rng) -> anyhow::Result<Vec<(usize, Kind)>> {
    let domains: Vec<_> = (0..MANY).map(|_| rng.usize(..DOMAINS)).collect();
    let batch = domains.iter().map(|domain| {
        json!({
            "specversion": "1.0", "id": format!("{:x}", rng.u128(..)), "source": "/torture",
            "type": "email.delivered", "subject": format!("d{domain}.example"),
        })
    });
    let content = batch.collect::<serde_json::Value>().to_string();
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\
         Content-Type: application/cloudevents-batch+json\r\n\r\n{content}",
        content.len()
    );
    let answer = Client::of(server.address()).send(&request).await?;
    ensure!(
        answer.status == 200 && answer.json()["accepted"] == MANY,
        "{answer:?}"
    );
    Ok(domains
        .into_iter()
        .map(|domain| (domain, Kind::Delivered))
        .collect())
}

/// Clients, and what they found.
struct Work {
    began: Instant,
    findings: Findings,
}

impl Work {
    /// Each client sends some new events, and some keys again.
    async fn go_on(
        &mut self,
        server: SocketAddr,
        events: &mut Vec<Event>,
        rng: &mut Rng,
    ) -> anyhow::Result<()> {
        rng.shuffle(events);
        let began = self.began;
        let mut clients: JoinSet<anyhow::Result<(Vec<Event>, Findings)>> = JoinSet::new();
        for _ in 0..CLIENTS {
            let mut mine = events.split_off(events.len().saturating_sub(AGAIN));
            mine.extend((0..FRESH).map(|_| any_event(rng, began)));
            rng.shuffle(&mut mine);
            clients.spawn(async move {
                let mut client = Client::of(server);
                let mut findings = Findings::default();
                for event in &mut mine {
                    // One that was only sent once is left alone.
                    if event.again || event.counted_us.is_none() {
                        send(&mut client, event, began, &mut findings).await?;
                    }
                }
                Ok((mine, findings))
            });
        }
        while let Some(joined) = clients.join_next().await {
            let (mine, findings) = joined.context("a client")??;
            events.extend(mine);
            self.findings.add(findings);
        }
        Ok(())
    }

    /// Sends new keys until one of them counts, and says how long that took.
    async fn recovers(
        &mut self,
        server: SocketAddr,
        events: &mut Vec<Event>,
        rng: &mut Rng,
    ) -> anyhow::Result<Duration> {
        let mut client = Client::of(server);
        let since = Instant::now();
        loop {
            let mut event = Event {
                key: Some(Uuid::now_v7().to_string()),
                again: true,
                ..any_event(rng, self.began)
            };
            send(&mut client, &mut event, self.began, &mut self.findings).await?;
            let counts = event.counted_us.is_some();
            events.push(event);
            if counts {
                return Ok(since.elapsed());
            }
            ensure!(
                since.elapsed() < DEADLINE,
                "a right clock, and new keys are refused"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn any_event(rng: &mut Rng, began: Instant) -> Event {
    let (key, again) = match rng.u8(..8) {
        0 => (None, false),
        1 | 2 => (Some(format!("\"clock {:x}\"", rng.u128(..))), false),
        _ => (Some(Uuid::now_v7().to_string()), true),
    };
    Event {
        domain: rng.usize(..DOMAINS),
        key,
        again,
        began_us: micros(began.elapsed()),
        counted_us: None,
    }
}

async fn send(
    client: &mut Client,
    event: &mut Event,
    began: Instant,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let sent = Instant::now();
    let answer = client
        .send(&put(event.domain, event.key.as_deref()))
        .await?;
    findings.slowest = findings.slowest.max(sent.elapsed());
    let told = told(&answer);
    if !EXPECTED.contains(&&told[..]) {
        findings.broken(format!("a surprise: {answer:?}"));
    }
    *findings.answers.entry(told).or_default() += 1;
    let is_repeat = answer.field("idempotency-replayed") == Some("true");
    match (answer.status, event.counted_us) {
        (204, Some(_)) if !is_repeat => findings.broken("a key counts once more"),
        (204, None) if is_repeat => findings.broken("a repeat of what never counted"),
        (204, None) => event.counted_us = Some(micros(began.elapsed())),
        _ => {}
    }
    Ok(())
}
