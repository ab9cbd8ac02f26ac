//! The result of a run, for people and for machines.

mod distribution;
mod human;
mod json;
mod units;

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use crate::args::Args;
use crate::tally::Tally;
use crate::verify::Verification;

/// The percentiles that are told, with their names.
const PERCENTILES: [(&str, f64); 5] = [
    ("p50", 50.0),
    ("p90", 90.0),
    ("p95", 95.0),
    ("p99", 99.0),
    ("p99.9", 99.9),
];

/// All there is to say about a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) args: Args,
    pub(crate) tally: Tally,
    /// From the first event's start to the last one's end.
    pub(crate) elapsed: Duration,
    pub(crate) verification: Option<Verification>,
}

impl Report {
    /// Whether every event was acknowledged and every domain that was checked is right.
    pub(crate) fn is_good(&self) -> bool {
        let differences = self.verification.as_ref().map_or(0, |v| v.different);
        self.unacknowledged() == 0 && differences == 0
    }

    /// The report as it goes to standard output, with a line break at its end.
    pub(crate) fn render(&self, as_json: bool) -> String {
        if as_json {
            json::render(self)
        } else {
            let colors = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            human::render(self, colors)
        }
    }

    fn unacknowledged(&self) -> u64 {
        self.args.events.saturating_sub(self.tally.acknowledged)
    }

    /// Acknowledged events a second.
    fn rate(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds == 0.0 {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "events stay far below 2^52")]
        let acknowledged = self.tally.acknowledged as f64;
        acknowledged / seconds
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::client::Failure;
    use crate::verify::Difference;
    use clap::Parser;

    /// A run with something of everything.
    pub(super) fn mixed() -> Report {
        let mut tally = Tally::new().unwrap();
        tally.requests = 10_000;
        tally.acknowledged = 9_990;
        for micros in 1..=9_990 {
            tally.latency.record(micros).unwrap();
        }
        tally.refused = [(429, 2), (503, 5)].into();
        tally.failed = [(Failure::Lost, 1), (Failure::TimedOut, 2)].into();
        let told = vec![Difference {
            domain: "abcdefghijklmn.com".into(),
            problem: "delivered 1,204 instead of 1,205".into(),
        }];
        Report {
            args: Args::parse_from(["create-events", "--seed", "42", "--verify"]),
            tally,
            elapsed: Duration::from_millis(1_240),
            verification: Some(Verification {
                threshold: 1_000,
                exact: 25,
                within_bounds: 3,
                different: 2,
                told,
                counted: 9_989,
            }),
        }
    }

    /// A run without a flaw.
    pub(super) fn clean() -> Report {
        let mut report = mixed();
        report.tally.acknowledged = 10_000;
        report.tally.refused.clear();
        report.tally.failed.clear();
        report.verification = Some(Verification {
            threshold: 1_000,
            exact: 30,
            counted: 10_000,
            ..Verification::default()
        });
        report
    }

    /// A run of ten requests.
    pub(super) fn bulk() -> Report {
        let flags = "create-events --bulk 1000 --format cloudevents";
        let mut report = clean();
        report.args = Args::parse_from(flags.split(' '));
        report.tally.requests = 10;
        report
    }

    #[test]
    fn good_means_all_acknowledged_and_nothing_different() {
        assert!(clean().is_good());
        assert!(!mixed().is_good());

        let mut short = clean();
        short.tally.acknowledged -= 1;
        assert!(!short.is_good());

        let mut different = clean();
        different.verification.as_mut().unwrap().different = 1;
        assert!(!different.is_good());
    }
}
