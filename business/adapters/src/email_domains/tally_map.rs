//! A compact, sharded map from domain to tally: the memory of `Memory` and `Embedded`.
//!
//! A shard is one run of bytes, its *arena*, in which records stand one after the other and never
//! move, and an index of their offsets. A domain costs its name and 25 bytes in the arena and
//! about 8 in the index. Nothing is ever removed, so an offset names a record for good: that is
//! what a cursor holds, and an arena copied to a snapshot is loaded as it is.

use business::{
    email_domains::{
        model::{DomainName, DomainRef, FoldedChange, Seen, Tally},
        ports::{Cursor, Page, PageRequest, Totals},
        verdict::{Verdict, VerdictChange, VerdictPolicy},
    },
    kernel::UnixSeconds,
};
use hashbrown::{HashTable, hash_table::Entry};
use parking_lot::RwLock;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How many shards there are. Written into snapshots and cursors by number, so it is part of both
/// formats. Small shards keep short what happens to one at a time: growing its index, and being
/// copied for a snapshot.
pub(crate) const SHARDS: usize = 256;

/// How many records one page looks at before it ends, found or not.
const PAGE_SCAN: usize = 4_096;

/// The sharded map.
pub(crate) struct TallyMap {
    shards: Box<[RwLock<Shard>]>,
    /// Secret, so that nobody can choose names that meet in one shard; stable as long as the data,
    /// so that shards and cursors are too.
    seed: u64,
    policy: VerdictPolicy,
}

#[derive(Default)]
struct Shard {
    index: HashTable<u32>,
    arena: Arena,
    totals: Totals,
}

impl TallyMap {
    pub(crate) fn new(seed: u64, policy: VerdictPolicy) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            seed,
            policy,
        }
    }

    /// The shard a domain belongs to. The index uses the lowest and the highest bits of the hash.
    pub(crate) fn shard_of(&self, domain: DomainRef<'_>) -> usize {
        shard_of(self.hash(domain.as_str()))
    }

    pub(crate) fn get(&self, domain: DomainRef<'_>) -> Tally {
        let hash = self.hash(domain.as_str());
        let shard = self.shards[shard_of(hash)].read();
        let found = shard.index.find(hash, |&at| {
            shard.arena.name(at) == domain.as_str().as_bytes()
        });
        found.map_or(Tally::ZERO, |&at| shard.arena.tally(at))
    }

    /// Applies one change; says how the verdict changed, if it did.
    pub(crate) fn apply(
        &self,
        change: &FoldedChange<'_>,
        at: UnixSeconds,
    ) -> Option<VerdictChange> {
        let hash = self.hash(change.domain.as_str());
        let mut shard = self.shards[shard_of(hash)].write();
        let Shard {
            index,
            arena,
            totals,
        } = &mut *shard;
        let entry = index.entry(
            hash,
            |&at| arena.name(at) == change.domain.as_str().as_bytes(),
            |&at| xxh3_64_with_seed(arena.name(at), self.seed),
        );
        let (before, after) = match entry {
            Entry::Occupied(found) => {
                let offset = *found.get();
                let before = arena.tally(offset);
                let after = before.plus(change.delivered, change.bounced, at);
                arena.update(offset, &after);
                (before, after)
            }
            Entry::Vacant(place) => {
                let after = Tally::ZERO.plus(change.delivered, change.bounced, at);
                place.insert(arena.push(change.domain, &after));
                totals.domains += 1;
                (Tally::ZERO, after)
            }
        };
        totals.delivered = totals.delivered.saturating_add(change.delivered);
        totals.bounced = totals.bounced.saturating_add(change.bounced);
        let (from, to) = self.policy.change(&before, &after)?;
        if let Some(count) = counter(totals, from) {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = counter(totals, to) {
            *count += 1;
        }
        drop(shard);
        Some(VerdictChange {
            domain: change.domain.to_name(),
            from,
            to,
        })
    }

    pub(crate) fn totals(&self) -> Totals {
        self.shards.iter().fold(Totals::default(), |sum, shard| {
            let part = shard.read().totals;
            Totals {
                delivered: sum.delivered.saturating_add(part.delivered),
                bounced: sum.bounced.saturating_add(part.bounced),
                domains: sum.domains + part.domains,
                catch_all: sum.catch_all + part.catch_all,
                not_catch_all: sum.not_catch_all + part.not_catch_all,
            }
        })
    }

    /// The domains in the order of shards and, within one, of their first event. `None` when the
    /// cursor is not this map's.
    pub(crate) fn page(&self, request: &PageRequest) -> Option<Page> {
        let (mut shard_number, mut offset) = match &request.after {
            None => (0, 0),
            Some(cursor) => self.read_cursor(cursor)?,
        };
        let limit = usize::from(request.limit.get());
        let mut page = Page::default();
        let mut scanned = 0;
        while let Some(shard) = self.shards.get(shard_number) {
            let shard = shard.read();
            while let Some(next) = shard.arena.next_after(offset) {
                if page.domains.len() == limit || scanned == PAGE_SCAN {
                    page.next = Some(self.write_cursor(shard_number, offset));
                    return Some(page);
                }
                scanned += 1;
                let tally = shard.arena.tally(offset);
                if request
                    .verdict
                    .is_none_or(|wanted| wanted == self.policy.verdict(&tally))
                {
                    page.domains
                        .extend(shard.arena.domain(offset).map(|name| (name, tally)));
                }
                offset = next;
            }
            shard_number += 1;
            offset = 0;
        }
        Some(page)
    }

    /// A copy of one shard's arena, as a snapshot holds it.
    pub(crate) fn copy_arena(&self, shard: usize) -> Vec<u8> {
        self.shards[shard].read().arena.bytes.clone()
    }

    /// Takes a shard back from a copy of its arena. `None` when the bytes are no arena of it.
    pub(crate) fn load_arena(&self, shard_number: usize, bytes: Vec<u8>) -> Option<()> {
        let mut shard = Shard {
            arena: Arena { bytes },
            ..Shard::default()
        };
        let offsets = shard.arena.check()?;
        shard.index = HashTable::with_capacity(offsets.len());
        for offset in offsets {
            let tally = shard.arena.tally(offset);
            let hash = xxh3_64_with_seed(shard.arena.name(offset), self.seed);
            if shard_of(hash) != shard_number {
                return None;
            }
            shard.index.insert_unique(hash, offset, |&at| {
                xxh3_64_with_seed(shard.arena.name(at), self.seed)
            });
            shard.totals.domains += 1;
            shard.totals.delivered = shard.totals.delivered.saturating_add(tally.delivered);
            shard.totals.bounced = shard.totals.bounced.saturating_add(tally.bounced);
            if let Some(count) = counter(&mut shard.totals, self.policy.verdict(&tally)) {
                *count += 1;
            }
        }
        *self.shards[shard_number].write() = shard;
        Some(())
    }

    fn hash(&self, name: &str) -> u64 {
        xxh3_64_with_seed(name.as_bytes(), self.seed)
    }

    /// Shard (2 bytes), offset (4 bytes), and a tag (8 bytes) by which the map knows its own: an
    /// offset that points into the middle of a record would show garbage.
    fn write_cursor(&self, shard: usize, offset: u32) -> Cursor {
        let mut bytes = Vec::with_capacity(CURSOR_LENGTH);
        bytes.extend((shard as u64).to_le_bytes().iter().take(2));
        bytes.extend(offset.to_le_bytes());
        let tag = xxh3_64_with_seed(&bytes, self.seed);
        bytes.extend(tag.to_le_bytes());
        Cursor(bytes.into())
    }

    fn read_cursor(&self, cursor: &Cursor) -> Option<(usize, u32)> {
        let (place, tag) = cursor.0.split_at_checked(CURSOR_LENGTH - 8)?;
        if xxh3_64_with_seed(place, self.seed).to_le_bytes() != tag {
            return None;
        }
        let (shard, offset) = place.split_first_chunk::<2>()?;
        let shard = usize::from(u16::from_le_bytes(*shard));
        let offset = u32::from_le_bytes(*offset.first_chunk::<4>()?);
        let within = self.shards.get(shard)?.read().arena.bytes.len();
        (usize::try_from(offset).ok()? <= within).then_some((shard, offset))
    }
}

const CURSOR_LENGTH: usize = 14;

fn shard_of(hash: u64) -> usize {
    const _: () = assert!(SHARDS == 256, "one byte of the hash");
    usize::from(hash.to_le_bytes()[5])
}

/// The counter of one verdict; the unknown are not counted, they are the rest.
fn counter(totals: &mut Totals, verdict: Verdict) -> Option<&mut u64> {
    match verdict {
        Verdict::CatchAll => Some(&mut totals.catch_all),
        Verdict::NotCatchAll => Some(&mut totals.not_catch_all),
        Verdict::Unknown => None,
    }
}

/// Records one after the other:
///
/// | bytes | what |
/// | --- | --- |
/// | 1 | length of the name |
/// | 8 | delivered |
/// | 8 | bounced |
/// | 4 | first seen |
/// | 4 | last seen |
/// | length | the name |
///
/// Numbers are little-endian. Snapshots hold arenas as they are, so this is a file format.
#[derive(Default)]
struct Arena {
    bytes: Vec<u8>,
}

/// A record without its name.
const FIXED: usize = 25;

impl Arena {
    /// Adds a record; says where it begins.
    fn push(&mut self, domain: DomainRef<'_>, tally: &Tally) -> u32 {
        #[expect(
            clippy::expect_used,
            reason = "256 arenas of 4 GiB: memory ends long before"
        )]
        let offset = u32::try_from(self.bytes.len()).expect("an arena stays below 4 GiB");
        let name = domain.as_str().as_bytes();
        // A name has at most 253 bytes.
        self.bytes.push(name.len().to_le_bytes()[0]);
        self.bytes.extend([0; FIXED - 1]);
        self.bytes.extend(name);
        self.update(offset, tally);
        offset
    }

    fn update(&mut self, offset: u32, tally: &Tally) {
        let seen = tally.seen.unwrap_or(Seen::at(UnixSeconds::default()));
        let at = offset as usize;
        self.bytes[at + 1..at + 9].copy_from_slice(&tally.delivered.to_le_bytes());
        self.bytes[at + 9..at + 17].copy_from_slice(&tally.bounced.to_le_bytes());
        self.bytes[at + 17..at + 21].copy_from_slice(&seen.first.get().to_le_bytes());
        self.bytes[at + 21..at + 25].copy_from_slice(&seen.last.get().to_le_bytes());
    }

    fn tally(&self, offset: u32) -> Tally {
        let at = offset as usize;
        Tally {
            delivered: u64::from_le_bytes(self.array(at + 1)),
            bounced: u64::from_le_bytes(self.array(at + 9)),
            seen: Some(Seen {
                first: u32::from_le_bytes(self.array(at + 17)).into(),
                last: u32::from_le_bytes(self.array(at + 21)).into(),
            }),
        }
    }

    fn name(&self, offset: u32) -> &[u8] {
        let at = offset as usize;
        let length = usize::from(self.bytes[at]);
        &self.bytes[at + FIXED..at + FIXED + length]
    }

    /// The name as it was pushed. `None` only for bytes that were never checked.
    fn domain(&self, offset: u32) -> Option<DomainName> {
        let text = std::str::from_utf8(self.name(offset)).ok()?;
        DomainRef::from_stored(text).ok().map(DomainRef::to_name)
    }

    /// Where the record after this one begins; `None` when there is none at `offset`.
    fn next_after(&self, offset: u32) -> Option<u32> {
        let length = usize::from(*self.bytes.get(offset as usize)?);
        let next = offset as usize + FIXED + length;
        u32::try_from(next)
            .ok()
            .filter(|_| next <= self.bytes.len())
    }

    /// The offsets of all records; `None` unless the bytes are records from end to end.
    fn check(&self) -> Option<Vec<u32>> {
        u32::try_from(self.bytes.len()).ok()?;
        let mut offsets = Vec::new();
        let mut offset = 0;
        while let Some(next) = self.next_after(offset) {
            self.domain(offset)?;
            offsets.push(offset);
            offset = next;
        }
        (offset as usize == self.bytes.len()).then_some(offsets)
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[at..at + N]);
        array
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, num::NonZeroU16};

    use super::*;

    fn change(name: &DomainName, delivered: u64, bounced: u64) -> FoldedChange<'_> {
        FoldedChange {
            domain: name.borrowed(),
            delivered,
            bounced,
        }
    }

    fn filled(domains: u32) -> (TallyMap, BTreeMap<String, Tally>) {
        let map = TallyMap::new(42, VerdictPolicy::default());
        let mut model = BTreeMap::new();
        for number in 0..domains {
            let name = DomainName::parse(&format!("d{number}.example")).unwrap();
            let at = UnixSeconds::from(number);
            map.apply(
                &change(&name, u64::from(number), u64::from(number % 7 == 0)),
                at,
            );
            model.insert(
                name.to_string(),
                Tally::ZERO.plus(u64::from(number), u64::from(number % 7 == 0), at),
            );
        }
        (map, model)
    }

    fn walk(map: &TallyMap, limit: u16) -> BTreeMap<String, Tally> {
        let mut all = BTreeMap::new();
        let mut request = PageRequest {
            verdict: None,
            after: None,
            limit: NonZeroU16::new(limit).unwrap(),
        };
        loop {
            let page = map.page(&request).unwrap();
            for (name, tally) in page.domains {
                assert!(
                    all.insert(name.to_string(), tally).is_none(),
                    "{name} twice"
                );
            }
            match page.next {
                Some(next) => request.after = Some(next),
                None => return all,
            }
        }
    }

    #[test]
    fn pages_show_all_and_once() {
        let (map, model) = filled(3_000);
        assert_eq!(walk(&map, 7), model);
        assert_eq!(walk(&map, 1_000), model);
    }

    #[test]
    fn an_arena_is_loaded_as_it_was_copied() {
        let (map, model) = filled(3_000);
        let copy = TallyMap::new(42, VerdictPolicy::default());
        for shard in 0..SHARDS {
            copy.load_arena(shard, map.copy_arena(shard)).unwrap();
        }
        assert_eq!(walk(&copy, 1_000), model);
        assert_eq!(copy.totals(), map.totals());

        let other_seed = TallyMap::new(43, VerdictPolicy::default());
        assert!((0..SHARDS).any(|s| other_seed.load_arena(s, map.copy_arena(s)).is_none()));
        let mut cut = map.copy_arena(9);
        cut.pop();
        assert!(copy.load_arena(9, cut).is_none());
    }

    #[test]
    fn only_its_own_cursor_is_read() {
        let (map, _) = filled(100);
        let limit = NonZeroU16::new(1).unwrap();
        let first = map
            .page(&PageRequest {
                verdict: None,
                after: None,
                limit,
            })
            .unwrap();
        let cursor = first.next.unwrap();
        for damaged in 0..cursor.0.len() {
            let mut bytes = cursor.0.clone();
            bytes[damaged] ^= 1;
            let request = PageRequest {
                verdict: None,
                after: Some(Cursor(bytes)),
                limit,
            };
            assert!(map.page(&request).is_none());
        }
    }
}
