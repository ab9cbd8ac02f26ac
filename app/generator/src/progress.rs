//! How far a run has come, on standard error: a bar on a terminal, plain lines elsewhere.

use std::cell::Cell;
use std::fmt;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, HumanFloatCount, ProgressBar, ProgressState, ProgressStyle};

/// How often a plain line is written.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// The progress of one phase.
pub(crate) enum Progress {
    Bar(ProgressBar),
    Lines(Lines),
}

pub(crate) struct Lines {
    label: &'static str,
    unit: &'static str,
    total: u64,
    last: Cell<Instant>,
}

impl Progress {
    /// Begins a phase: `label` says what is done, `unit` what is counted.
    pub(crate) fn start(label: &'static str, unit: &'static str, total: u64) -> Self {
        if stderr().is_terminal() {
            let style = ProgressStyle::with_template(
                "{prefix:<8} {wide_bar:.cyan/black.bright} {percent:>3} %  {human_pos} of {human_len} {msg}  {rate:.dim}  {eta:.dim}",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("━╸─")
            .with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
                write!(out, "{:.0}/s", HumanFloatCount(state.per_sec().round())).ok();
            });
            let bar = ProgressBar::new(total)
                .with_style(style)
                .with_prefix(label)
                .with_message(unit);
            Self::Bar(bar)
        } else {
            Self::Lines(Lines {
                label,
                unit,
                total,
                last: Cell::new(Instant::now()),
            })
        }
    }

    pub(crate) fn show(&self, position: u64) {
        match self {
            Self::Bar(bar) => bar.set_position(position),
            Self::Lines(lines) if lines.last.get().elapsed() >= LINE_EVERY => {
                lines.last.set(Instant::now());
                lines.write(position);
            }
            Self::Lines(_) => {}
        }
    }

    /// For what is too short to be shown.
    pub(crate) fn hidden() -> Self {
        Self::Bar(ProgressBar::hidden())
    }

    /// Ends the phase. The bar goes: the report follows.
    pub(crate) fn finish(&self, position: u64) {
        match self {
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::Lines(lines) => lines.write(position),
        }
    }
}

impl Lines {
    fn write(&self, position: u64) {
        let (position, total) = (HumanCount(position), HumanCount(self.total));
        eprintln!("{}: {position} of {total} {}", self.label, self.unit);
    }
}
