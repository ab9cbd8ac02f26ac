//! Measures the rows of a group: in turn, round after round.

use std::{cell::RefCell, rc::Rc};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{
    client,
    controls::{log_and_map::LogAndMap, upsert},
    fleet::Fleet,
    keys::Keys,
    options::Options,
    report::Line,
    row::{Group, Load, Row, Subject, Watched},
    sample::{Latency, Run, Sample, median},
    server::{self, Server},
};

/// Seeds of runs that only warm up begin here.
const WARM: u64 = 1_000;
/// So many times as many rounds for servers that are begun anew, each of which tells less.
const ANEW: u64 = 8;

/// A row that is being measured.
struct Lane<'a> {
    row: &'a Row,
    runner: Runner,
    /// A run has so many.
    events: u64,
    samples: Vec<Sample>,
}

enum Runner {
    Server(Rc<Server>),
    RawUpsert { database: String },
    LogAndMap(Rc<RefCell<LogAndMap>>),
}

/// The lines of a group's rows. A row that cannot be measured is a line that says why.
pub(crate) fn measure(group: &Group, fleet: &mut Fleet, options: &Options) -> Vec<Line> {
    let mut failures = Vec::new();
    let mut lanes = Vec::new();
    for row in group {
        match Lane::prepare(row, fleet, options) {
            Ok(lane) => lanes.push(lane),
            Err(error) => failures.push(Line::failed(&row.id, &error)),
        }
    }
    let anew = group.iter().any(|row| row.subject.is_begun_anew());
    let rounds = options.rounds * if anew { ANEW } else { 1 };
    for round in 0..rounds {
        lanes.retain_mut(|lane| match lane.sample(fleet, round) {
            Ok(sample) => {
                eprintln!("{} round {round}: {:.0}/s", lane.row.id, sample.run.rate());
                lane.samples.push(sample);
                true
            }
            Err(error) => {
                failures.push(Line::failed(&lane.row.id, &error));
                false
            }
        });
    }
    let mut lines: Vec<_> = lanes.iter().map(|lane| lane.line(&lanes)).collect();
    lines.extend(failures);
    lines
}

impl<'a> Lane<'a> {
    fn prepare(row: &'a Row, fleet: &mut Fleet, options: &Options) -> anyhow::Result<Self> {
        eprintln!("{} …", row.id);
        let runner = match row.subject {
            Subject::RawUpsert => Runner::RawUpsert {
                database: fleet.database_url(row.subject, row.keys)?,
            },
            Subject::LogAndMap => Runner::LogAndMap(fleet.log(row.keys)),
            subject => Runner::Server(fleet.server(subject, row.keys)?),
        };
        let mut lane = Self {
            row,
            runner,
            events: 4 * row.load.unit(),
            samples: Vec::new(),
        };
        // Warms up, and finds out how many events a run must have.
        let mut seed = WARM;
        let rate = loop {
            let run = lane.run(fleet, seed)?;
            if run.elapsed.as_secs_f64() >= options.seconds / 5.0 {
                break run.rate();
            }
            lane.events *= 4;
            seed += 1;
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "some seconds of events"
        )]
        let events = (rate * options.seconds) as u64;
        lane.events = events.next_multiple_of(row.load.unit());
        Ok(lane)
    }

    fn sample(&mut self, fleet: &mut Fleet, round: u64) -> anyhow::Result<Sample> {
        if self.row.subject.is_begun_anew() {
            self.runner = Runner::Server(fleet.server_anew(self.row.subject, self.row.keys)?);
            let measured = self.events;
            self.events = (measured / 4).next_multiple_of(self.row.load.unit());
            let warmed = self.run(fleet, WARM + round);
            self.events = measured;
            warmed?;
        }
        let Runner::Server(server) = &self.runner else {
            return Ok(Sample {
                run: self.run(fleet, round)?,
                cpu_s_per_million: None,
                peak_mib: None,
            });
        };
        let processes = server.processes;
        processes.reset_peak()?;
        let before = processes.cpu_seconds()?;
        let run = self.run(fleet, round)?;
        let cpu = processes.cpu_seconds()? - before;
        ensure!(
            self.row.subject != Subject::Watched(Watched::MetricsAndTraces)
                || fleet.has_collected(),
            "no span got to the collector"
        );
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let millions = run.done as f64 / 1e6;
        Ok(Sample {
            run,
            cpu_s_per_million: Some(cpu / millions),
            peak_mib: Some(processes.peak_mib()?),
        })
    }

    fn run(&self, fleet: &Fleet, seed: u64) -> anyhow::Result<Run> {
        let Row { keys, load, .. } = *self.row;
        let batch = match load {
            Load::Bulk { batch, .. } => batch,
            Load::Puts { .. } | Load::KeyedPuts { .. } | Load::Requests(_) => 1,
        };
        match (&self.runner, load) {
            (Runner::RawUpsert { database }, _) => {
                upsert::run(database, keys, batch, self.events, seed)
            }
            (Runner::LogAndMap(log), _) => {
                log.borrow_mut()
                    .run(fleet.folder(), batch, self.events, seed)
            }
            (Runner::Server(server), Load::Requests(requests)) => {
                client::run(server.address()?, requests, keys, self.events, seed)
            }
            (Runner::Server(server), _) => self.send(server, seed),
        }
    }

    /// Has `create-events` send the load.
    fn send(&self, server: &Server, seed: u64) -> anyhow::Result<Run> {
        let mut flags = format!("--events {} --seed {seed}", self.events);
        if let Keys::Uniform(domains) = self.row.keys {
            flags += &format!(" --domains {domains}");
        }
        flags += &match self.row.load {
            Load::Bulk { batch, connections } => {
                format!(" --bulk {batch} --connections {connections}")
            }
            Load::Puts { connections } => format!(" --connections {connections}"),
            Load::KeyedPuts { connections } => format!(" --connections {connections} --retries 1"),
            Load::Requests(_) => String::new(),
        };
        let report = server::send(&server.url, &flags)?;
        // The reference may answer 500: what it answers 2xx is its rate.
        ensure!(
            self.row.subject == Subject::Reference || report["acknowledged"] == self.events,
            "not all was acknowledged: {report}"
        );
        run_of(&report).context("not a report of create-events")
    }

    fn line(&self, lanes: &[Lane<'_>]) -> Line {
        let of = |figure: &dyn Fn(&Sample) -> f64| median(self.samples.iter().map(figure));
        let cost = |figure: &dyn Fn(&Sample) -> Option<f64>| {
            let figures: Option<Vec<f64>> = self.samples.iter().map(figure).collect();
            figures.map(median)
        };
        let ratios = self.row.against.iter().filter_map(|id| {
            let control = lanes.iter().find(|lane| lane.row.id == *id)?;
            let rounds = self.samples.iter().zip(&control.samples);
            let ratio = median(rounds.map(|(own, other)| own.run.rate() / other.run.rate()));
            Some((id.clone(), ratio))
        });
        Line::new(&self.row.id)
            .figure("per second", "per_second", Some(of(&|s| s.run.rate())), 0)
            .figure("p50 ms", "p50_ms", Some(of(&|s| s.run.latency.p50)), 2)
            .figure("p95 ms", "p95_ms", Some(of(&|s| s.run.latency.p95)), 2)
            .figure("p99 ms", "p99_ms", Some(of(&|s| s.run.latency.p99)), 2)
            .figure(
                "CPU s/million",
                "cpu_s_per_million",
                cost(&|s| s.cpu_s_per_million),
                1,
            )
            .figure("peak MiB", "peak_mib", cost(&|s| s.peak_mib), 0)
            .ratios(ratios)
            .hidden(
                "rounds_per_second",
                self.samples.iter().map(|s| s.run.rate().round()).collect(),
            )
    }
}

/// A report of `create-events`.
pub(crate) fn run_of(report: &Value) -> Option<Run> {
    let ms = |name| report["latency_ms"][name].as_f64();
    Some(Run {
        done: report["acknowledged"].as_u64()?,
        elapsed: std::time::Duration::try_from_secs_f64(report["elapsed_s"].as_f64()?).ok()?,
        latency: Latency {
            p50: ms("p50")?,
            p95: ms("p95")?,
            p99: ms("p99")?,
            max: ms("max")?,
        },
    })
}
