//! Sends the stream, in a closed loop (every connection sends its next request once the last is
//! answered) or in an open one (events fall due by the clock).

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::Barrier;

use crate::bulk::{Bulk, Encoder, Format, Receipt};
use crate::client::{Client, Failure};
use crate::crew::Crew;
use crate::idempotency;
use crate::metrics::Metrics;
use crate::pace::{Pacer, Schedule};
use crate::progress::Progress;
use crate::routes;
use crate::stream::{Event, Stream};
use crate::tally::{Begin, Earlier, Tally};

/// What is to be sent.
pub(crate) struct Load {
    pub(crate) stream: Stream,
    pub(crate) events: u64,
    /// Events a second; without it, a closed loop.
    pub(crate) rate: Option<NonZeroU32>,
    /// Without it, an event is a request.
    pub(crate) bulk: Option<Bulk>,
    /// How often a request is sent again, under a key.
    pub(crate) retries: u32,
    /// Where the run is shown as it goes.
    pub(crate) metrics: Option<Metrics>,
}

impl Load {
    /// Sends all events, and says what became of them and how long it took.
    ///
    /// # Errors
    /// The crew could not work. Events that fail are no error: they are counted.
    pub(crate) fn send(self, crew: &Crew) -> anyhow::Result<(Tally, Duration)> {
        let progress = Progress::start("sending", "events", self.events);
        let tallies = (0..crew.threads)
            .map(|_| Tally::new().map(Mutex::new))
            .collect::<Result<Vec<_>, _>>()?;
        let batch = self.bulk.as_ref().map_or(1, |bulk| bulk.size);
        let shared = Arc::new(Shared {
            feed: Mutex::new(Feed {
                stream: self.stream,
                drawn: 0,
                events: self.events,
                batch: batch.into(),
            }),
            pacer: self
                .rate
                .map(|rate| Arc::new(Pacer::new(Schedule::new(rate), batch))),
            bulk: self.bulk,
            retries: self.retries,
            metrics: self.metrics,
            tallies,
            connected: Barrier::new(crew.connections),
            connections: crew.connections,
            start: OnceLock::new(),
        });
        crew.run(
            &progress,
            || shared.feed.lock().drawn,
            |client, thread| send_events(Arc::clone(&shared), client, thread),
        )?;

        let mut total = Tally::new()?;
        for tally in &shared.tallies {
            let tally = std::mem::replace(&mut *tally.lock(), Tally::new()?);
            total.merge(tally)?;
        }
        let elapsed = match (shared.start.get(), total.finished) {
            (Some(start), Some(finished)) => finished.saturating_duration_since(*start),
            _ => Duration::ZERO,
        };
        Ok((total, elapsed))
    }
}

struct Shared {
    feed: Mutex<Feed>,
    pacer: Option<Arc<Pacer>>,
    bulk: Option<Bulk>,
    retries: u32,
    metrics: Option<Metrics>,
    /// One a thread, so that its lock is never contended while events flow.
    tallies: Vec<Mutex<Tally>>,
    connected: Barrier,
    connections: usize,
    start: OnceLock<Instant>,
}

/// Deals the stream out in its order, whoever asks.
struct Feed {
    stream: Stream,
    drawn: u64,
    events: u64,
    /// The events of one request.
    batch: u64,
}

impl Feed {
    /// Fills `batch` with the next request's events, or with none when all are drawn, and says
    /// which index the first has.
    fn draw(&mut self, batch: &mut Vec<Event>) -> u64 {
        let first = self.drawn;
        self.drawn = self.events.min(first + self.batch);
        batch.clear();
        batch.extend((first..self.drawn).map(|_| self.stream.next_event()));
        first
    }
}

async fn send_events(shared: Arc<Shared>, mut client: Client, thread: usize) {
    // The clock starts when all are connected: a run measures events, not handshakes.
    client.warm_up().await;
    let is_leader = shared.connected.wait().await.is_leader();
    let start = *shared.start.get_or_init(Instant::now);
    if is_leader && let Some(pacer) = &shared.pacer {
        let events = shared.feed.lock().events;
        pacer.start(start, events, shared.connections);
    }

    let mut encoder = shared.bulk.as_ref().map(Encoder::new);
    let mut events = Vec::new();
    loop {
        if let Some(pacer) = &shared.pacer {
            pacer.turn().await;
        }
        let first = shared.feed.lock().draw(&mut events);
        let Some(event) = events.first() else {
            return;
        };
        let metrics = shared.metrics.as_ref();
        metrics.inspect(|metrics| metrics.created(&events));
        let body = encoder
            .as_mut()
            .map(|encoder| (encoder.content_type(), encoder.encode(first, &events)));
        let begin = match &shared.pacer {
            None => Begin::Sent(Instant::now()),
            Some(pacer) => Begin::Due {
                start,
                schedule: pacer.schedule(),
                first,
            },
        };
        let request = Request {
            event,
            body,
            count: events.len() as u64,
            key: shared.has_keys().then(idempotency::key),
            has_ids: shared.has_ids(),
        };
        let mut earlier = Earlier::default();
        let outcome = loop {
            metrics.inspect(|metrics| metrics.sent(earlier.attempts > 0));
            let outcome = request.send(&mut client).await;
            metrics.inspect(|metrics| metrics.answered(outcome));
            if earlier.attempts == shared.retries || !idempotency::is_worth_another(outcome) {
                break outcome;
            }
            earlier.add(outcome);
            tokio::time::sleep(idempotency::pause(earlier.attempts)).await;
        };
        metrics.inspect(|metrics| metrics.ended(request.count, begin.first(), outcome));
        shared.tallies[thread]
            .lock()
            .record(&events, earlier, outcome, begin);
    }
}

impl Shared {
    /// Whether events have ids of their own.
    fn has_ids(&self) -> bool {
        let format = self.bulk.as_ref().map(|bulk| bulk.format);
        format == Some(Format::CloudEvents)
    }

    /// Whether requests have keys.
    fn has_keys(&self) -> bool {
        self.retries > 0 && !self.has_ids()
    }
}

/// The events that are sent together, as they are sent each time.
struct Request<'a> {
    event: &'a Event,
    /// Without it, the event goes by itself.
    body: Option<(HeaderValue, Bytes)>,
    /// How many there are.
    count: u64,
    key: Option<HeaderValue>,
    has_ids: bool,
}

impl Request<'_> {
    /// Many events are acknowledged only if the answer says so of every one: of fewer, nobody could
    /// tell which. One with an id may be a duplicate: of itself, sent before.
    async fn send(&self, client: &mut Client) -> Result<StatusCode, Failure> {
        let key = self.key.clone();
        let Some((content_type, body)) = self.body.clone() else {
            return client.put(routes::event(self.event), key).await;
        };
        let answer = client
            .post(routes::events(), content_type, body, key)
            .await?;
        let confirmed = Receipt::read(&answer.body).map(|receipt| {
            let before = if self.has_ids { receipt.duplicates } else { 0 };
            receipt.accepted + before
        });
        if answer.status.is_success() && confirmed != Some(self.count) {
            return Err(Failure::Unconfirmed);
        }
        Ok(answer.status)
    }
}
