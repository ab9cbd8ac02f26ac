//! The report as a person reads it: aligned, with units, colours only on a terminal.

use std::fmt::{Display, Write as _};

use hdrhistogram::Histogram;
use indicatif::HumanCount;

use super::distribution::{bar, bound, distribution};
use super::units::{counted, duration, plural, share};
use super::{PERCENTILES, Report};
use crate::stream::Shape;
use crate::verify::Verification;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

pub(super) fn render(report: &Report, colors: bool) -> String {
    let mut page = Page {
        text: String::new(),
        colors,
    };
    page.title(report);
    page.events(report);
    page.speed(report);
    if !report.tally.latency.is_empty() {
        page.latency(report);
        page.distribution(&report.tally.latency);
    }
    if let Some(verification) = &report.verification {
        page.verification(verification);
    }
    page.conclusion(report);
    page.text
}

struct Page {
    text: String,
    colors: bool,
}

impl Page {
    fn line(&mut self, line: impl Display) {
        // Writing to a string has no way to fail.
        writeln!(self.text, "{line}").ok();
    }

    fn paint(&self, color: &str, text: impl Display) -> String {
        let text = text.to_string();
        if self.colors && !text.is_empty() {
            format!("\x1b[{color}m{text}\x1b[0m")
        } else {
            text
        }
    }

    fn heading(&mut self, heading: &str, note: &str) {
        let heading = self.paint(BOLD, heading);
        let note = self.paint(DIM, note);
        self.line("");
        self.line(format!("{heading}  {note}").trim_end());
    }

    /// A label, a number with its unit, and what there is to add.
    fn row(&mut self, label: &str, value: impl Display, unit: &str, note: &str) {
        let value = value.to_string();
        let row = format!("  {label:<14}{value:>13} {unit:<8}  {note}");
        self.line(row.trim_end());
    }

    fn title(&mut self, report: &Report) {
        let args = &report.args;
        let title = format!(
            "{} events, {} stream, seed {}",
            HumanCount(args.events),
            args.shape().as_str(),
            args.seed
        );
        let title = self.paint(BOLD, title);
        let spread = match args.shape() {
            Shape::Reference => String::new(),
            Shape::Uniform {
                domains, in_order, ..
            } => {
                let order = if in_order { " in order" } else { "" };
                format!(" over {} domains{order}", HumanCount(domains.into()))
            }
            Shape::Zipf {
                domains, exponent, ..
            } => format!(" over {} domains, s {exponent}", HumanCount(domains.into())),
        };
        let pace = match args.rate {
            None => "closed loop".to_owned(),
            Some(rate) => format!("open loop of {} events/s", HumanCount(rate.get().into())),
        };
        let sharing = args.bulk().map_or_else(String::new, |bulk| {
            let events = counted(bulk.size.into(), "event");
            format!(", {events} a request as {}", bulk.format.as_str())
        });
        self.line(title + &spread);
        let target = format!(
            "{}, {}, {}, {pace}{sharing}",
            args.url.url(),
            counted(args.connections.into(), "connection"),
            counted(args.busy_threads().into(), "thread")
        );
        let target = self.paint(DIM, target);
        self.line(target);
    }

    fn events(&mut self, report: &Report) {
        let tally = &report.tally;
        let total = tally.sent();
        self.heading("Events", "");
        self.row("sent", HumanCount(total), "", "");
        self.row(
            "acknowledged",
            HumanCount(tally.acknowledged),
            &share(tally.acknowledged, total),
            "",
        );
        let refused = list(tally.refused.iter());
        self.row(
            "refused",
            HumanCount(tally.refused_total()),
            &share(tally.refused_total(), total),
            &refused,
        );
        let failed = list(
            tally
                .failed
                .iter()
                .map(|(failure, n)| (failure.as_str(), n)),
        );
        self.row(
            "failed",
            HumanCount(tally.failed_total()),
            &share(tally.failed_total(), total),
            &failed,
        );
    }

    fn speed(&mut self, report: &Report) {
        self.heading("Speed", "");
        self.row(
            "elapsed",
            format!("{:.3}", report.elapsed.as_secs_f64()),
            "s",
            "",
        );
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate is positive, and far below 2^64"
        )]
        let rate = report.rate().round() as u64;
        self.row("rate", HumanCount(rate), "acknowledged/s", "");
        if report.args.bulk().is_some() {
            self.row("requests", HumanCount(report.tally.requests), "sent", "");
        }
        if report.args.retries > 0 {
            self.row(
                "retries",
                HumanCount(report.tally.retries),
                "sent again",
                "",
            );
        }
    }

    fn latency(&mut self, report: &Report) {
        let from = if report.args.rate.is_some() {
            "of acknowledged events, from when they were due"
        } else if report.args.bulk().is_some() {
            "of acknowledged events, each with the time of its request"
        } else {
            "of acknowledged events"
        };
        self.heading("Latency", from);
        let latency = &report.tally.latency;
        for (name, percentile) in PERCENTILES {
            let (value, unit) = duration(latency.value_at_percentile(percentile));
            self.row(name, value, unit, "");
        }
        let (value, unit) = duration(latency.max());
        self.row("max", value, unit, "");
    }

    fn distribution(&mut self, latency: &Histogram<u64>) {
        self.heading("Distribution", "");
        let rows = distribution(latency);
        let most = rows.iter().map(|(_, count)| *count).max().unwrap_or(1);
        for (below, count) in rows {
            let label = format!("below {}", bound(below));
            let bar = self.paint(GREEN, bar(count, most));
            self.row(
                &label,
                HumanCount(count),
                &share(count, latency.len()),
                &bar,
            );
        }
    }

    fn verification(&mut self, verification: &Verification) {
        let note = format!(
            "of {}, threshold {}",
            counted(verification.domains(), "domain"),
            HumanCount(verification.threshold)
        );
        self.heading("Verification", &note);
        let mut row = |label, count, what, note| {
            self.row(label, HumanCount(count), &plural(count, what), note);
        };
        row("counted", verification.counted, "event", "");
        row("exact", verification.exact, "domain", "");
        if verification.within_bounds > 0 {
            let note = "unanswered or 5xx events may have counted";
            row("within bounds", verification.within_bounds, "domain", note);
        }
        row("different", verification.different, "domain", "");
        for told in &verification.told {
            let domain = self.paint(YELLOW, format!("{:<18}", told.domain));
            self.line(format!("    {domain}  {}", told.problem));
        }
        let untold = verification.different - verification.told.len() as u64;
        if untold > 0 {
            self.line(format!("    and {} more", HumanCount(untold)));
        }
    }

    fn conclusion(&mut self, report: &Report) {
        let mut faults = Vec::new();
        if report.unacknowledged() > 0 {
            faults.push(format!(
                "{} not acknowledged",
                counted(report.unacknowledged(), "event")
            ));
        }
        let verification = report.verification.as_ref();
        if let Some(different) = verification.map(|v| v.different).filter(|n| *n > 0) {
            faults.push(format!("{} different", counted(different, "domain")));
        }
        let conclusion = if !faults.is_empty() {
            self.paint(RED, format!("Not good: {}.", faults.join(", ")))
        } else if verification.is_some() {
            self.paint(
                GREEN,
                "Good: every event was acknowledged and counted once.",
            )
        } else {
            self.paint(GREEN, "Good: every event was acknowledged.")
        };
        self.line("");
        self.line(conclusion);
    }
}

/// `503 × 5, 429 × 2`, the most frequent first.
fn list<'a, T: Display>(counts: impl Iterator<Item = (T, &'a u64)>) -> String {
    let mut counts: Vec<(T, u64)> = counts.map(|(what, count)| (what, *count)).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let counts: Vec<String> = counts
        .into_iter()
        .map(|(what, count)| format!("{what} × {}", HumanCount(count)))
        .collect();
    counts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bulk, clean, mixed};
    use super::*;

    const MIXED: &str = "\
10,000 events, reference stream, seed 42
http://127.0.0.1:7000, 64 connections, 1 thread, closed loop

Events
  sent                 10,000
  acknowledged          9,990  99.90 %
  refused                   7   0.07 %  503 × 5, 429 × 2
  failed                    3   0.03 %  timed out × 2, connection lost × 1

Speed
  elapsed               1.240 s
  rate                  8,056 acknowledged/s

Latency  of acknowledged events
  p50                    5.00 ms
  p90                    8.99 ms
  p95                    9.49 ms
  p99                    9.89 ms
  p99.9                  9.98 ms
  max                    9.99 ms

Distribution
  below   2 µs              1   0.01 %
  below   5 µs              3   0.03 %
  below  10 µs              5   0.05 %
  below  20 µs             10   0.10 %
  below  50 µs             30   0.30 %  ▏
  below 100 µs             50   0.50 %  ▎
  below 200 µs            100   1.00 %  ▋
  below 500 µs            300   3.00 %  █▉
  below   1 ms            500   5.00 %  ███▏
  below   2 ms          1,000  10.01 %  ██████▍
  below   5 ms          3,000  30.03 %  ███████████████████▏
  below  10 ms          4,991  49.95 %  ████████████████████████████████

Verification  of 30 domains, threshold 1,000
  counted               9,989 events
  exact                    25 domains
  within bounds             3 domains   unanswered or 5xx events may have counted
  different                 2 domains
    abcdefghijklmn.com  delivered 1,204 instead of 1,205
    and 1 more

Not good: 10 events not acknowledged, 2 domains different.
";

    #[test]
    fn a_mixed_run() {
        assert_eq!(render(&mixed(), false), MIXED);
    }

    #[test]
    fn a_clean_run_says_so() {
        let text = render(&clean(), false);
        assert!(text.ends_with("\nGood: every event was acknowledged and counted once.\n"));
        assert!(!text.contains("within bounds"));
    }

    #[test]
    fn bulk_shows_requests_and_events() {
        let text = render(&bulk(), false);
        assert!(text.contains(", closed loop, 1,000 events a request as cloudevents\n"));
        assert!(
            text.contains("\n  requests                 10 sent\n"),
            "{text}"
        );
        assert!(text.contains("\n  sent                 10,000\n"));
        assert!(!render(&clean(), false).contains("requests"));
    }

    #[test]
    fn colors_only_when_asked_for() {
        assert!(!render(&mixed(), false).contains('\x1b'));
        assert!(render(&mixed(), true).contains("\x1b[31mNot good"));
    }
}
