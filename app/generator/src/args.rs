//! The command line.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use clap::Parser;

use crate::bulk::{self, Bulk, Format};
use crate::stream::Shape;
use crate::target::Target;

const MAX_DOMAINS: i64 = 10_000_000;

const ABOUT: &str = "\
Sends a stream of mail events to a catchall server, measures how it answers, and checks that it
counted every event it acknowledged exactly once.

Every event is one request, PUT /v1/events/{domain}/delivered or .../bounced, unless --bulk has
many of them share one. The stream is decided by its shape and its seed alone: the same seed sends
the same events, over one connection or over a thousand. There are three shapes:

  reference   the default: twenty producers take turns, each with a random domain and up to 2,499
              events for it. Most domains bounce two or three times, every 25th never does. Ten
              thousand events touch about 25 domains.
  uniform     --domains N: every one of N domains equally likely.
              With --in-order one after the other: N events are each domain once.
  zipf        --domains N --zipf S: the k-th domain in proportion to 1/k^S.

In the closed loop, the default, every connection sends its next request as soon as the last one is
answered. With --rate the loop is open: events fall due by the clock, and an event's latency counts
from when it was due, so that a server which stalls cannot hide how long the others waited.

With --bulk N a request is a POST /v1/events with N events, the last one with what is left of them.
As CloudEvents (--format cloudevents) each has the run as its source and its place in the stream as
its id: sent again by --retries it is the same event, sent by another run it is a new one.

With --retries N a request that was not answered, or answered 5xx, is sent again up to N times, after
a pause that grows. Every request then has an Idempotency-Key of its own (CloudEvents have their
ids), so that it counts once however often it arrives.";

const AFTER: &str = "\
Latency:
  Percentiles are over acknowledged events, not over requests: a request of 1,000 events weighs as
  much as 1,000 requests of one. In the closed loop all events of a request have its time, from
  when it is sent to the end of its answer. In the open loop a request leaves when the last of its
  events is due, and each event's time runs from when it was due itself: waiting for the request to
  fill up is part of it, (N - 1) / rate seconds for the first.

Outcomes:
  acknowledged   answered 2xx: the server has promised that the event counts
  refused        answered with anything else
  failed         not answered: connection lost, timed out, or none could be made. Without
                 --retries only an event that certainly never left is tried again on a new
                 connection, a few times.
                 With --bulk also \"not confirmed\": answered 2xx, but the answer's \"accepted\" is
                 not the number of events sent
  The events of one request share its outcome; with --retries, that of its last attempt.

Verification:
  With --verify every domain of the stream is read before the run and again after it. What the server
  holds must be what it held plus what it acknowledged; its verdict must follow from its counts. An
  event that was not answered, not confirmed, or answered 5xx may or may not have counted: the domain
  is then \"within bounds\". Nobody else may write to these domains meanwhile.

Exit status:
  0   every event was acknowledged and, with --verify, every domain is right
  1   an event was not acknowledged, a domain differs, or the run was not possible
  2   the command line was not understood

Examples:
  create-events                                        ten thousand events, as fast as they go
  create-events --verify --events 200000               ... and nothing lost, nothing counted twice
  create-events --domains 1000000 --events 5000000 --connections 256 --threads 2
  create-events --domains 100000 --zipf 1.1 --rate 20000 --events 600000
  create-events --bulk 1000 --connections 4 --events 5000000 --verify
  create-events --json | jq .latency_ms.p99";

/// Load for catchall: a stream of events, paced, measured and verified.
#[derive(Debug, Clone, Parser)]
#[command(version, about, long_about = ABOUT, after_long_help = AFTER)]
pub(crate) struct Args {
    /// The server
    #[arg(long, default_value = "http://127.0.0.1:7000")]
    pub(crate) url: Target,

    /// How many events to send
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=4_000_000_000))]
    pub(crate) events: u64,

    /// The same seed sends the same events
    #[arg(long, default_value_t = 1, help_heading = "Stream")]
    pub(crate) seed: u64,

    /// Spread the events over N domains, the same N for every seed
    #[arg(long, value_name = "N", help_heading = "Stream",
          value_parser = clap::value_parser!(u32).range(1..=MAX_DOMAINS))]
    domains: Option<u32>,

    /// Prefer some domains: the k-th in proportion to 1/k^S
    #[arg(long, value_name = "S", help_heading = "Stream", requires = "domains",
          value_parser = exponent)]
    zipf: Option<f64>,

    /// With --domains: one after the other, in place of at random
    #[arg(
        long,
        help_heading = "Stream",
        requires = "domains",
        conflicts_with = "zipf"
    )]
    in_order: bool,

    /// With --domains: the share of bounces, by default about the reference's own
    #[arg(long, value_name = "SHARE", help_heading = "Stream", requires = "domains",
          default_value_t = 0.002, value_parser = share)]
    bounce_rate: f64,

    /// Keep-alive connections
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Load",
          value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub(crate) connections: u32,

    /// Threads that drive the connections
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Load",
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) threads: u32,

    /// Open loop: events a second, whether or not the server keeps up
    #[arg(long, value_name = "EVENTS/S", help_heading = "Load")]
    pub(crate) rate: Option<NonZeroU32>,

    /// Send N events a request, at most 40,000: its body stays below 8 MiB
    #[arg(long, value_name = "N", help_heading = "Load",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(bulk::MAX_EVENTS)))]
    bulk: Option<u32>,

    /// With --bulk: how the events are written
    #[arg(long, value_enum, help_heading = "Load", requires = "bulk",
          default_value_t = Format::Ndjson)]
    format: Format,

    /// How long a request may take, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000, help_heading = "Load",
          value_parser = clap::value_parser!(u32).range(1..=600_000))]
    timeout_ms: u32,

    /// Send a request again up to N times, under a key, until it is answered other than 5xx
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Load",
          value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub(crate) retries: u32,

    /// Read every domain before and after, and compare with what was acknowledged
    #[arg(long, help_heading = "Result")]
    pub(crate) verify: bool,

    /// Show the run as it goes, for Prometheus: http://ADDR/metrics
    #[arg(long, value_name = "ADDR", help_heading = "Result")]
    pub(crate) metrics_addr: Option<SocketAddr>,

    /// Write the result as one JSON object to standard output
    #[arg(long, help_heading = "Result")]
    pub(crate) json: bool,
}

impl Args {
    pub(crate) fn shape(&self) -> Shape {
        match (self.domains, self.zipf) {
            (None, _) => Shape::Reference,
            (Some(domains), None) => Shape::Uniform {
                domains,
                in_order: self.in_order,
                bounce_rate: self.bounce_rate,
            },
            (Some(domains), Some(exponent)) => Shape::Zipf {
                domains,
                exponent,
                bounce_rate: self.bounce_rate,
            },
        }
    }

    /// How events share requests, if they do.
    pub(crate) fn bulk(&self) -> Option<Bulk> {
        self.bulk.map(|size| Bulk {
            size,
            format: self.format,
            source: bulk::source(fastrand::u128(..)),
        })
    }

    /// The threads that have a connection to drive.
    pub(crate) fn busy_threads(&self) -> u32 {
        self.threads.min(self.connections)
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.into())
    }
}

fn exponent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(exponent) if (0.01..=10.0).contains(&exponent) => Ok(exponent),
        _ => Err("a number from 0.01 to 10 is needed".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a number from 0 to 1 is needed".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_choose_the_shape() {
        let shape = |line: &str| parse(line).unwrap().shape();
        assert_eq!(shape("create-events"), Shape::Reference);
        assert_eq!(
            shape("create-events --domains 5"),
            Shape::Uniform {
                domains: 5,
                in_order: false,
                bounce_rate: 0.002
            }
        );
        assert_eq!(
            shape("create-events --domains 5 --in-order --bounce-rate 0"),
            Shape::Uniform {
                domains: 5,
                in_order: true,
                bounce_rate: 0.0
            }
        );
        assert_eq!(
            shape("create-events --domains 5 --zipf 1.1 --bounce-rate 0"),
            Shape::Zipf {
                domains: 5,
                exponent: 1.1,
                bounce_rate: 0.0
            }
        );
    }

    #[test]
    fn bulk_is_ndjson_unless_told_otherwise() {
        let bulk = |line: &str| parse(line).unwrap().bulk().map(|b| (b.size, b.format));
        assert_eq!(bulk("create-events"), None);
        assert_eq!(
            bulk("create-events --bulk 1000"),
            Some((1_000, Format::Ndjson))
        );
        assert_eq!(
            bulk("create-events --bulk 40000 --format cloudevents"),
            Some((40_000, Format::CloudEvents))
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for flags in [
            "--events 0",
            "--connections 0",
            "--connections 50001",
            "--domains 0",
            "--domains 10000001",
            "--zipf 1",
            "--in-order",
            "--domains 5 --zipf 1 --in-order",
            "--domains 5 --zipf 0",
            "--domains 5 --zipf NaN",
            "--domains 5 --zipf inf",
            "--bounce-rate 0.5",
            "--domains 5 --bounce-rate 1.1",
            "--rate 0",
            "--bulk 0",
            "--bulk 40001",
            "--format ndjson",
            "--bulk 5 --format xml",
            "--timeout-ms 0",
            "--retries 1001",
            "--url https://localhost",
        ] {
            assert!(parse(&format!("create-events {flags}")).is_err(), "{flags}");
        }
    }
}
