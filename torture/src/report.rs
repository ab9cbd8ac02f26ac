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
    /// How often each row was run.
    runs: BTreeMap<&'static str, u64>,
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
            runs: BTreeMap::new(),
            caught: Vec::new(),
            took: Duration::ZERO,
        }
    }

    /// With what a row found, besides what it found before.
    pub fn add(&mut self, row: &Row, findings: Findings) {
        self.found.entry(row.name).or_default().add(findings);
        *self.runs.entry(row.name).or_default() += 1;
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
        let expected = match sum(|found| found.expected_losses.iter().sum()) {
            0 => String::new(),
            lost => format!(
                ", beside the {} of the failover to an asynchronous standby, as documented",
                thousands(lost)
            ),
        };
        format!(
            "{} rows, {} faults, {} events acknowledged; {} lost{expected}; {} double, {} promises \
             broken; {} of {} planted bugs caught; {} s",
            self.found.len(),
            thousands(sum(|found| found.faults)),
            thousands(sum(|found| found.acknowledged)),
            thousands(sum(Findings::lost)),
            thousands(sum(Findings::double)),
            sum(|found| found.violations.len() as u64),
            caught,
            self.caught.len(),
            thousands(self.took.as_secs())
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
                thousands(found.faults),
                of_events(found.acknowledged, found.groups[0]),
                lost(found),
                thousands(found.double()),
                of_events(found.unknown, found.groups[1]),
                recovery(found),
                seconds(found.slowest)
            );
        }
        page.push_str(
            "\n¹ Groups of up to five requests each, as a store gets them; they are not in the sum above. \
             The unknown ones are settled when the store is opened again.\n",
        );
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
            if !found.expected_losses.is_empty() {
                let _ = writeln!(page, "{}.", expected_losses(found));
            }
            if self.runs[row.name] > 1 && !found.notes.is_empty() {
                let _ = writeln!(page, "In the last of {} runs:", self.runs[row.name]);
            }
            for note in notes(found) {
                let _ = writeln!(page, "{note}.");
            }
            page.push('\n');
        }
        page.push_str(
            "## Planted bugs\n\nEach is put into the code on purpose, in a build of its own, and has to \
             be caught in one of three runs of at most 20 s. A seed of the power cuts in memory is one \
             store and six lives of it, counted from 0: each goes from opening the store to a power cut, \
             a failed sync or the death of the process. `d1.example: (2, 1) instead of (5, 2)` says that \
             the store then counted 2 delivered and 1 bounced for that domain, where 5 and 2 had to \
             be there. In the other runs servers are harmed as above: `272 of 2,339, and up to 0 more` \
             says that 272 events were counted where 2,339 were acknowledged and none was unknown.\n\n| bug | what is wrong | caught after | by |\n| --- | --- | ---: | \
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
        thousands(found.faults),
        of_events(found.acknowledged, found.groups[0]),
        thousands(found.refused),
        of_events(found.unknown, found.groups[1]),
        lost(found),
        thousands(found.double()),
        recovery(found),
        seconds(found.slowest)
    );
    if !found.answers.is_empty() {
        let _ = write!(line, "; {}", answers(found));
    }
    for note in notes(found) {
        let _ = write!(line, "; {note}");
    }
    line
}

/// A whole number with its thousands set apart.
pub fn thousands(number: u64) -> String {
    apart(&number.to_string())
}

/// So many a second, rounded, with its thousands set apart.
pub fn rate(a_second: f64) -> String {
    apart(&format!("{a_second:.0}"))
}

fn apart(digits: &str) -> String {
    let mut told = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            told.push(',');
        }
        told.push(digit);
    }
    told
}

/// How many events, or, with a mark, how many groups where a row knows no events.
fn of_events(events: u64, groups: u64) -> String {
    match groups {
        0 => thousands(events),
        groups => format!("{} ¹", thousands(groups)),
    }
}

fn lost(found: &Findings) -> String {
    match (found.lost(), found.expected_losses.iter().sum()) {
        (lost, 0) => thousands(lost),
        (0, expected) => format!("{} (expected)", thousands(expected)),
        (lost, expected) => format!("{} and {} (expected)", thousands(lost), thousands(expected)),
    }
}

fn expected_losses(found: &Findings) -> String {
    let losses = found.expected_losses.iter().map(|lost| thousands(*lost));
    format!(
        "Acknowledged events lost, as they must be expected to be, run by run: {}",
        losses.collect::<Vec<_>>().join("; ")
    )
}

/// Each form's, with its name.
fn notes(found: &Findings) -> impl Iterator<Item = String> {
    found.notes.iter().map(|(form, told)| match *form {
        "" => told.clone(),
        form => format!("{form}: {told}"),
    })
}

fn answers(found: &Findings) -> String {
    let told = found
        .answers
        .iter()
        .map(|(answer, times)| format!("{answer} × {}", thousands(*times)));
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
        (memory_kb + (1 << 19)) >> 20,
        // Without what a distribution calls its build.
        read("/proc/sys/kernel/osrelease")
            .trim()
            .split('-')
            .next()
            .unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let told = [0, 999, 1_000, 85_908, 4_330_828].map(thousands);
        assert_eq!(told, ["0", "999", "1,000", "85,908", "4,330,828"]);
    }
}
