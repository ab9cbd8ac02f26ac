//! Sends the stream, in a closed loop (every connection sends its next event once the last is
//! answered) or in an open one (events fall due by the clock).

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Barrier;

use crate::client::Client;
use crate::crew::Crew;
use crate::pace::{Pacer, Schedule};
use crate::progress::Progress;
use crate::routes;
use crate::stream::{Event, Stream};
use crate::tally::Tally;

/// What is to be sent.
pub(crate) struct Load {
    pub(crate) stream: Stream,
    pub(crate) events: u64,
    /// Events a second; without it, a closed loop.
    pub(crate) rate: Option<NonZeroU32>,
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
        let shared = Arc::new(Shared {
            feed: Mutex::new(Feed {
                stream: self.stream,
                drawn: 0,
                events: self.events,
            }),
            pacer: self
                .rate
                .map(|rate| Arc::new(Pacer::new(Schedule::new(rate)))),
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
}

impl Feed {
    fn next(&mut self) -> Option<(u64, Event)> {
        let index = self.drawn;
        (index < self.events).then(|| {
            self.drawn += 1;
            (index, self.stream.next_event())
        })
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

    loop {
        if let Some(pacer) = &shared.pacer {
            pacer.turn().await;
        }
        let Some((index, event)) = shared.feed.lock().next() else {
            return;
        };
        // In the open loop an event's time runs from when it was due. Counting from when a
        // connection was free would leave out what the server made the others wait.
        let begin = shared
            .pacer
            .as_ref()
            .map_or_else(Instant::now, |pacer| start + pacer.schedule().due_at(index));
        let outcome = client.put(routes::event(&event)).await;
        shared.tallies[thread].lock().record(event, outcome, begin);
    }
}
