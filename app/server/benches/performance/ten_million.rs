//! What ten million domains take in an embedded store: memory, time to open, pauses, disk.

use std::{
    fs,
    path::Path,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::{
    client::{self, LONE},
    fleet::Fleet,
    journal,
    keys::Keys,
    options::Options,
    report::Line,
    row::EMBEDDED,
    sample::{median, percentile},
    server::{self, Server},
};

pub(crate) const TITLE: &str = "Ten million domains, embedded";

pub(crate) const ABOUT: &str = "The store holds ten million domains with names of 17 and 18 \
    bytes. It is opened after SIGKILL, from the start of the process to its word that it serves: \
    right after a snapshot, and with at least three million folded changes behind one; the \
    difference is the replay. The files are in the page cache then. Pauses are those of a lone PUT connection, one request at a time, \
    beside 100,000 events a second in requests of 100: while a snapshot is written, and, as the \
    control, before it.";

const KEYS: Keys = Keys::Uniform(10_000_000);

/// Folded changes that are replayed: an event each, but for the few that meet in a group.
const CHANGES: u32 = 3_200_000;

pub(crate) fn measure(fleet: &mut Fleet, options: &Options) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    let opens = options.rounds.min(3);

    let server = fleet.server(EMBEDDED, KEYS)?;
    journal::force_snapshot(&server)?;
    drop(server);
    let (bare, server) = open(fleet, opens)?;
    lines.push(line(
        "10M/open snapshot",
        "s",
        bare.seconds,
        format!("{} records behind it", bare.replayed),
    ));
    let resident = server.processes.resident_bytes()?;
    let peak = server.processes.peak_mib()? * 1_048_576.0;
    for (id, bytes) in [("10M/resident", resident), ("10M/peak of opening", peak)] {
        let whole = format!("{:.0} MiB in all", bytes / 1_048_576.0);
        lines.push(line(id, "bytes a domain", bytes / bare.domains, whole));
    }

    journal::send(&server, CHANGES, 2_000)?;
    drop(server);
    let (full, server) = open(fleet, opens)?;
    let replayed = full.replayed - bare.replayed;
    lines.push(line(
        "10M/open snapshot and journal",
        "s",
        full.seconds,
        format!("{replayed} records of {CHANGES} events more"),
    ));
    lines.push(line(
        "10M/replay",
        "changes/s",
        f64::from(CHANGES) / (full.seconds - bare.seconds),
        "from the difference of the two".into(),
    ));

    lines.extend(pauses(&server, &fleet.data_folder(EMBEDDED, KEYS))?);
    Ok(lines)
}

fn line(id: &str, unit: &'static str, figure: f64, what: String) -> Line {
    let decimals = if figure < 1_000.0 { 2 } else { 0 };
    Line::new(id)
        .figure("figure", "figure", Some(figure), decimals)
        .text("unit", "unit", unit.to_owned())
        .text("what", "what", what)
}

struct Opening {
    seconds: f64,
    domains: f64,
    replayed: u64,
}

/// Kills the server and opens the store, a few times; the last server stays.
fn open(fleet: &mut Fleet, times: u64) -> anyhow::Result<(Opening, Rc<Server>)> {
    let mut seconds = Vec::new();
    for _ in 0..times {
        fleet.release();
        let server = fleet.server(EMBEDDED, KEYS)?;
        seconds.push(server.start_took.as_secs_f64());
    }
    let server = fleet.server(EMBEDDED, KEYS)?;
    let opened = server.opened.as_ref().context("nothing was opened")?;
    let opening = Opening {
        seconds: median(seconds),
        domains: opened["domains"].as_f64().context("no domains")?,
        replayed: opened["replayed_records"].as_u64().context("no records")?,
    };
    Ok((opening, server))
}

/// The times of lone PUTs while a snapshot is written under load, and before it.
fn pauses(server: &Server, data: &Path) -> anyhow::Result<Vec<Line>> {
    journal::fill(server, 20e6)?;
    let due = journal::bound(server)?;
    let count_before = journal::snapshots(server)?;
    let seconds_before = server.metric("catchall_snapshot_seconds_sum")?;
    let flags = "--rate 100000 --events 12000000 --bulk 100 --domains 10000000 --connections 64";
    let mut load = server::sender(&server.url, flags)?;
    let slices = lone_until_snapshot(server, count_before, data);
    let _ = load.kill();
    let _ = load.wait();
    let (slices, Seen { end, most_mib }) = slices?;
    let took = server.metric("catchall_snapshot_seconds_sum")? - seconds_before;
    // Noticed a little late; so the window reaches back a little further.
    let begin = end - Duration::from_secs_f64(took + 0.2);
    let (during, before): (Vec<_>, Vec<_>) = slices
        .into_iter()
        .partition(|slice| slice.begun + slice.took >= begin);
    let mut lines = Vec::new();
    for (when, slices) in [("snapshot", during), ("no snapshot", before)] {
        let mut ms: Vec<f64> = slices.into_iter().flat_map(|slice| slice.ms).collect();
        let p50 = percentile(&mut ms, 0.5);
        let (p99, p999) = (percentile(&mut ms, 0.99), percentile(&mut ms, 0.999));
        lines.push(line(
            &format!("10M/longest pause, {when}"),
            "ms",
            percentile(&mut ms, 1.0),
            format!(
                "of {} PUTs; p50 {p50:.2}, p99 {p99:.2}, p99.9 {p999:.2} ms",
                ms.len()
            ),
        ));
    }
    lines.push(line("10M/snapshot", "s", took, "written under load".into()));
    lines.push(line(
        "10M/most on disk",
        "MiB",
        most_mib,
        format!(
            "while it was written: the journal, which is due for a snapshot at {:.0} MiB, the old \
             snapshot and the new one of {:.0} MiB",
            due / 1_048_576.0,
            server.metric("catchall_snapshot_bytes")? / 1_048_576.0
        ),
    ));
    Ok(lines)
}

struct Slice {
    begun: Instant,
    took: Duration,
    ms: Vec<f64>,
}

/// What was seen while the slices were sent.
struct Seen {
    /// When the snapshot was noticed.
    end: Instant,
    /// The most that all files of the store held.
    most_mib: f64,
}

/// Sends lone PUTs until a snapshot more was written. Another thread looks for it: nothing but the
/// server may keep a PUT waiting.
fn lone_until_snapshot(
    server: &Server,
    before: f64,
    data: &Path,
) -> anyhow::Result<(Vec<Slice>, Seen)> {
    let (address, watched) = (server.address()?, Arc::new(AtomicBool::new(true)));
    let sender = thread::spawn({
        let watched = Arc::clone(&watched);
        move || {
            let mut slices = Vec::new();
            for seed in 0.. {
                if !watched.load(Ordering::Relaxed) {
                    break;
                }
                let begun = Instant::now();
                let (took, ms) = client::rounds(address, LONE, KEYS, 100, seed)?;
                slices.push(Slice { begun, took, ms });
            }
            anyhow::Ok(slices)
        }
    });
    let seen = until_snapshot(server, before, data);
    watched.store(false, Ordering::Relaxed);
    let slices = sender
        .join()
        .map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    Ok((slices, seen?))
}

fn until_snapshot(server: &Server, before: f64, data: &Path) -> anyhow::Result<Seen> {
    const PATIENCE: Duration = Duration::from_secs(100);
    const PERIOD: Duration = Duration::from_millis(50);
    let start = Instant::now();
    let mut most_mib = 0.0_f64;
    while journal::snapshots(server)? <= before {
        ensure!(start.elapsed() < PATIENCE, "no snapshot under load");
        most_mib = most_mib.max(folder_mib(data)?);
        thread::sleep(PERIOD);
    }
    Ok(Seen {
        end: Instant::now(),
        most_mib,
    })
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn folder_mib(folder: &Path) -> anyhow::Result<f64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        // A file may be removed meanwhile.
        bytes += entry?.metadata().map_or(0, |metadata| metadata.len());
    }
    Ok(bytes as f64 / 1_048_576.0)
}
