use business::{
    email_domains::{
        model::{FoldedChange, Tally},
        ports::Totals,
        verdict::{Verdict, VerdictPolicy},
    },
    kernel::UnixSeconds,
};
use hashbrown::{HashTable, hash_table::Entry};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::arena::Arena;

/// A part of the domains, by their hash.
#[derive(Default)]
pub(super) struct Shard {
    index: HashTable<u32>,
    pub(super) arena: Arena,
    pub(super) totals: Totals,
}

/// What is added to one domain.
pub(super) struct Addition<'a> {
    pub(super) hash: u64,
    pub(super) name: &'a [u8],
    pub(super) delivered: u64,
    pub(super) bounced: u64,
    pub(super) at: UnixSeconds,
}

impl<'a> Addition<'a> {
    pub(super) fn of(change: &FoldedChange<'a>, hash: u64, at: UnixSeconds) -> Self {
        Self {
            hash,
            name: change.domain.as_str().as_bytes(),
            delivered: change.delivered,
            bounced: change.bounced,
            at,
        }
    }
}

impl Shard {
    /// Where the record of this name begins.
    pub(super) fn find(&self, hash: u64, name: &[u8]) -> Option<u32> {
        let found = self.index.find(hash, |&at| self.arena.name(at) == name);
        found.copied()
    }

    /// Where the record of this hash may begin, without a look at it. Nearly always right.
    pub(super) fn guess(&self, hash: u64) -> u32 {
        self.index.find(hash, |_| true).copied().unwrap_or(0)
    }

    /// Says how the verdict changed, if it did: from, to.
    pub(super) fn add(
        &mut self,
        addition: &Addition<'_>,
        seed: u64,
        policy: VerdictPolicy,
    ) -> Option<(Verdict, Verdict)> {
        let Self {
            index,
            arena,
            totals,
        } = self;
        let entry = index.entry(
            addition.hash,
            |&at| arena.name(at) == addition.name,
            |&at| xxh3_64_with_seed(arena.name(at), seed),
        );
        let plus = |tally: Tally| tally.plus(addition.delivered, addition.bounced, addition.at);
        let (before, after) = match entry {
            Entry::Occupied(found) => {
                let offset = *found.get();
                let before = arena.tally(offset);
                let after = plus(before);
                arena.update(offset, &after);
                (before, after)
            }
            Entry::Vacant(place) => {
                let after = plus(Tally::ZERO);
                place.insert(arena.push(addition.name, &after));
                totals.domains += 1;
                (Tally::ZERO, after)
            }
        };
        totals.delivered = totals.delivered.saturating_add(addition.delivered);
        totals.bounced = totals.bounced.saturating_add(addition.bounced);
        let (from, to) = policy.change(&before, &after)?;
        if let Some(count) = counter(totals, from) {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = counter(totals, to) {
            *count += 1;
        }
        Some((from, to))
    }

    /// A shard from a copy of its arena. `None` when the bytes are no arena, or a name in it does
    /// not belong here.
    pub(super) fn from_arena(
        bytes: &[u8],
        seed: u64,
        policy: VerdictPolicy,
        belongs: impl Fn(u64) -> bool,
    ) -> Option<Self> {
        let (arena, count) = Arena::from_bytes(bytes)?;
        let mut index = HashTable::with_capacity(count);
        let mut totals = Totals::default();
        let mut from = 0;
        while let Some((offset, end)) = arena.record_from(from) {
            let hash = xxh3_64_with_seed(arena.name(offset), seed);
            if !belongs(hash) {
                return None;
            }
            index.insert_unique(hash, offset, |&at| xxh3_64_with_seed(arena.name(at), seed));
            let tally = arena.tally(offset);
            totals.domains += 1;
            totals.delivered = totals.delivered.saturating_add(tally.delivered);
            totals.bounced = totals.bounced.saturating_add(tally.bounced);
            if let Some(count) = counter(&mut totals, policy.verdict(&tally)) {
                *count += 1;
            }
            from = end;
        }
        Some(Self {
            index,
            arena,
            totals,
        })
    }
}

/// The counter of one verdict; the unknown are not counted, they are the rest.
fn counter(totals: &mut Totals, verdict: Verdict) -> Option<&mut u64> {
    match verdict {
        Verdict::CatchAll => Some(&mut totals.catch_all),
        Verdict::NotCatchAll => Some(&mut totals.not_catch_all),
        Verdict::Unknown => None,
    }
}
