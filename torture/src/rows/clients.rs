//! Clients for the rows that a [`Fleet`](crate::fleet::Fleet) does not fit: that measure, come all at
//! once, or do not wait for one another.

use std::{
    fs, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use fastrand::Rng;
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::Findings;
use crate::{
    history::{Fate, History, Kind, Member, Tallies},
    http::{Answer, Connection},
    server::Server,
};

/// How many domains these clients count for.
pub(super) const DOMAINS: usize = 20;
/// How often those requests are sent that are due.
const TICK: Duration = Duration::from_millis(10);

/// Of one who offers, whatever it offers.
const MOST_UNANSWERED: usize = 1_000;

/// A client with one connection at a time.
pub(super) struct Client {
    server: SocketAddr,
    connection: Option<Connection>,
}

/// One request without a key, sent once.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// For which domain.
    pub(super) domain: usize,
    /// How many events.
    pub(super) events: usize,
    /// When it was sent.
    pub(super) at: Instant,
    /// How long the answer took.
    pub(super) took: Duration,
    /// Status and problem.
    pub(super) told: String,
}

impl Client {
    pub(super) fn of(server: SocketAddr) -> Self {
        Self {
            server,
            connection: None,
        }
    }

    /// Sends a request over the connection there is, or over a new one.
    pub(super) async fn send(&mut self, request: &str) -> io::Result<Answer> {
        let mut connection = match self.connection.take() {
            Some(open) => open,
            None => Connection::open(self.server).await?,
        };
        connection.send(request).await?;
        let answer = connection.answer().await?;
        if answer.field("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(answer)
    }

    /// Counts so many events in one request, once.
    pub(super) async fn count(&mut self, domain: usize, events: usize) -> Sent {
        let request = match events {
            1 => put(domain, None),
            events => bulk(domain, events),
        };
        let at = Instant::now();
        let answer = self.send(&request).await;
        Sent {
            domain,
            events,
            at,
            took: at.elapsed(),
            told: answer.map_or_else(|error| error.to_string(), |answer| told(&answer)),
        }
    }
}

impl Sent {
    /// Whether it was acknowledged.
    pub(super) fn is_acknowledged(&self) -> bool {
        matches!(&self.told[..], "200" | "204")
    }
}

/// The request that counts one delivered event.
pub(super) fn put(domain: usize, key: Option<&str>) -> String {
    let key = key.map_or(String::new(), |key| format!("Idempotency-Key: {key}\r\n"));
    format!(
        "PUT /v1/events/d{domain}.example/delivered HTTP/1.1\r\nHost: test\r\n{key}Content-Length: 0\r\n\
         \r\n"
    )
}

/// The request that counts so many at once.
fn bulk(domain: usize, events: usize) -> String {
    let line = format!("{{\"domain\":\"d{domain}.example\",\"type\":\"delivered\"}}\n");
    let content = line.repeat(events);
    format!(
        "POST /v1/events HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\
         Content-Type: application/x-ndjson\r\n\r\n{content}",
        content.len()
    )
}

/// An answer in words: its status, and the problem that it tells. Who is to come back is told when.
pub(super) fn told(answer: &Answer) -> String {
    match (answer.status, answer.problem()) {
        (503, _) if answer.field("retry-after").is_none() => "503 without Retry-After".to_owned(),
        (status, Some(problem)) => format!("{status} {problem}"),
        (status, None) => status.to_string(),
    }
}

/// Clients that send one request after the other, until they are told to stop.
pub(super) struct Steady {
    stopping: Arc<AtomicBool>,
    clients: JoinSet<Vec<Sent>>,
}

impl Steady {
    pub(super) fn start(server: SocketAddr, clients: usize, events: usize, rng: &mut Rng) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let clients = (0..clients).map(|_| {
            let (stopping, mut rng) = (Arc::clone(&stopping), rng.fork());
            async move {
                let mut client = Client::of(server);
                let mut sent = Vec::new();
                while !stopping.load(Ordering::Relaxed) {
                    sent.push(client.count(rng.usize(..DOMAINS), events).await);
                    // As one does that was refused.
                    if sent.last().is_some_and(|sent| !sent.is_acknowledged()) {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
                sent
            }
        });
        Self {
            clients: clients.collect(),
            stopping,
        }
    }

    /// Lets each finish what it is at.
    pub(super) async fn stop(self) -> Vec<Sent> {
        self.stopping.store(true, Ordering::Relaxed);
        self.clients
            .join_all()
            .await
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Sends so many requests a second, each of so many events, for so long, however long the answers take, and waits for them all.
/// Each that is not answered has a connection: when there are too many of them, the rest is not sent.
pub(super) async fn offer(
    server: SocketAddr,
    a_second: f64,
    events: usize,
    lasting: Duration,
    rng: &mut Rng,
) -> Vec<Sent> {
    let idle = Arc::new(Mutex::new(Vec::new()));
    let mut requests = JoinSet::new();
    let mut sent = Vec::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let began = Instant::now();
    let (mut due, mut last) = (0.0, began);
    while began.elapsed() < lasting {
        ticks.tick().await;
        let now = Instant::now();
        // What a busy machine did not get to is not made up for all at once.
        due += a_second * (now - last).min(4 * TICK).as_secs_f64();
        last = now;
        while due >= 1.0 {
            due -= 1.0;
            if requests.len() >= MOST_UNANSWERED {
                continue;
            }
            let (idle, domain) = (Arc::clone(&idle), rng.usize(..DOMAINS));
            requests.spawn(async move {
                let client = idle.lock().await.pop();
                let mut client = client.unwrap_or_else(|| Client::of(server));
                let sent = client.count(domain, events).await;
                idle.lock().await.push(client);
                sent
            });
        }
        while let Some(answered) = requests.try_join_next() {
            sent.extend(answered);
        }
    }
    sent.extend(requests.join_all().await);
    sent
}

impl Findings {
    /// Takes over what clients were told, who may be told this, and holds it against what the server
    /// says.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(super) async fn judge_sent(
        &mut self,
        sent: &[Sent],
        expected: &[&str],
        server: &Server,
    ) -> anyhow::Result<Tallies> {
        let began = sent.iter().map(|sent| sent.at).min();
        let began = began.context("no client did anything")?;
        let mut history = empty_history();
        for sent in sent {
            let began_us = micros(sent.at - began);
            let fate = match &sent.told[..] {
                "200" | "204" => Fate::Acknowledged(began_us + micros(sent.took)),
                "503 overloaded" | "503 unavailable" => Fate::Refused,
                _ => Fate::Unknown,
            };
            history.members.push(Member {
                events: vec![(sent.domain, Kind::Delivered); sent.events],
                keyed: false,
                began_us,
                fate,
            });
            self.slowest = self.slowest.max(sent.took);
            if !expected.contains(&&sent.told[..]) && !self.answers.contains_key(&sent.told) {
                self.broken(format!("a surprise: {sent:?}"));
            }
            *self.answers.entry(sent.told.clone()).or_default() += 1;
        }
        self.judge(&history, server, Duration::ZERO).await
    }
}

/// Of the domains of these clients.
pub(super) fn empty_history() -> History {
    History {
        domains: (0..DOMAINS).map(|n| format!("d{n}.example")).collect(),
        ..History::default()
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The time that 99 of 100 of these did not take longer than.
pub(super) fn p99(all: impl Iterator<Item = Duration>) -> Duration {
    let mut all: Vec<_> = all.collect();
    all.sort_unstable();
    all.get(all.len() * 99 / 100).copied().unwrap_or_default()
}

/// Milliseconds, as figures tell them.
pub(super) fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1_000.0)
}

/// How many bytes of memory a server has, and the most that it ever had.
pub(super) fn resident(server: &Server) -> anyhow::Result<[u64; 2]> {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let of = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.map(|kib| kib << 10).context("no memory")
    };
    Ok([of("VmRSS:")?, of("VmHWM:")?])
}
