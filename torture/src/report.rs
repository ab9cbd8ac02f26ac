//! What was found, as lines and as a page of the documentation.

use std::{collections::BTreeMap, fmt::Write as _, fs, time::Duration};

use crate::{
    planted::{Bug, Caught},
    rows::{Findings, Row},
};

/// What all rows and bugs came to.
pub struct Report {
    rows: &'static [Row],
    seed: u64,
    found: BTreeMap<&'static str, Findings>,
    caught: Vec<(&'static Bug, Option<Caught>)>,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    /// An empty one.
    pub fn new(rows: &'static [Row], seed: u64) -> Self {
        Self {
            rows,
            seed,
            found: BTreeMap::new(),
            caught: Vec::new(),
            took: Duration::ZERO,
        }
    }

    /// With what a row found, besides what it found before.
    pub fn add(&mut self, row: &Row, findings: Findings) {
        self.found.entry(row.name).or_default().add(findings);
    }

    /// With what became of a bug.
    pub fn caught(&mut self, bug: &'static Bug, caught: Option<Caught>) {
        self.caught.push((bug, caught));
    }

    /// One line with the sums.
    pub fn summary(&self) -> String {
        let sum = |of: fn(&Findings) -> u64| self.found.values().map(of).sum::<u64>();
        let caught = self
            .caught
            .iter()
            .filter(|(_, caught)| caught.is_some())
            .count();
        format!(
            "{} rows, {} faults, {} events acknowledged, {} lost, {} double, {} promises broken; {} \
             of {} planted bugs caught; {:.0} s",
            self.found.len(),
            sum(|found| found.faults),
            sum(|found| found.acknowledged),
            sum(Findings::lost),
            sum(Findings::double),
            sum(|found| found.violations.len() as u64),
            caught,
            self.caught.len(),
            self.took.as_secs_f64()
        )
    }

    /// The page.
    pub fn page(&self) -> String {
        let mut page = include_str!("report/head.md").to_owned();
        let _ = writeln!(
            page,
            "Measured on {}, {}, seed {}, in {:.0} minutes.\n\n{}.\n\n## Faults\n",
            today(),
            machine(),
            self.seed,
            self.took.as_secs_f64() / 60.0,
            self.summary()
        );
        page.push_str(
            "| fault | times | acknowledged | lost | double | unknown | worst recovery | slowest \
             answer |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        let told = || {
            self.rows
                .iter()
                .filter_map(|row| Some((row, self.found.get(row.name)?)))
        };
        for (row, found) in told() {
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                row.name,
                found.faults,
                found.acknowledged,
                found.lost(),
                found.double(),
                found.unknown,
                recovery(found),
                seconds(found.slowest)
            );
        }
        page.push_str("\n## What a client sees\n\n");
        for (row, found) in told() {
            let _ = writeln!(
                page,
                "**{}.** {} A client sees: {}.",
                row.name, row.what, row.client
            );
            if !found.answers.is_empty() {
                let _ = writeln!(page, "Answers: {}.", answers(found));
            }
            for note in found.notes.iter().take(2) {
                let _ = writeln!(page, "{note}.");
            }
            page.push('\n');
        }
        page.push_str(
            "## Planted bugs\n\nEach is put into the code on purpose, in a build of its own, and has to \
             be caught in one of three runs of at most 20 s.\n\n| bug | what is wrong | caught after | by |\n| --- | --- | ---: | \
             --- |\n",
        );
        for (bug, caught) in &self.caught {
            let (after, by) = match caught {
                Some((by, after)) => (seconds(*after), by.replace('|', "/").replace('\n', " ")),
                None => ("never".to_owned(), String::new()),
            };
            let _ = writeln!(page, "| {} | {} | {after} | {by} |", bug.name, bug.what);
        }
        page
    }
}

/// A row's line.
pub fn line(row: &Row, found: &Findings) -> String {
    let mut line = format!(
        "{}: {} faults; {} acknowledged, {} refused, {} unknown; {} lost, {} double; worst recovery \
         {}, slowest answer {}",
        row.name,
        found.faults,
        found.acknowledged,
        found.refused,
        found.unknown,
        found.lost(),
        found.double(),
        recovery(found),
        seconds(found.slowest)
    );
    if !found.answers.is_empty() {
        let _ = write!(line, "; {}", answers(found));
    }
    for note in &found.notes {
        let _ = write!(line, "; {note}");
    }
    line
}

fn answers(found: &Findings) -> String {
    let told = found
        .answers
        .iter()
        .map(|(answer, times)| format!("{answer} × {times}"));
    told.collect::<Vec<_>>().join(", ")
}

fn recovery(found: &Findings) -> String {
    found.worst_recovery().map_or("–".to_owned(), seconds)
}

fn seconds(duration: Duration) -> String {
    match duration {
        Duration::ZERO => "–".to_owned(),
        duration => format!("{:.2} s", duration.as_secs_f64()),
    }
}

fn today() -> String {
    jiff::Timestamp::now()
        .to_string()
        .chars()
        .take(10)
        .collect()
}

/// What it ran on, as Linux tells it.
fn machine() -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory_kb: u64 = field(&read("/proc/meminfo"), "MemTotal")
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or(0);
    format!(
        "{cores} cores ({}), {} GiB, Linux {}",
        field(&read("/proc/cpuinfo"), "model name"),
        memory_kb >> 20,
        // Without what a distribution calls its build.
        read("/proc/sys/kernel/osrelease")
            .trim()
            .split('-')
            .next()
            .unwrap_or_default()
    )
}
