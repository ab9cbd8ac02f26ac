//! One request at a time on an idle server: what it takes longer than the bare server should be
//! one sync and little more.

use std::path::Path;

use crate::{
    client::{self, LONE},
    fleet::Fleet,
    keys::Keys,
    machine::sync_us,
    options::Options,
    report::Line,
    row::{EMBEDDED, Subject},
    sample::{Run, median},
    server::Server,
};

pub(crate) const TITLE: &str = "A lone request";

pub(crate) const ABOUT: &str = "One connection, one PUT at a time, nobody else. `sync` is one \
    small append and fdatasync, measured in the same rounds. The differences are medians of those \
    of each round.";

const KEYS: Keys = Keys::Uniform(10_000);

pub(crate) fn measure(fleet: &mut Fleet, options: &Options) -> anyhow::Result<Vec<Line>> {
    let bare = fleet.server(Subject::Bare, KEYS)?;
    let embedded = fleet.server(EMBEDDED, KEYS)?;
    let count = if options.smoke { 100 } else { 5_000 };
    let mut rounds = Vec::new();
    // The first warms up.
    for round in 0..=options.rounds {
        rounds.push(Round {
            bare: lone(&bare, count, round)?,
            embedded: lone(&embedded, count, round)?,
            sync_us: sync(fleet.folder(), count)?,
        });
    }
    rounds.remove(0);
    let of = |figure: &dyn Fn(&Round) -> f64| Some(median(rounds.iter().map(figure)));
    let p50 = |run: &Run| run.latency.p50 * 1e3;
    let p99 = |run: &Run| run.latency.p99 * 1e3;
    let line = |id: &str, p50, p99| {
        Line::new(id)
            .figure("p50 µs", "p50_us", p50, 0)
            .figure("p99 µs", "p99_us", p99, 0)
    };
    Ok(vec![
        line("lone/bare", of(&|r| p50(&r.bare)), of(&|r| p99(&r.bare))),
        line(
            "lone/embedded",
            of(&|r| p50(&r.embedded)),
            of(&|r| p99(&r.embedded)),
        ),
        line("lone/sync", of(&|r| r.sync_us), None),
        line(
            "lone/embedded − bare",
            of(&|r| p50(&r.embedded) - p50(&r.bare)),
            None,
        ),
        line(
            "lone/embedded − bare − sync",
            of(&|r| p50(&r.embedded) - p50(&r.bare) - r.sync_us),
            None,
        ),
    ])
}

struct Round {
    bare: Run,
    embedded: Run,
    sync_us: f64,
}

fn lone(server: &Server, count: u64, seed: u64) -> anyhow::Result<Run> {
    client::run(server.address()?, LONE, KEYS, count, seed)
}

fn sync(folder: &Path, count: u64) -> anyhow::Result<f64> {
    sync_us(folder, usize::try_from(count)?)
}
