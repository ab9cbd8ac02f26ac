//! The report as one JSON object. Names carry their unit; absent parts are null.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{PERCENTILES, Report};
use crate::stream::Shape;
use crate::verify::Verification;

#[derive(Serialize)]
struct Json<'a> {
    ok: bool,
    url: String,
    stream: StreamJson,
    events: u64,
    connections: u32,
    threads: u32,
    /// The asked-for rate of an open loop.
    target_events_per_s: Option<u32>,
    /// Null where an event is a request.
    bulk: Option<BulkJson>,
    /// Requests that carried the events, whatever became of them.
    requests: u64,
    /// How often one of them was sent again.
    retries: u64,
    sent: u64,
    acknowledged: u64,
    refused: u64,
    refused_by_status: &'a BTreeMap<u16, u64>,
    failed: u64,
    failed_by_reason: BTreeMap<&'static str, u64>,
    elapsed_s: f64,
    acknowledged_per_s: f64,
    /// Of acknowledged events, each counted; in an open loop from the time it was due.
    latency_ms: Option<BTreeMap<&'static str, f64>>,
    verification: Option<VerificationJson<'a>>,
}

#[derive(Serialize)]
struct BulkJson {
    events_per_request: u32,
    format: &'static str,
}

#[derive(Serialize)]
struct StreamJson {
    shape: &'static str,
    seed: u64,
    domains: Option<u32>,
    in_order: Option<bool>,
    zipf: Option<f64>,
    bounce_rate: Option<f64>,
}

#[derive(Serialize)]
struct VerificationJson<'a> {
    threshold: u64,
    domains: u64,
    exact: u64,
    within_bounds: u64,
    different: u64,
    counted: u64,
    /// Some of the differences.
    differences: BTreeMap<&'a str, &'a str>,
}

pub(super) fn render(report: &Report) -> String {
    let (args, tally) = (&report.args, &report.tally);
    let json = Json {
        ok: report.is_good(),
        url: args.url.url(),
        stream: stream(args.shape(), args.seed),
        events: args.events,
        connections: args.connections,
        threads: args.busy_threads(),
        target_events_per_s: args.rate.map(std::num::NonZero::get),
        bulk: args.bulk().map(|bulk| BulkJson {
            events_per_request: bulk.size,
            format: bulk.format.as_str(),
        }),
        requests: tally.requests,
        retries: tally.retries,
        sent: tally.sent(),
        acknowledged: tally.acknowledged,
        refused: tally.refused_total(),
        refused_by_status: &tally.refused,
        failed: tally.failed_total(),
        failed_by_reason: tally.failed.iter().map(|(f, n)| (f.as_str(), *n)).collect(),
        elapsed_s: report.elapsed.as_secs_f64(),
        acknowledged_per_s: report.rate(),
        latency_ms: latency(report),
        verification: report.verification.as_ref().map(verification),
    };
    // Writing plain numbers and text to memory has no way to fail.
    serde_json::to_string(&json).unwrap_or_default() + "\n"
}

fn stream(shape: Shape, seed: u64) -> StreamJson {
    let (domains, in_order, zipf, bounce_rate) = match shape {
        Shape::Reference => (None, None, None, None),
        Shape::Uniform {
            domains,
            in_order,
            bounce_rate,
        } => (Some(domains), Some(in_order), None, Some(bounce_rate)),
        Shape::Zipf {
            domains,
            exponent,
            bounce_rate,
        } => (Some(domains), None, Some(exponent), Some(bounce_rate)),
    };
    StreamJson {
        shape: shape.as_str(),
        seed,
        domains,
        in_order,
        zipf,
        bounce_rate,
    }
}

fn latency(report: &Report) -> Option<BTreeMap<&'static str, f64>> {
    let latency = &report.tally.latency;
    #[expect(
        clippy::cast_precision_loss,
        reason = "an hour in microseconds is below 2^52"
    )]
    let ms = |micros: u64| micros as f64 / 1_000.0;
    (!latency.is_empty()).then(|| {
        PERCENTILES
            .iter()
            .map(|(name, percentile)| (*name, ms(latency.value_at_percentile(*percentile))))
            .chain([
                ("max", ms(latency.max())),
                ("mean", latency.mean() / 1_000.0),
            ])
            .collect()
    })
}

fn verification(verification: &Verification) -> VerificationJson<'_> {
    VerificationJson {
        threshold: verification.threshold,
        domains: verification.domains(),
        exact: verification.exact,
        within_bounds: verification.within_bounds,
        different: verification.different,
        counted: verification.counted,
        differences: verification
            .told
            .iter()
            .map(|told| (told.domain.as_str(), told.problem.as_str()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::{bulk, mixed};
    use super::*;

    #[test]
    fn one_line_with_everything_in_it() {
        let text = render(&mixed());
        assert_eq!(text.matches('\n').count(), 1);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["stream"]["shape"], "reference");
        assert_eq!(json["stream"]["seed"], 42);
        assert_eq!(json["sent"], 10_000);
        assert_eq!(json["requests"], 10_000);
        assert!(json["bulk"].is_null());
        assert_eq!(json["refused_by_status"]["503"], 5);
        assert_eq!(json["failed_by_reason"]["timed out"], 2);
        assert_eq!(json["elapsed_s"], 1.24);
        assert_eq!(json["latency_ms"]["p50"], 4.995);
        assert_eq!(json["verification"]["different"], 2);
        assert_eq!(
            json["verification"]["differences"]["abcdefghijklmn.com"],
            "delivered 1,204 instead of 1,205"
        );
    }

    #[test]
    fn bulk_says_how_events_shared_requests() {
        let json: serde_json::Value = serde_json::from_str(&render(&bulk())).unwrap();
        assert_eq!(json["requests"], 10);
        assert_eq!(json["bulk"]["events_per_request"], 1_000);
        assert_eq!(json["bulk"]["format"], "cloudevents");
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let mut report = mixed();
        report.tally.latency.reset();
        report.verification = None;
        let json: serde_json::Value = serde_json::from_str(&render(&report)).unwrap();
        assert!(json["latency_ms"].is_null());
        assert!(json["verification"].is_null());
        assert!(json["target_events_per_s"].is_null());
    }
}
