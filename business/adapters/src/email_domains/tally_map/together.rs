//! Applying many changes at once.
//!
//! Among millions of domains, a record and its place in the index are hardly ever in the
//! processor's cache, and an update waits for memory three times. So some are looked at together
//! before any is updated: the processor then waits for them all at once.

use std::{hint::black_box, ops::DerefMut};

use business::{
    email_domains::{model::FoldedChange, verdict::VerdictChange},
    kernel::UnixSeconds,
};

use super::{
    SHARDS, TallyMap,
    shard::{Addition, Shard},
    shard_of,
};

/// How many are looked at together. Their shards are locked meanwhile.
pub(super) const TOGETHER: usize = 64;

/// Brings what the additions to these shards will look at into the cache.
pub(super) fn look_ahead<'a, S: DerefMut<Target = Shard> + 'a>(
    places: impl Iterator<Item = (&'a S, u64)> + Clone,
) {
    let mut guesses = [0; TOGETHER];
    for ((shard, hash), guess) in places.clone().zip(&mut guesses) {
        *guess = shard.guess(hash);
    }
    for ((shard, _), guess) in places.zip(guesses) {
        black_box(shard.arena.glance(guess));
    }
}

/// Which change belongs to which shard.
#[derive(Clone, Copy, Default)]
struct Place {
    hash: u64,
    position: usize,
}

impl TallyMap {
    /// Applies all changes, those of one shard in their order; says how verdicts changed, in the
    /// order of the changes.
    pub(crate) fn apply_all(
        &self,
        changes: &[FoldedChange<'_>],
        at: UnixSeconds,
    ) -> Vec<VerdictChange> {
        // What a single event is: it has nothing to sort.
        if let [change] = changes {
            return self.apply(change, at).into_iter().collect();
        }
        let mut verdicts = Vec::new();
        let mut shards = Vec::with_capacity(TOGETHER);
        for places in self.by_shard(changes).chunks(TOGETHER) {
            // Always in the order of shards, so that none waits for another in a circle.
            for run in places.chunk_by(|a, b| shard_of(a.hash) == shard_of(b.hash)) {
                let shard = self.shards[shard_of(run[0].hash)].write();
                shards.extend([(shard, run)]);
            }
            look_ahead(
                shards
                    .iter()
                    .flat_map(|(shard, run)| run.iter().map(move |place| (shard, place.hash))),
            );
            for (mut shard, run) in shards.drain(..) {
                for place in run {
                    let change = &changes[place.position];
                    let addition = Addition::of(change, place.hash, at);
                    if let Some((from, to)) = shard.add(&addition, self.seed, self.policy) {
                        verdicts.push((place.position, from, to));
                    }
                }
            }
        }
        verdicts.sort_unstable_by_key(|(position, ..)| *position);
        let named = verdicts
            .into_iter()
            .map(|(position, from, to)| VerdictChange {
                domain: changes[position].domain.to_name(),
                from,
                to,
            });
        named.collect()
    }

    fn apply(&self, change: &FoldedChange<'_>, at: UnixSeconds) -> Option<VerdictChange> {
        let hash = self.hash_of(change.domain);
        let addition = Addition::of(change, hash, at);
        let mut shard = self.shards[shard_of(hash)].write();
        let (from, to) = shard.add(&addition, self.seed, self.policy)?;
        drop(shard);
        Some(VerdictChange {
            domain: change.domain.to_name(),
            from,
            to,
        })
    }

    /// The changes by shard, in their order within one.
    fn by_shard(&self, changes: &[FoldedChange<'_>]) -> Vec<Place> {
        let places = changes.iter().enumerate().map(|(position, change)| Place {
            hash: self.hash_of(change.domain),
            position,
        });
        let places: Vec<_> = places.collect();
        let mut next = [0; SHARDS];
        for place in &places {
            next[shard_of(place.hash)] += 1;
        }
        let mut begin = 0;
        for count in &mut next {
            begin += std::mem::replace(count, begin);
        }
        let mut sorted = vec![Place::default(); places.len()];
        for place in places {
            let next = &mut next[shard_of(place.hash)];
            sorted[*next] = place;
            *next += 1;
        }
        sorted
    }
}
