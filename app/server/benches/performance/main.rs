//! Measures catchall beside its controls, and writes `target/bench/performance.md` and `.json`.
//! `make bench` runs it, `make bench-quick` a part of it.
//!
//! Machines are shared and noisy, so that a figure alone says little: everything is measured in
//! turn with its controls, round after round, and what counts is the median of the ratios within
//! a round.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `sections`, `row` | what is measured beside what |
//! | `rounds`, `sample` | how it is measured |
//! | `lone`, `open_loop`, `ten_million`, `journal` | what is measured in its own way |
//! | `fleet`, `server`, `unwatched`, `database`, `process` | the servers, and what they cost |
//! | `controls` | what they are compared with |
//! | `client`, `keys` | requests that `create-events` does not send |
//! | `report`, `machine`, `options` | what is printed, on which machine, and what is asked for |

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "a benchmark prints its result"
)]

mod client;
mod controls;
mod database;
mod fleet;
mod journal;
mod keys;
mod lone;
mod machine;
mod open_loop;
mod options;
mod process;
mod report;
mod rounds;
mod row;
mod sample;
mod sections;
mod server;
mod ten_million;
mod unwatched;

use std::{fs, path::Path};

use actix_web::rt::System;
use anyhow::Context as _;
use clap::Parser as _;

use crate::{
    fleet::Fleet,
    options::{Arguments, Control, Options},
    report::{Line, Report},
};

/// What catchall has, so that the controls gain by it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match &arguments.control {
        Some(Control::Bare) => System::new().block_on(controls::bare::run()),
        Some(Control::Reference { url }) => System::new().block_on(controls::reference::run(url)),
        None => measure(&arguments.options()?),
    }
}

fn measure(options: &Options) -> anyhow::Result<()> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .context("no target folder")?;
    let folder = target.join("bench");
    let data = folder.join("data");
    if data.exists() {
        // Of a run that was broken off.
        fs::remove_dir_all(&data)?;
    }
    fs::create_dir_all(&data)?;
    let (words, json) = machine::describe(&data)?;
    let words = format!(
        "{words} Medians of {} rounds, {} s each.",
        options.rounds, options.seconds
    );
    let mut fleet = Fleet::new(target, data);
    let mut report = Report::new(folder, &words, json);
    for section in sections::all() {
        let Some(section) = section.select(options) else {
            continue;
        };
        let mut lines = Vec::new();
        for group in &section.groups {
            lines.extend(rounds::measure(group, &mut fleet, options));
        }
        fleet.release();
        report.section(section.title, &section.about, lines)?;
    }
    for special in SPECIALS {
        if options.selects(special.id) {
            eprintln!("{} …", special.id);
            let lines = (special.measure)(&mut fleet, options);
            fleet.release();
            let lines = lines.unwrap_or_else(|error| vec![Line::failed(special.id, &error)]);
            report.section(special.title, special.about, lines)?;
        }
    }
    if let Some(postgres) = fleet.describe_database() {
        report.section("PostgreSQL", &postgres, Vec::new())?;
    }
    Ok(())
}

/// A table that is not made of rows under one load.
struct Special {
    /// What `--only` picks it by.
    id: &'static str,
    title: &'static str,
    about: &'static str,
    measure: fn(&mut Fleet, &Options) -> anyhow::Result<Vec<Line>>,
}

const SPECIALS: [Special; 3] = [
    Special {
        id: "lone",
        title: lone::TITLE,
        about: lone::ABOUT,
        measure: lone::measure,
    },
    Special {
        id: "open-loop",
        title: open_loop::TITLE,
        about: open_loop::ABOUT,
        measure: open_loop::measure,
    },
    Special {
        id: "10M",
        title: ten_million::TITLE,
        about: ten_million::ABOUT,
        measure: ten_million::measure,
    },
];
