//! A steady 100,000 events a second over ten million domains, with a snapshot meanwhile.

use anyhow::Context as _;
use serde_json::Value;

use crate::{
    fleet::Fleet,
    journal,
    keys::Keys,
    options::Options,
    report::Line,
    rounds::run_of,
    row::{EMBEDDED, Subject},
    server::{self, Server},
};

pub(crate) const TITLE: &str = "Open loop";

pub(crate) const ABOUT: &str = "100,000 events a second in requests of 100, uniform over ten \
    million domains, over 64 connections, for a minute (the control for 20 s), whether or not the \
    server keeps up. An event's time runs from when it was due: waiting for its request to fill \
    up, up to 1 ms, is part of it. All settings are the defaults. A snapshot is due when the \
    journal is as long as the last one; so that one falls into this minute, the journal is filled \
    nearly so far before.";

const KEYS: Keys = Keys::Uniform(10_000_000);

pub(crate) fn measure(fleet: &mut Fleet, options: &Options) -> anyhow::Result<Vec<Line>> {
    let (short, long) = if options.smoke { (1, 2) } else { (20, 60) };
    let bare = fleet.server(Subject::Bare, KEYS)?;
    let mut lines = vec![line("open-loop/bare", &bare, short)?];
    let embedded = fleet.server(EMBEDDED, KEYS)?;
    if !options.smoke {
        journal::fill(&embedded, 80e6)?;
    }
    lines.push(line("open-loop/embedded/10M", &embedded, long)?);
    Ok(lines)
}

fn line(id: &str, server: &Server, seconds: u32) -> anyhow::Result<Line> {
    let snapshots = journal::snapshots(server)?;
    let processes = server.processes;
    processes.reset_peak()?;
    let before = processes.cpu_seconds()?;
    let flags = format!(
        "--rate 100000 --events {} --bulk 100 --domains 10000000 --connections 64",
        100_000 * seconds
    );
    let report = server::send(&server.url, &flags)?;
    let run = run_of(&report).context("not a report of create-events")?;
    let cpu = (processes.cpu_seconds()? - before) / (0.1 * f64::from(seconds));
    let count = |field: &Value| field.as_f64();
    Ok(Line::new(id)
        .figure("per second", "per_second", Some(run.rate()), 0)
        .figure("sent", "sent", count(&report["sent"]), 0)
        .figure(
            "acknowledged",
            "acknowledged",
            count(&report["acknowledged"]),
            0,
        )
        .figure("p50 ms", "p50_ms", Some(run.latency.p50), 2)
        .figure("p95 ms", "p95_ms", Some(run.latency.p95), 2)
        .figure("p99 ms", "p99_ms", Some(run.latency.p99), 2)
        .figure("max ms", "max_ms", Some(run.latency.max), 2)
        .figure("CPU s/million", "cpu_s_per_million", Some(cpu), 1)
        .figure("peak MiB", "peak_mib", Some(processes.peak_mib()?), 0)
        .figure(
            "snapshots",
            "snapshots",
            Some(journal::snapshots(server)? - snapshots),
            0,
        ))
}
