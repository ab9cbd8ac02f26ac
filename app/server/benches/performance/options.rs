//! The command line.

use clap::{Parser, Subcommand};
use regex::Regex;

/// What `make bench-quick` measures.
const QUICK: &str = concat!(
    "^(put/(bare|memory|embedded|postgres|reference)/64/10k",
    "|put/(bare|embedded|embedded.1ms)/256/10k",
    "|pipelined/(bare|embedded)/.*",
    "|bulk/(log-and-map|embedded|raw-upsert|postgres)/1000/1M",
    "|read/(bare|embedded)/10k",
    "|lone)$"
);

/// Measures catchall side by side with its controls.
#[derive(Parser)]
pub(crate) struct Arguments {
    /// Only the rows whose ids match, with their controls
    #[arg(long, value_name = "REGEX")]
    only: Option<Regex>,

    /// A useful part, in about two minutes
    #[arg(long)]
    quick: bool,

    /// All of it, but so shortly that the figures mean nothing
    #[arg(long, hide = true)]
    smoke: bool,

    /// Cargo says so to every benchmark
    #[arg(long, hide = true)]
    bench: bool,

    #[command(subcommand)]
    pub(crate) control: Option<Control>,
}

/// Runs a control, as a child of the benchmark.
#[derive(Clone, Subcommand)]
pub(crate) enum Control {
    /// A server that stores nothing
    Bare,
    /// A server that works as the reference does
    Reference {
        /// Its database
        url: String,
    },
}

/// How to measure.
pub(crate) struct Options {
    pub(crate) rounds: u64,
    /// A run takes about so long.
    pub(crate) seconds: f64,
    pub(crate) smoke: bool,
    only: Vec<Regex>,
}

impl Arguments {
    pub(crate) fn options(&self) -> anyhow::Result<Options> {
        let quick = self.quick.then(|| Regex::new(QUICK)).transpose()?;
        let (rounds, seconds) = match (self.smoke, self.quick) {
            (true, _) => (1, 0.02),
            (false, true) => (3, 1.0),
            (false, false) => (5, 2.0),
        };
        Ok(Options {
            rounds,
            seconds,
            smoke: self.smoke,
            only: self.only.iter().cloned().chain(quick).collect(),
        })
    }
}

impl Options {
    /// Whether a row is asked for.
    pub(crate) fn selects(&self, id: &str) -> bool {
        self.only.iter().all(|only| only.is_match(id))
    }
}
