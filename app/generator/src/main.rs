//! `create-events`: load for catchall. Sends a stream of events, measures the answers, and checks
//! that whatever was acknowledged was counted once. It shares no code with the server on purpose:
//! it is a second opinion.

#![allow(
    clippy::print_stderr,
    reason = "a command-line tool: progress and errors go to standard error"
)]

mod args;
mod bulk;
mod client;
mod crew;
mod idempotency;
mod limits;
mod load;
mod metrics;
mod pace;
mod progress;
mod report;
mod routes;
mod stream;
mod tally;
mod target;
mod verdict;
mod verify;

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use crate::args::Args;
use crate::crew::Crew;
use crate::load::Load;
use crate::metrics::Metrics;
use crate::report::Report;
use crate::stream::Stream;
use crate::verify::Verifier;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(report) => {
            // Whoever closed standard output does not want to read it; the exit status stands.
            stdout().write_all(report.render(args.json).as_bytes()).ok();
            if report.is_good() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("create-events: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<Report> {
    limits::allow_bulk(args.connections, args.bulk().map_or(1, |bulk| bulk.size))?;
    limits::allow_connections(args.connections, args.busy_threads())?;
    let crew = Crew {
        endpoint: Arc::new(args.url.reach(args.timeout())?),
        threads: args.busy_threads() as usize,
        connections: args.connections as usize,
        timeout: args.timeout(),
    };
    let metrics = args.metrics_addr.map(|address| {
        let metrics = Metrics::new(args.rate)?;
        let address = metrics.serve(address)?;
        eprintln!("metrics: http://{address}/metrics");
        anyhow::Ok(metrics)
    });
    let metrics = metrics.transpose()?;
    let stream = Stream::new(args.shape(), args.seed);
    let verifier = args
        .verify
        .then(|| Verifier::prepare(&crew, &stream, args.events))
        .transpose()?;
    let load = Load {
        stream,
        events: args.events,
        rate: args.rate,
        bulk: args.bulk(),
        retries: args.retries,
        metrics,
    };
    let (tally, elapsed) = load.send(&crew)?;
    let verification = verifier
        .map(|verifier| verifier.check(&crew, &tally.misses))
        .transpose()?;
    Ok(Report {
        args: args.clone(),
        tally,
        elapsed,
        verification,
    })
}
