use anyhow::{Context, ensure};
use business::{
    email_domains::model::{GroupId, Outcome, WriterId},
    kernel::ErrorKind,
};
use fastrand::Rng;

use super::{BY_HAND, GROWING, Known, SimulatedDisk, open, random_group};

/// Tears the last record of a journal at every byte, whole up to there and with sectors of it
/// missing, and says in how many ways. What was acknowledged before is there each time; the group
/// that was torn counts whole or not at all, and once when it is sent again.
///
/// # Errors
/// What was broken.
pub fn tear_the_last_record(seed: u64) -> anyhow::Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut rng = Rng::with_seed(seed);
    let mut ways = 0;
    for (options, groups) in [(BY_HAND, 4), (GROWING, 1)] {
        let disk = SimulatedDisk::default();
        let store = open(options, &disk)?;
        let mut known = Known::default();
        let writer = WriterId(1);
        if options.segment_bytes == GROWING.segment_bytes {
            // With it comes the next segment, so that the keeper has nothing to write.
            store.snapshot()?;
        }
        for sequence in 1..=groups {
            let group = random_group(&mut rng, GroupId { writer, sequence }, &known.marks);
            let recorded = runtime.block_on(known.record(&store, &group))?;
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
                &known.marks,
            );
            // One that counts nothing is not written.
            if known.outcomes_of(&group).contains(&Outcome::Counted) {
                break group;
            }
        };
        let recorded = runtime.block_on(known.record(&store, &torn))?;
        ensure!(
            recorded == Err(ErrorKind::Ambiguous),
            "a sync that failed: {recorded:?}"
        );
        drop(store);
        for bytes in 0..=disk.unsynced_bytes() {
            let masks = [u64::MAX, u64::MAX << 1, rng.u64(..), rng.u64(..)];
            for mask in masks {
                ways += 1;
                let disk = disk.torn(bytes, |sector| mask >> (sector % 64) & 1 == 1);
                let mut known = Known {
                    acknowledged: known.acknowledged.clone(),
                    marks: known.marks.clone(),
                    pending: Some(torn.clone()),
                };
                let met = runtime.block_on(async {
                    let store = open(options, &disk).context("it cannot be opened")?;
                    known.meet(&store, &mut rng).await?;
                    if let Some(group) = known.pending.take() {
                        let recorded = known.record(&store, &group).await?;
                        ensure!(recorded == Ok(()), "not recorded: {recorded:?}");
                    }
                    known.check(&store).await
                });
                met.with_context(|| format!("seed {seed}, torn at byte {bytes}, {mask:x}"))?;
            }
        }
    }
    Ok(ways)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_torn_anywhere_counts_whole_or_not_at_all() {
        assert!(tear_the_last_record(1).unwrap() > 500);
    }
}
