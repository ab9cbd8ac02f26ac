//! What this process may take: open files, of which every connection is one, and memory for the
//! events on their way.

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Room for the standard streams, the runtimes and what libraries open.
const SPARE: u64 = 64;

/// The most events on their way at a time: a gigabyte or two at worst, bodies included.
const MAX_UNDERWAY: u64 = 4_000_000;

/// Sees to it that `connections` with `bulk` events each fit into memory.
///
/// # Errors
/// They are too many.
pub(crate) fn allow_bulk(connections: u32, bulk: u32) -> anyhow::Result<()> {
    ensure!(
        u64::from(connections) * u64::from(bulk) <= MAX_UNDERWAY,
        "{connections} connections with {bulk} events each are more than {MAX_UNDERWAY} events at a time"
    );
    Ok(())
}

/// Raises this process's soft limit on open files where `connections` ask for more.
///
/// # Errors
/// The hard limit is too low.
pub(crate) fn allow_connections(connections: u32, threads: u32) -> anyhow::Result<()> {
    // A runtime keeps three files of its own.
    let needed = u64::from(connections) + 3 * u64::from(threads) + SPARE;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|soft| soft >= needed) {
        return Ok(());
    }
    ensure!(
        limit.maximum.is_none_or(|hard| hard >= needed),
        "{connections} connections need {needed} open files; the hard limit here is {} (see `ulimit -Hn`)",
        limit.maximum.unwrap_or_default()
    );
    let raised = Rlimit {
        current: Some(needed),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).context("cannot raise the limit on open files")
}
