//! Power cuts, in memory: the embedded store on a disk that loses what was never synced.
//!
//! A seed is some lives of one store. Each ends by a power cut at any operation, by the death of the
//! process alone, or after a sync that failed; a write may fail in between. What was acknowledged has
//! to be there in the next life, whole groups only, and what is sent again under its key counts once.
//! A seed replays one run exactly, save where the keeper works beside it (every other seed).

mod model;
mod tears;

use std::{
    collections::HashMap,
    ops::AddAssign,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use adapters::email_domains::{
    Embedded,
    embedded::{
        EmbeddedOptions, OpenError,
        disk::{Disk, SimulatedDisk},
        testing::{self, BY_HAND, GROWING},
    },
};
use anyhow::{Context, bail, ensure};
use business::{
    email_domains::model::{Changes, DomainName, Group, GroupId, Key, Mark, Member, WriterId},
    kernel::{ErrorKind, UnixSeconds},
};
use fastrand::Rng;
use foundation::supervision::Shutdown;

use self::model::Model;
pub use self::tears::{Torn, tear_the_last_record};
use crate::journal;

/// Segments of a few records, and the keeper always at work.
const SHORT: EmbeddedOptions = EmbeddedOptions {
    segment_bytes: 700,
    snapshot_after_bytes: 2_000,
    ..BY_HAND
};

const LIVES: u64 = 6;
/// For how long a store may refuse what it is given after a write that failed: on a busy machine its
/// keeper may come late.
const REFUSES_WITHIN: Duration = Duration::from_secs(10);
const DOMAINS: u8 = 20;

/// What was done to stores that kept their promises.
#[derive(Clone, Copy, Default, Debug)]
pub struct Survived {
    /// How often the power failed.
    pub power_losses: u64,
    /// How often only the process was gone.
    pub process_deaths: u64,
    /// Of these lives, those that a failed sync ended.
    pub failed_syncs: u64,
    /// How many writes failed.
    pub failed_writes: u64,
    /// How many groups were acknowledged.
    pub groups: u64,
    /// How many groups had an outcome that was unknown.
    pub unknown: u64,
    /// How many groups were sent again that were not acknowledged: refused, or of unknown outcome.
    pub resent: u64,
}

impl AddAssign for Survived {
    fn add_assign(&mut self, other: Self) {
        self.power_losses += other.power_losses;
        self.process_deaths += other.process_deaths;
        self.failed_syncs += other.failed_syncs;
        self.failed_writes += other.failed_writes;
        self.groups += other.groups;
        self.unknown += other.unknown;
        self.resent += other.resent;
    }
}

/// Lives through seeds from `first_seed` on, on all cores, until the power has failed so often, or
/// the time is over.
///
/// # Errors
/// What was broken, and with which seed.
pub fn lose_power(
    first_seed: u64,
    power_losses: u64,
    within: Duration,
) -> anyhow::Result<Survived> {
    let deadline = Instant::now() + within;
    let (next, lost) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || -> anyhow::Result<Survived> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let mut sum = Survived::default();
        while lost.load(Ordering::Relaxed) < power_losses && Instant::now() < deadline {
            let seed = first_seed.wrapping_add(next.fetch_add(1, Ordering::Relaxed));
            let survived = runtime
                .block_on(lives(seed))
                .inspect_err(|_| lost.store(u64::MAX / 2, Ordering::Relaxed))
                .with_context(|| format!("seed {seed}"))?;
            lost.fetch_add(survived.power_losses, Ordering::Relaxed);
            sum += survived;
        }
        Ok(sum)
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut sum = Survived::default();
        for worker in workers {
            let worked = worker.join().map_err(|_| anyhow::anyhow!("a panic"))?;
            sum += worked?;
        }
        Ok(sum)
    })
}

/// Some lives of one store.
async fn lives(seed: u64) -> anyhow::Result<Survived> {
    let mut rng = Rng::with_seed(seed);
    let options = match rng.u8(..8) {
        0 | 1 => GROWING,
        2 | 3 => SHORT,
        _ => BY_HAND,
    };
    let mut disk = disk_with_a_store(rng.u128(..))?;
    let mut model = Model::default();
    let mut survived = Survived::default();
    for life in 0..LIVES {
        // A snapshot takes some 800 operations: let some lives end before one, and some within.
        match rng.u8(..8) {
            0 => {
                let syncs = rng.u64(..50);
                disk.fail_sync_after(syncs);
                // Most operations are writes that are synced at once.
                disk.cut_power_after(2 * syncs + rng.u64(..60));
            }
            1..4 => disk.cut_power_after(rng.u64(..100)),
            _ => disk.cut_power_after(rng.u64(..3_000)),
        }
        live(&disk, options, life, &mut model, &mut rng, &mut survived)
            .await
            .with_context(|| format!("life {life}"))?;
        survived.failed_syncs += u64::from(disk.syncs_after_failure() > 0);
        disk = match rng.u8(..4) {
            0 => {
                survived.process_deaths += 1;
                disk.after_process_death()
            }
            _ => {
                survived.power_losses += 1;
                disk.after_power_loss(&mut rng)
            }
        };
    }
    disk = disk.after_power_loss(&mut rng);
    survived.power_losses += 1;
    let store = open(options, &disk).context("it cannot be opened")?;
    model.meet(&store, &mut rng).await?;
    model.settle(&store).await?;
    Ok(survived)
}

/// One life: until a fault ends it, or a thousand groups are recorded.
async fn live(
    disk: &SimulatedDisk,
    options: EmbeddedOptions,
    life: u64,
    model: &mut Model,
    rng: &mut Rng,
    survived: &mut Survived,
) -> anyhow::Result<()> {
    let store = match open(options, disk) {
        Ok(store) => store,
        Err(error @ OpenError::Corrupt { .. }) => bail!("it cannot be opened: {error}"),
        Err(error) => {
            ensure!(disk.is_lost(), "it cannot be opened: {error}");
            return Ok(());
        }
    };
    model.meet(&store, rng).await?;
    let writer = WriterId(u128::from(life) + 1);
    let mut sequence = 0;
    let mut refused_since = None;
    while sequence < 1_000 {
        sequence += 1;
        let id = GroupId { writer, sequence };
        let group = match model.pending.take() {
            Some(pending) => {
                survived.resent += 1;
                pending
            }
            None => random_group(rng, id, &model.marks),
        };
        // It makes the keeper work, and then the seed is not exactly one run any more.
        let breaks = options.segment_bytes != BY_HAND.segment_bytes && refused_since.is_none();
        if breaks && rng.u8(..16) == 0 {
            survived.failed_writes += 1;
            disk.fail_write_after_bytes(rng.usize(..400));
        }
        match model.record(&store, &group).await? {
            Ok(()) => {
                refused_since = None;
                survived.groups += 1;
            }
            Err(kind) => {
                survived.unknown += u64::from(kind == ErrorKind::Ambiguous);
                model.pending = Some(group);
                // It is not shown either.
                model.check(&store).await?;
                if disk.is_lost() {
                    return Ok(());
                }
                // A write that failed is one reason; there is no other.
                ensure!(
                    kind == ErrorKind::Unavailable && disk.failed_writes() > 0,
                    "not recorded, though the disk is well: {kind:?}"
                );
                // It is over, and what it left is cleared away beside this.
                let since = refused_since.get_or_insert_with(Instant::now);
                ensure!(
                    since.elapsed() < REFUSES_WITHIN,
                    "it goes on to refuse after a write that failed"
                );
                thread::sleep(Duration::from_millis(1));
                sequence -= 1;
                continue;
            }
        }
        model.check(&store).await?;
        let by_hand = options.snapshot_after_bytes == u64::MAX;
        if by_hand
            && rng.u8(..5) == 0
            && let Err(error) = store.snapshot()
        {
            ensure!(
                disk.is_lost() || disk.failed_writes() > 0,
                "no snapshot, though the disk is well: {error}"
            );
            return Ok(());
        }
    }
    Ok(())
}

/// A disk with an empty store of this id, which decides where in the files a domain stands.
fn disk_with_a_store(id: u128) -> anyhow::Result<SimulatedDisk> {
    let disk = SimulatedDisk::default();
    let mut file = disk.create(&journal::file_name(1))?;
    file.write_at(&journal::header(id, 1), 0)?;
    file.sync()?;
    disk.sync_directory()?;
    Ok(disk)
}

fn open(options: EmbeddedOptions, disk: &SimulatedDisk) -> Result<Embedded, OpenError> {
    testing::open(options, disk, &Shutdown::new()).map(|(store, _)| store)
}

fn name(number: u8) -> anyhow::Result<DomainName> {
    Ok(DomainName::parse(&format!("d{number}.example"))?)
}

fn random_group(rng: &mut Rng, id: GroupId, marks: &HashMap<u128, u64>) -> Group {
    let formed_at = UnixSeconds::from(rng.u32(..));
    let members = (0..rng.usize(1..6)).map(|_| {
        let mut changes = Changes::default();
        for _ in 0..rng.usize(1..5) {
            if let Ok(name) = name(rng.u8(..DOMAINS)) {
                changes.push(name.borrowed(), 1 + rng.u32(..3), rng.u32(..2));
            }
        }
        let new = Mark {
            key: Key {
                hash: rng.u128(..),
                stamped_at: rng.bool().then(|| rng.u32(1..).into()),
            },
            fingerprint: rng.u64(..),
        };
        let mark = match rng.u8(..4) {
            0 => Some(new),
            // One that counted already, mostly with the same payload.
            1 => nth(rng, marks).map(|(hash, fingerprint)| Mark {
                key: Key { hash, ..new.key },
                fingerprint: if rng.u8(..4) > 0 {
                    fingerprint
                } else {
                    new.fingerprint
                },
            }),
            _ => None,
        };
        Arc::new(Member { mark, changes })
    });
    Group {
        id: Some(id),
        formed_at,
        members: members.collect(),
    }
}

/// Any one of the marks; by a seed always the same, in whatever order the map has them.
fn nth(rng: &mut Rng, marks: &HashMap<u128, u64>) -> Option<(u128, u64)> {
    let from = rng.u128(..);
    let distance = |(hash, _): &(&u128, &u64)| hash.wrapping_sub(from);
    marks
        .iter()
        .min_by_key(distance)
        .map(|(hash, fingerprint)| (*hash, *fingerprint))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn nothing_acknowledged_is_lost_to_power_cuts() {
        let survived = lose_power(0, 200, Duration::from_secs(60)).unwrap();
        assert!(
            survived.groups > 500 && survived.resent > 20,
            "{survived:?}"
        );
    }

    #[test]
    fn a_seed_is_one_run() {
        let run = |seed| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            format!("{:?}", runtime.block_on(lives(seed)).unwrap())
        };
        let by_hand = (0..40).filter(|seed| Rng::with_seed(*seed).u8(..8) > 3);
        for seed in by_hand {
            assert_eq!(run(seed), run(seed), "seed {seed}");
        }
    }
}
