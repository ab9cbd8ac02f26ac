//! What became of the events that were sent.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Context;
use hdrhistogram::Histogram;
use hyper::StatusCode;

use crate::client::Failure;
use crate::pace::Schedule;
use crate::stream::{DomainId, Event, Kind};

/// The longest latency that is told apart: an hour, in microseconds.
const MAX_LATENCY_US: u64 = 3_600_000_000;

/// An event without acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Miss {
    pub(crate) domain: DomainId,
    pub(crate) kind: Kind,
    /// Whether the server may have counted it all the same.
    pub(crate) maybe_counted: bool,
}

/// From when the latencies of a request's events count.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Begin {
    /// All from when the request was sent.
    Sent(Instant),
    /// Each from when it was due, in a run that began at `start`. Counting from when a connection
    /// was free would leave out what the server made the others wait.
    Due {
        start: Instant,
        schedule: Schedule,
        /// The index of the request's first event.
        first: u64,
    },
}

impl Begin {
    /// From when the first event counts.
    pub(crate) fn first(self) -> Instant {
        match self {
            Self::Sent(at) => at,
            Self::Due {
                start,
                schedule,
                first,
            } => start + schedule.due_at(first),
        }
    }
}

/// The attempts at a request before the last one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Earlier {
    pub(crate) attempts: u32,
    /// Whether the server may have counted one of them.
    pub(crate) maybe_counted: bool,
}

impl Earlier {
    /// Adds one that ended so.
    pub(crate) fn add(&mut self, outcome: Result<StatusCode, Failure>) {
        self.attempts += 1;
        self.maybe_counted |= maybe_counted(outcome);
    }
}

/// Whether the server may have counted what it did not acknowledge.
fn maybe_counted(outcome: Result<StatusCode, Failure>) -> bool {
    match outcome {
        // A server that loses its store in the middle of a commit answers 5xx and cannot know;
        // what it calls the client's mistake, it did not count.
        Ok(status) => status.is_server_error(),
        Err(failure) => failure != Failure::NotConnected,
    }
}

/// Counts, latencies and the events that were not acknowledged.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Requests that came to their end, well or badly.
    pub(crate) requests: u64,
    pub(crate) acknowledged: u64,
    /// Requests that were sent again, each time.
    pub(crate) retries: u64,
    /// Answers other than 2xx, by status.
    pub(crate) refused: BTreeMap<u16, u64>,
    /// Events without an answer, by reason.
    pub(crate) failed: BTreeMap<Failure, u64>,
    /// Of acknowledged events, one for each, in microseconds.
    pub(crate) latency: Histogram<u64>,
    pub(crate) misses: Vec<Miss>,
    /// When the last event came to its end.
    pub(crate) finished: Option<Instant>,
}

impl Tally {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            requests: 0,
            acknowledged: 0,
            retries: 0,
            refused: BTreeMap::new(),
            failed: BTreeMap::new(),
            latency: Histogram::new_with_bounds(1, MAX_LATENCY_US, 3)
                .context("cannot make a histogram")?,
            misses: Vec::new(),
            finished: None,
        })
    }

    /// Notes how a request with these events ended, at its last attempt.
    pub(crate) fn record(
        &mut self,
        events: &[Event],
        earlier: Earlier,
        outcome: Result<StatusCode, Failure>,
        begin: Begin,
    ) {
        let now = Instant::now();
        let count = events.len() as u64;
        self.finished = Some(now);
        self.requests += 1;
        self.retries += u64::from(earlier.attempts);
        match outcome {
            Ok(status) if status.is_success() => {
                self.acknowledged += count;
                self.record_latencies(count, now, begin);
                return;
            }
            Ok(status) => {
                *self.refused.entry(status.as_u16()).or_default() += count;
            }
            Err(failure) => *self.failed.entry(failure).or_default() += count,
        }
        let maybe_counted = earlier.maybe_counted || maybe_counted(outcome);
        self.misses.extend(events.iter().map(|event| Miss {
            domain: event.domain,
            kind: event.kind,
            maybe_counted,
        }));
    }

    fn record_latencies(&mut self, count: u64, now: Instant, begin: Begin) {
        let since = |begin| {
            let micros = now.saturating_duration_since(begin).as_micros();
            u64::try_from(micros).unwrap_or(u64::MAX)
        };
        match begin {
            Begin::Sent(at) => self.latency.saturating_record_n(since(at), count),
            Begin::Due {
                start,
                schedule,
                first,
            } => {
                for index in first..first + count {
                    self.latency
                        .saturating_record(since(start + schedule.due_at(index)));
                }
            }
        }
    }

    /// Adds what another thread noted.
    pub(crate) fn merge(&mut self, other: Self) -> anyhow::Result<()> {
        self.requests += other.requests;
        self.acknowledged += other.acknowledged;
        self.retries += other.retries;
        for (status, count) in other.refused {
            *self.refused.entry(status).or_default() += count;
        }
        for (failure, count) in other.failed {
            *self.failed.entry(failure).or_default() += count;
        }
        self.latency
            .add(other.latency)
            .context("cannot add histograms")?;
        self.misses.extend(other.misses);
        self.finished = self.finished.max(other.finished);
        Ok(())
    }

    pub(crate) fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }

    pub(crate) fn failed_total(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Every event that came to an end, well or badly.
    pub(crate) fn sent(&self) -> u64 {
        self.acknowledged + self.refused_total() + self.failed_total()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::stream::{Shape, Stream};
    use std::time::Duration;

    #[test]
    fn every_outcome_is_counted_once_and_says_whether_it_may_have_counted() {
        let event = [Stream::new(Shape::Reference, 1).next_event()];
        let begin = Begin::Sent(Instant::now());
        let mut tally = Tally::new().unwrap();
        tally.record(
            &event,
            Earlier::default(),
            Ok(StatusCode::NO_CONTENT),
            begin,
        );
        for outcome in [
            Ok(StatusCode::SERVICE_UNAVAILABLE),
            Ok(StatusCode::BAD_REQUEST),
            Err(Failure::NotConnected),
            Err(Failure::Lost),
            Err(Failure::TimedOut),
            Err(Failure::Unconfirmed),
        ] {
            tally.record(&event, Earlier::default(), outcome, begin);
        }
        assert_eq!((tally.acknowledged, tally.latency.len()), (1, 1));
        assert_eq!(tally.refused, BTreeMap::from([(400, 1), (503, 1)]));
        assert_eq!(
            (tally.refused_total(), tally.failed_total(), tally.sent()),
            (2, 4, 7)
        );
        let maybe: Vec<bool> = tally.misses.iter().map(|miss| miss.maybe_counted).collect();
        assert_eq!(maybe, [true, false, false, true, true, true]);
        assert_eq!(tally.requests, 7);
    }

    #[test]
    fn merging_adds() {
        let event = [Stream::new(Shape::Reference, 1).next_event()];
        let begin = Begin::Sent(Instant::now().checked_sub(Duration::from_secs(1)).unwrap());
        let tally = || {
            let mut tally = Tally::new().unwrap();
            tally.record(
                &event,
                Earlier::default(),
                Ok(StatusCode::NO_CONTENT),
                begin,
            );
            tally.record(&event, Earlier::default(), Err(Failure::Lost), begin);
            tally.record(
                &event,
                Earlier::default(),
                Ok(StatusCode::TOO_MANY_REQUESTS),
                begin,
            );
            tally
        };
        let mut sum = tally();
        sum.merge(tally()).unwrap();
        assert_eq!(
            (sum.acknowledged, sum.latency.len(), sum.misses.len()),
            (2, 2, 4)
        );
        assert_eq!(sum.requests, 6);
        assert_eq!(sum.refused, BTreeMap::from([(429, 2)]));
        assert_eq!(sum.failed, BTreeMap::from([(Failure::Lost, 2)]));
        assert!(sum.latency.min() >= 999_000);
    }

    #[test]
    fn every_event_of_a_request_counts() {
        let events = vec![Stream::new(Shape::Reference, 1).next_event(); 5];
        let begin = Begin::Sent(Instant::now());
        let mut tally = Tally::new().unwrap();
        tally.record(&events, Earlier::default(), Ok(StatusCode::OK), begin);
        tally.record(
            &events[..4],
            Earlier::default(),
            Ok(StatusCode::SERVICE_UNAVAILABLE),
            begin,
        );
        tally.record(&events[..3], Earlier::default(), Err(Failure::Lost), begin);
        assert_eq!((tally.requests, tally.sent()), (3, 12));
        assert_eq!((tally.acknowledged, tally.latency.len()), (5, 5));
        assert_eq!(tally.refused, BTreeMap::from([(503, 4)]));
        assert_eq!(tally.failed, BTreeMap::from([(Failure::Lost, 3)]));
        assert_eq!(tally.misses.len(), 7);
    }

    #[test]
    fn an_event_that_was_due_counts_from_its_own_time() {
        let events = vec![Stream::new(Shape::Reference, 1).next_event(); 5];
        let mut tally = Tally::new().unwrap();
        // Ten a second: the events 20 to 24 were due 1,000, 900, ... 600 ms ago.
        let begin = Begin::Due {
            start: Instant::now().checked_sub(Duration::from_secs(3)).unwrap(),
            schedule: Schedule::new(10.try_into().unwrap()),
            first: 20,
        };
        tally.record(&events, Earlier::default(), Ok(StatusCode::OK), begin);
        let latency = &tally.latency;
        assert_eq!(latency.len(), 5);
        assert!(latency.min() >= 599_000, "{}", latency.min());
        let spread = latency.max() - latency.min();
        assert!((398_000..=402_000).contains(&spread), "{spread}");
    }
}
