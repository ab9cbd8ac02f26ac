//! Who tests the tests: bugs that are put in on purpose, each of which has to be caught.
//!
//! Each is a line or a few in the code, asked for by its name
//! ([`foundation::planted`]), in the program `torture-planted` alone.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail, ensure};
use tokio::{process::Command, time::timeout};

use crate::{
    checker::Violation,
    rows::{
        Amount, Ground, Row, bombs, clock, cuts, embedded, overload, postgres, redis, slow, spool,
    },
};

/// The longest that one may take to be caught, in one run.
pub const WITHIN: Duration = Duration::from_secs(20);
/// How many runs there are: on a busy machine one may be too slow.
const RUNS: u64 = 3;

/// A bug.
pub struct Bug {
    /// By which it is asked for.
    pub name: &'static str,
    /// What is wrong then.
    pub what: &'static str,
    /// What finds it.
    pub trap: Trap,
    /// What stands in the words of a violation that it causes; one of them does. Another violation
    /// would say that something else is wrong.
    pub signs: &'static [&'static str],
}

impl Bug {
    fn shows_in(&self, told: &str) -> bool {
        self.signs.iter().any(|sign| told.contains(sign))
    }
}

/// What finds a bug.
#[derive(Clone, Copy)]
pub enum Trap {
    /// Power cuts in memory.
    PowerLoss,
    /// A row, with so many rounds.
    Row(&'static Row, u64),
}

const SIGTERM: Trap = Trap::Row(&embedded::SIGTERM, 2);
const BLACK_HOLE: Trap = Trap::Row(&postgres::BLACK_HOLE, 1);
const KILLED: Trap = Trap::Row(&postgres::KILLED, 2);
const KILLED_IN_COMMIT: Trap = Trap::Row(&postgres::KILLED_IN_COMMIT, 1);
const CUT: Trap = Trap::Row(&postgres::CUT, 1);
const SLOW_STORE: Trap = Trap::Row(&redis::SLOW_STORE, 1);
const SPOOL: Trap = Trap::Row(&spool::AWAY, 2);
const CRASH: Trap = Trap::Row(&spool::CRASHED, 2);

const LOST: &str = "lost:";
const DOUBLE: &str = "double:";
/// A store after a power cut: it counts something else, cannot be opened, or answers otherwise.
const COUNTS: &str = ") instead of (";
const JOURNAL: &str = "cannot be opened: journal-";
const SNAPSHOT: &str = "cannot be opened: snapshot-";
const OUTCOMES: &str = "outcomes [";

/// All of them.
pub const BUGS: &[Bug] = &[
    bug(
        "acknowledge-before-sync",
        "A record is acknowledged and never synced.",
        Trap::PowerLoss,
        &[JOURNAL, COUNTS],
    ),
    bug(
        "skip-directory-sync",
        "The name of a new segment is not made durable.",
        Trap::PowerLoss,
        &[JOURNAL, COUNTS],
    ),
    bug(
        "swallow-sync-error",
        "A sync that failed is taken for one that did not.",
        Trap::PowerLoss,
        &[JOURNAL, COUNTS],
    ),
    bug(
        "sync-again",
        "A sync that failed is made again.",
        Trap::PowerLoss,
        &[JOURNAL, COUNTS],
    ),
    bug(
        "snapshot-before-sync",
        "A snapshot gets its name before it is synced.",
        Trap::PowerLoss,
        &[SNAPSHOT],
    ),
    bug(
        "journal-removed-early",
        "A journal goes before its snapshot is there.",
        Trap::PowerLoss,
        &[JOURNAL, COUNTS],
    ),
    bug(
        "snapshot-without-marks",
        "A snapshot lacks the idempotency keys.",
        Trap::PowerLoss,
        &[OUTCOMES],
    ),
    bug(
        "torn-tail-accepted",
        "A checksum is not looked at.",
        Trap::PowerLoss,
        &[JOURNAL, COUNTS],
    ),
    bug(
        "stale-record-after-roll",
        "A record is made for another segment.",
        Trap::PowerLoss,
        &[JOURNAL, COUNTS],
    ),
    bug(
        "replay-twice",
        "What a snapshot holds is replayed on it.",
        Trap::PowerLoss,
        &[COUNTS],
    ),
    bug(
        "shown-before-sync",
        "Readers see what may be gone.",
        Trap::PowerLoss,
        &[COUNTS],
    ),
    bug(
        "count-before-mark",
        "Counts are journalled, their keys are not.",
        Trap::PowerLoss,
        &[OUTCOMES],
    ),
    bug(
        "fold-before-marks",
        "Counts are added up before keys are looked at.",
        Trap::PowerLoss,
        &[COUNTS],
    ),
    bug(
        "duplicate-acknowledged-early",
        "A repeat is answered before the first.",
        Trap::PowerLoss,
        &[OUTCOMES],
    ),
    bug(
        "writer-not-remembered",
        "A group counts each time it is recorded.",
        Trap::PowerLoss,
        &[COUNTS, "answered otherwise the second time"],
    ),
    bug(
        "drop-last-group-on-sigterm",
        "A stopping server records no more.",
        SIGTERM,
        &[LOST],
    ),
    bug(
        "new-id-at-drain",
        "What waits in the spool gets a new id.",
        SPOOL,
        &[DOUBLE],
    ),
    bug(
        "spool-removed-early",
        "The spool forgets before PostgreSQL has it.",
        CRASH,
        &[LOST],
    ),
    bug(
        "past-the-spool",
        "A writer's next group goes past what waits.",
        SPOOL,
        &[LOST],
    ),
    bug(
        "never-behind",
        "Reads do not say that they are behind.",
        SPOOL,
        &[LOST, "stale read:"],
    ),
    bug(
        "asynchronous-commit",
        "PostgreSQL need not write before it answers.",
        KILLED,
        &[LOST],
    ),
    bug(
        "mark-in-another-transaction",
        "Keys are committed, then counts.",
        CUT,
        &[LOST],
    ),
    bug(
        "unknown-taken-for-counted",
        "A lost COMMIT is acknowledged.",
        BLACK_HOLE,
        &[LOST],
    ),
    bug(
        "unknown-told-as-refused",
        "A lost COMMIT is told as undone.",
        KILLED_IN_COMMIT,
        &[DOUBLE],
    ),
    bug(
        "new-id-at-retry",
        "A group is tried again under another id.",
        CUT,
        &[DOUBLE],
    ),
    bug(
        "cache-before-commit",
        "The cache has what is not committed.",
        SLOW_STORE,
        &["a read went back:", "a read of what was never sent:"],
    ),
    bug(
        "entry-stamped-at-its-end",
        "A cached entry looks younger than it is.",
        SLOW_STORE,
        &["stale read:"],
    ),
    bug(
        "queue-without-bound",
        "As many wait for a committer as come.",
        Trap::Row(&overload::EMBEDDED, 1),
        &[" wait, of "],
    ),
    bug(
        "wait-without-bound",
        "More come to wait, however long the first has waited.",
        Trap::Row(&overload::STALLS, 1),
        &["whoever came behind one that waited"],
    ),
    bug(
        "body-without-limit",
        "One body may take what all may take together.",
        Trap::Row(&bombs::BOMBS, 1),
        &["is answered"],
    ),
    bug(
        "second-head-without-deadline",
        "Only the first head of a connection has to come in time.",
        Trap::Row(&slow::SLOWLORIS, 1),
        &["head of a second request are never cut"],
    ),
    bug(
        "horizon-not-looked-at",
        "A key that may be forgotten is taken for one that never counted.",
        Trap::Row(&clock::EMBEDDED, 3),
        &["a key counts once more"],
    ),
    bug(
        "broken-off-body-accepted",
        "What came of a body is taken for all of it.",
        Trap::Row(&cuts::CUTS, 3),
        &["a body that is not whole"],
    ),
];

const fn bug(
    name: &'static str,
    what: &'static str,
    trap: Trap,
    signs: &'static [&'static str],
) -> Bug {
    Bug {
        name,
        what,
        trap,
        signs,
    }
}

/// How a bug was caught: by what, and how soon.
pub type Caught = (String, Duration);

/// Runs a bug into its trap, with one seed after the other, until it is caught by a sign that is its own.
///
/// # Errors
/// When it is not caught, in no run.
pub async fn catch(bug: &'static Bug, ground: &Ground) -> anyhow::Result<Caught> {
    let mut why = anyhow!("there was no run");
    for run in 0..RUNS {
        let began = Instant::now();
        let ground = Ground {
            seed: ground.seed.wrapping_add(run << 32),
            ..ground.clone()
        };
        let mut foreign = None;
        let found = timeout(WITHIN, async {
            match bug.trap {
                Trap::PowerLoss => lose_power(bug, &ground).await,
                Trap::Row(row, rounds) => {
                    one_seed_after_the_other(bug, row, rounds, &ground, &mut foreign).await
                }
            }
        });
        match found.await {
            Ok(Ok(by)) => return Ok((by, began.elapsed())),
            Ok(Err(error)) => why = error,
            Err(_) => why = anyhow!("not within {WITHIN:?}, which saw {foreign:?}"),
        }
    }
    Err(why)
}

async fn one_seed_after_the_other(
    bug: &'static Bug,
    row: &Row,
    rounds: u64,
    ground: &Ground,
    foreign: &mut Option<Violation>,
) -> anyhow::Result<String> {
    for time in 1.. {
        let ground = Ground {
            seed: ground.seed.wrapping_add(time),
            bug: Some(bug.name),
            amount: Amount {
                kills: 4,
                power_losses: 0,
                rounds,
            },
            ..ground.clone()
        };
        for violation in row.on(&ground).await?.violations {
            if bug.shows_in(&violation.to_string()) {
                return Ok(format!("run {time}: {violation}"));
            }
            *foreign = Some(violation);
        }
    }
    bail!("no seed is left")
}

async fn lose_power(bug: &Bug, ground: &Ground) -> anyhow::Result<String> {
    let mut command = Command::new(&ground.planted);
    command
        .args(["power-loss", "--power-losses", "1000000"])
        .args(["--seed", &ground.seed.to_string()])
        // Should this process end before it.
        .args(["--within", &WITHIN.as_secs().to_string()])
        .env("CATCHALL_PLANTED_BUG", bug.name)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = command.output().await?;
    let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(
        output.status.code() == Some(1) && bug.shows_in(&told),
        "{output:?}"
    );
    Ok(told)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    fn planted_in(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                planted_in(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let names = text.split("planted_bug(\"").skip(1);
                found.extend(names.map(|name| name.split('"').next().unwrap().to_owned()));
            }
        }
    }

    #[test]
    fn every_bug_is_planted_and_every_planted_bug_is_known() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut planted = BTreeSet::new();
        for folder in ["business/adapters/src", "app/server/src", "app/api/src"] {
            planted_in(&root.join(folder), &mut planted);
        }
        let known: BTreeSet<_> = BUGS.iter().map(|bug| bug.name.to_owned()).collect();
        assert_eq!(planted, known);
        assert_eq!(known.len(), BUGS.len(), "one stands there twice");
        assert!(known.len() >= 12);
    }
}
