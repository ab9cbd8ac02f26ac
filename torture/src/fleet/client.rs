use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use fastrand::Rng;
use tokio::time::timeout;
use uuid::Uuid;

use super::{Shared, micros};
use crate::{
    history::{Fate, History, Kind, Member, Read},
    http::{Answer, Connection},
};

/// How long a client leaves a server alone that did not take a request, at the most.
const LONGEST_PAUSE_MS: u64 = 40;

/// One client.
pub(super) struct Client {
    shared: Arc<Shared>,
    rng: Rng,
    connection: Option<(SocketAddr, Connection)>,
    is_reader: bool,
    known: History,
}

/// What one attempt came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Acknowledged,
    Refused,
    Unknown,
}

impl Client {
    pub(super) fn new(shared: Arc<Shared>, number: u64) -> Self {
        let rng = Rng::with_seed(shared.plan.seed.wrapping_mul(1_000).wrapping_add(number));
        Self {
            shared,
            rng,
            is_reader: false,
            connection: None,
            known: History::default(),
        }
    }

    /// Counts events until it is to stop.
    pub(super) async fn write(mut self) -> History {
        while !self.shared.stopping.load(Ordering::Relaxed) {
            let (events, key, request) = self.next_request();
            let began_us = self.shared.now_us();
            let fate = self.send_until_acknowledged(&request, key).await;
            self.known.members.push(Member {
                events,
                keyed: key,
                began_us,
                fate,
            });
            if key
                && matches!(fate, Fate::Acknowledged(_))
                && self.rng.u8(..100) < self.shared.plan.resent
            {
                // It counts no more, whatever becomes of it.
                self.attempt(&request).await;
            }
        }
        self.known
    }

    async fn send_until_acknowledged(&mut self, request: &str, keyed: bool) -> Fate {
        let mut may_be_counted = false;
        loop {
            let attempt = self.attempt(request).await;
            if attempt == Some(Attempt::Acknowledged) {
                let now_us = self.shared.now_us();
                self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                self.shared
                    .last_acknowledged_us
                    .fetch_max(now_us, Ordering::Relaxed);
                return Fate::Acknowledged(now_us);
            }
            may_be_counted |= attempt == Some(Attempt::Unknown);
            if attempt.is_some() {
                self.shared.unanswered.fetch_add(1, Ordering::Relaxed);
            }
            // Where there is no server nothing was sent, and one without a key may be sent later.
            let stop = match keyed {
                true => &self.shared.over,
                false => &self.shared.stopping,
            };
            if stop.load(Ordering::Relaxed) || !keyed {
                return match may_be_counted {
                    true => Fate::Unknown,
                    false => Fate::Refused,
                };
            }
            self.pause().await;
        }
    }

    /// Reads until it is to stop.
    pub(super) async fn read(mut self) -> History {
        self.is_reader = true;
        while !self.shared.stopping.load(Ordering::Relaxed) {
            let keyed = self.rng.bool();
            let domain = self.any_domain(keyed);
            let latest = self.shared.plan.latest || self.rng.bool();
            let fields = if latest {
                "Cache-Control: no-cache\r\n"
            } else {
                ""
            };
            let request =
                format!("GET /v1/domains/d{domain}.example HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
            let began_us = self.shared.now_us();
            match self.exchange(&request).await {
                // It says itself that it does not show all.
                Some(Ok(answer)) if answer.status == 200 && answer.field("age").is_some() => {}
                Some(Ok(answer)) if answer.status == 200 => {
                    let told = answer.json();
                    let seen = Kind::ALL.map(|kind| told[kind.as_str()].as_u64().unwrap_or(0));
                    self.known.reads.push(Read {
                        domain,
                        began_us,
                        ended_us: self.shared.now_us(),
                        seen,
                        latest,
                    });
                }
                Some(Ok(answer)) => {
                    self.note_read(&answer).await;
                    self.pause().await;
                }
                _ => self.pause().await,
            }
        }
        self.known
    }

    /// Writes down a read that was not answered as it should be.
    async fn note_read(&self, answer: &Answer) {
        let mut all = self.shared.told.lock().await;
        let told = format!("read: {}", outcome(answer).0);
        *all.answers.entry(told).or_default() += 1;
        if answer.status != 503 && all.surprises.len() < 5 {
            all.surprises.push(format!("{answer:?}"));
        }
    }

    /// Sends a request once; `None` where there is no server.
    async fn attempt(&mut self, request: &str) -> Option<Attempt> {
        let exchanged = self.exchange(request).await?;
        let (told, attempt) = match &exchanged {
            Ok(answer) => outcome(answer),
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => ("no connection".to_owned(), Attempt::Refused),
                io::ErrorKind::TimedOut => ("no answer in time".to_owned(), Attempt::Unknown),
                _ => ("connection lost".to_owned(), Attempt::Unknown),
            },
        };
        if told == "202" {
            self.shared.spooled.fetch_add(1, Ordering::Relaxed);
        }
        let mut all = self.shared.told.lock().await;
        if let Ok(answer) = &exchanged
            && !matches!(answer.status, 200 | 202 | 204 | 503)
            && all.surprises.len() < 5
        {
            all.surprises.push(format!("{answer:?}"));
        }
        *all.answers.entry(told).or_default() += 1;
        Some(attempt)
    }

    async fn exchange(&mut self, request: &str) -> Option<io::Result<Answer>> {
        let server = {
            let servers = self.shared.servers.borrow();
            match (self.shared.plan.apart, self.is_reader) {
                (true, true) => servers.first().copied(),
                (true, false) => servers.last().copied(),
                (false, _) => self.rng.choice(&*servers).copied(),
            }
        };
        let Some(server) = server else {
            self.pause().await;
            return None;
        };
        let sent = Instant::now();
        let exchanged = timeout(
            self.shared.plan.patience,
            self.exchange_with(server, request),
        )
        .await;
        let exchanged = exchanged.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let closes = exchanged
            .as_ref()
            .map_or(true, |answer| answer.field("connection") == Some("close"));
        if closes {
            self.connection = None;
        }
        if exchanged.is_ok() {
            self.shared
                .slowest_us
                .fetch_max(micros(sent.elapsed()), Ordering::Relaxed);
        }
        Some(exchanged)
    }

    async fn exchange_with(&mut self, server: SocketAddr, request: &str) -> io::Result<Answer> {
        let (_, mut connection) = match self.connection.take() {
            Some(open) if open.0 == server => open,
            _ => {
                let opened = Connection::open(server).await;
                // Whatever went wrong, nothing was sent.
                (
                    server,
                    opened.map_err(|_| io::ErrorKind::ConnectionRefused)?,
                )
            }
        };
        connection.send(request).await?;
        let answer = connection.answer().await?;
        self.connection = Some((server, connection));
        Ok(answer)
    }

    /// Its events, whether it has a key, and how it is sent.
    fn next_request(&mut self) -> (Vec<(usize, Kind)>, bool, String) {
        let keyed = self.rng.u8(..100) < self.shared.plan.keyed;
        let key = match keyed {
            false => String::new(),
            // One that says when it was made, or one that does not.
            true if self.rng.u8(..4) > 0 => {
                format!("Idempotency-Key: {}\r\n", Uuid::now_v7())
            }
            true => format!("Idempotency-Key: \"key {:x}\"\r\n", self.rng.u128(..)),
        };
        let bulk = self.rng.u8(..100) < self.shared.plan.bulk;
        let count = if bulk { self.rng.usize(2..9) } else { 1 };
        let events: Vec<_> = (0..count)
            .map(|_| (self.any_domain(keyed), self.any_kind()))
            .collect();
        let request = match (bulk, &events[..]) {
            (false, [(domain, kind), ..]) => format!(
                "PUT /v1/events/d{domain}.example/{} HTTP/1.1\r\nHost: test\r\n{key}\
                 Content-Length: 0\r\n\r\n",
                kind.as_str()
            ),
            _ => {
                let line = |(domain, kind): &(usize, Kind)| {
                    let kind = kind.as_str();
                    format!("{{\"domain\":\"d{domain}.example\",\"type\":\"{kind}\"}}\n")
                };
                let content: String = events.iter().map(line).collect();
                format!(
                    "POST /v1/events HTTP/1.1\r\nHost: test\r\n{key}Content-Length: {}\r\n\
                     Content-Type: application/x-ndjson\r\n\r\n{content}",
                    content.len()
                )
            }
        };
        (events, keyed, request)
    }

    /// The first half of the domains is for what has a key: of these nothing stays unknown, so that
    /// each must count exactly.
    fn any_domain(&mut self, keyed: bool) -> usize {
        let half = self.shared.plan.domains / 2;
        let (first, count) = match keyed {
            true => (0, half),
            false => (half, self.shared.plan.domains - half),
        };
        match self.rng.u8(..3) {
            0 => first,
            _ => first + self.rng.usize(..count),
        }
    }

    fn any_kind(&mut self) -> Kind {
        match self.rng.u8(..8) {
            0 => Kind::Bounced,
            _ => Kind::Delivered,
        }
    }

    async fn pause(&mut self) {
        let pause = self.rng.u64(1..LONGEST_PAUSE_MS);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

/// What an answer means, in words and for the checker.
fn outcome(answer: &Answer) -> (String, Attempt) {
    match answer.status {
        200 | 202 | 204 => (answer.status.to_string(), Attempt::Acknowledged),
        status => {
            let slug = answer.problem().unwrap_or_else(|| "no problem".to_owned());
            // Both say that nothing was done.
            let refused = matches!(&slug[..], "unavailable" | "overloaded") || status < 500;
            let attempt = if refused {
                Attempt::Refused
            } else {
                Attempt::Unknown
            };
            (format!("{status} {slug}"), attempt)
        }
    }
}
