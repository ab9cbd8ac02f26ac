//! What became of the events that were sent.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Context;
use hdrhistogram::Histogram;
use hyper::StatusCode;

use crate::client::Failure;
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

/// Counts, latencies and the events that were not acknowledged.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) acknowledged: u64,
    /// Answers other than 2xx, by status.
    pub(crate) refused: BTreeMap<u16, u64>,
    /// Events without an answer, by reason.
    pub(crate) failed: BTreeMap<Failure, u64>,
    /// Of acknowledged events, in microseconds.
    pub(crate) latency: Histogram<u64>,
    pub(crate) misses: Vec<Miss>,
    /// When the last event came to its end.
    pub(crate) finished: Option<Instant>,
}

impl Tally {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            acknowledged: 0,
            refused: BTreeMap::new(),
            failed: BTreeMap::new(),
            latency: Histogram::new_with_bounds(1, MAX_LATENCY_US, 3)
                .context("cannot make a histogram")?,
            misses: Vec::new(),
            finished: None,
        })
    }

    /// Notes how `event` ended. Its latency counts from `begin`.
    pub(crate) fn record(
        &mut self,
        event: Event,
        outcome: Result<StatusCode, Failure>,
        begin: Instant,
    ) {
        let now = Instant::now();
        self.finished = Some(now);
        let maybe_counted = match outcome {
            Ok(status) if status.is_success() => {
                self.acknowledged += 1;
                let micros = now.saturating_duration_since(begin).as_micros();
                self.latency
                    .saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
                return;
            }
            Ok(status) => {
                *self.refused.entry(status.as_u16()).or_default() += 1;
                // A server that loses its store in the middle of a commit answers 5xx and cannot
                // know; what it calls the client's mistake, it did not count.
                status.is_server_error()
            }
            Err(failure) => {
                *self.failed.entry(failure).or_default() += 1;
                failure != Failure::NotConnected
            }
        };
        self.misses.push(Miss {
            domain: event.domain,
            kind: event.kind,
            maybe_counted,
        });
    }

    /// Adds what another thread noted.
    pub(crate) fn merge(&mut self, other: Self) -> anyhow::Result<()> {
        self.acknowledged += other.acknowledged;
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
        let event = Stream::new(Shape::Reference, 1).next_event();
        let begin = Instant::now();
        let mut tally = Tally::new().unwrap();
        tally.record(event, Ok(StatusCode::NO_CONTENT), begin);
        for outcome in [
            Ok(StatusCode::SERVICE_UNAVAILABLE),
            Ok(StatusCode::BAD_REQUEST),
            Err(Failure::NotConnected),
            Err(Failure::Lost),
            Err(Failure::TimedOut),
        ] {
            tally.record(event, outcome, begin);
        }
        assert_eq!((tally.acknowledged, tally.latency.len()), (1, 1));
        assert_eq!(tally.refused, BTreeMap::from([(400, 1), (503, 1)]));
        assert_eq!(
            (tally.refused_total(), tally.failed_total(), tally.sent()),
            (2, 3, 6)
        );
        let maybe: Vec<bool> = tally.misses.iter().map(|miss| miss.maybe_counted).collect();
        assert_eq!(maybe, [true, false, false, true, true]);
    }

    #[test]
    fn merging_adds() {
        let event = Stream::new(Shape::Reference, 1).next_event();
        let begin = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let tally = || {
            let mut tally = Tally::new().unwrap();
            tally.record(event, Ok(StatusCode::NO_CONTENT), begin);
            tally.record(event, Err(Failure::Lost), begin);
            tally.record(event, Ok(StatusCode::TOO_MANY_REQUESTS), begin);
            tally
        };
        let mut sum = tally();
        sum.merge(tally()).unwrap();
        assert_eq!(
            (sum.acknowledged, sum.latency.len(), sum.misses.len()),
            (2, 2, 4)
        );
        assert_eq!(sum.refused, BTreeMap::from([(429, 2)]));
        assert_eq!(sum.failed, BTreeMap::from([(Failure::Lost, 2)]));
        assert!(sum.latency.min() >= 999_000);
    }
}
