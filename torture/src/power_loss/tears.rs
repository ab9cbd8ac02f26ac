use std::ops::AddAssign;

use anyhow::{Context, ensure};
use business::{
    email_domains::model::{GroupId, Outcome, WriterId},
    kernel::ErrorKind,
};
use fastrand::Rng;

use super::{BY_HAND, GROWING, Model, SimulatedDisk, open, random_group};

/// What became of torn records in stores that kept their promises.
#[derive(Clone, Copy, Default, Debug)]
pub struct Torn {
    /// How many records were torn.
    pub records: u64,
    /// How many bytes they had.
    pub bytes: u64,
    /// In how many ways.
    pub ways: u64,
    /// In how many of these the torn one counted, whole.
    pub whole: u64,
    /// How many groups that were acknowledged before had to be there, in all these ways.
    pub held: u64,
}

impl AddAssign for Torn {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.ways += other.ways;
        self.whole += other.whole;
        self.held += other.held;
    }
}

/// Tears the last record of a journal at every byte, whole up to there and with sectors of it
/// missing. What was acknowledged before is there each time; the group
/// that was torn counts whole or not at all, and once when it is sent again.
///
/// # Errors
/// What was broken.
pub fn tear_the_last_record(seed: u64) -> anyhow::Result<Torn> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut rng = Rng::with_seed(seed);
    let mut found = Torn::default();
    for (options, groups) in [(BY_HAND, 4), (GROWING, 1)] {
        let disk = SimulatedDisk::default();
        let store = open(options, &disk)?;
        let mut model = Model::default();
        let writer = WriterId(1);
        if options.segment_bytes == GROWING.segment_bytes {
            // With it comes the next segment, so that the keeper has nothing to write.
            store.snapshot()?;
        }
        for sequence in 1..=groups {
            let group = random_group(&mut rng, GroupId { writer, sequence }, &model.marks);
            let recorded = runtime.block_on(model.record(&store, &group))?;
            recorded.map_err(|kind| anyhow::anyhow!("{}", kind.as_str()))?;
        }
        // The record is written, and its sync is one operation too many.
        disk.cut_power_after(1);
        let torn = loop {
            let group = random_group(
                &mut rng,
                GroupId {
                    writer,
                    sequence: 9,
                },
                &model.marks,
            );
            // One that counts nothing is not written.
            if model.outcomes_of(&group).contains(&Outcome::Counted) {
                break group;
            }
        };
        let recorded = runtime.block_on(model.record(&store, &torn))?;
        ensure!(
            recorded == Err(ErrorKind::Ambiguous),
            "a sync that failed: {recorded:?}"
        );
        drop(store);
        found.records += 1;
        found.bytes += disk.unsynced_bytes() as u64;
        for bytes in 0..=disk.unsynced_bytes() {
            let masks = [u64::MAX, u64::MAX << 1, rng.u64(..), rng.u64(..)];
            for mask in masks {
                let disk = disk.torn(bytes, |sector| mask >> (sector % 64) & 1 == 1);
                let mut model = model.clone();
                model.pending = Some(torn.clone());
                let met = runtime.block_on(async {
                    let store = open(options, &disk).context("it cannot be opened")?;
                    let is_whole = model.meet(&store, &mut rng).await?;
                    model.settle(&store).await?;
                    anyhow::Ok(is_whole)
                });
                let is_whole =
                    met.with_context(|| format!("seed {seed}, torn at byte {bytes}, {mask:x}"))?;
                found.ways += 1;
                found.whole += u64::from(is_whole);
                found.held += groups;
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_torn_anywhere_counts_whole_or_not_at_all() {
        let torn = tear_the_last_record(1).unwrap();
        assert!(
            torn.ways > 500 && (1..torn.ways).contains(&torn.whole),
            "{torn:?}"
        );
    }
}
