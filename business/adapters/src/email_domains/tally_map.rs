//! A compact, sharded map from domain to tally: the memory of `Memory` and `Embedded`.
//!
//! A shard is an *arena*, in which records stand one after the other and never move, and an index
//! of their offsets. A domain costs its name and 25 bytes in the arena and about 8 in the index.
//! Nothing is ever removed, so an offset names a record for good: that is what a cursor holds, and
//! an arena copied to a snapshot is loaded in the same order.

mod arena;
mod part;
mod shard;
mod together;

use business::email_domains::{
    model::{DomainRef, Tally},
    ports::{Cursor, Page, PageRequest, Totals},
    verdict::VerdictPolicy,
};
use parking_lot::RwLock;
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(crate) use self::part::{Changes, part_of};
use self::shard::Shard;

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

impl TallyMap {
    pub(crate) fn new(seed: u64, policy: VerdictPolicy) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            seed,
            policy,
        }
    }

    pub(crate) fn get(&self, domain: DomainRef<'_>) -> Tally {
        let hash = self.hash(domain.as_str());
        let shard = self.shards[shard_of(hash)].read();
        let found = shard.find(hash, domain.as_str().as_bytes());
        found.map_or(Tally::ZERO, |at| shard.arena.tally(at))
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
            while let Some((record, end)) = shard.arena.record_from(offset) {
                if page.domains.len() == limit || scanned == PAGE_SCAN {
                    page.next = Some(self.write_cursor(shard_number, offset));
                    return Some(page);
                }
                scanned += 1;
                let tally = shard.arena.tally(record);
                if request
                    .verdict
                    .is_none_or(|wanted| wanted == self.policy.verdict(&tally))
                {
                    page.domains
                        .extend(shard.arena.domain(record).map(|name| (name, tally)));
                }
                offset = end;
            }
            shard_number += 1;
            offset = 0;
        }
        Some(page)
    }

    /// Copies one shard's arena, as a snapshot holds it, in place of what is in `bytes`.
    pub(crate) fn copy_arena(&self, shard: usize, bytes: &mut Vec<u8>) {
        self.shards[shard].read().arena.copy_to(bytes);
    }

    /// Takes a shard back from a copy of its arena. `None` when the bytes are no arena of it.
    pub(crate) fn load_arena(&self, number: usize, bytes: &[u8]) -> Option<()> {
        let belongs = |hash| shard_of(hash) == number;
        *self.shards[number].write() = Shard::from_arena(bytes, self.seed, self.policy, belongs)?;
        Some(())
    }

    /// By which a domain's shard is found, and its place in the shard's index.
    pub(crate) fn hash_of(&self, domain: DomainRef<'_>) -> u64 {
        self.hash(domain.as_str())
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
        let tag = self.tag(&bytes);
        bytes.extend(tag.to_le_bytes());
        Cursor(bytes.into())
    }

    fn read_cursor(&self, cursor: &Cursor) -> Option<(usize, u32)> {
        let (place, tag) = cursor.0.split_at_checked(CURSOR_LENGTH - 8)?;
        if self.tag(place).to_le_bytes() != tag {
            return None;
        }
        let (shard, offset) = place.split_first_chunk::<2>()?;
        let shard = usize::from(u16::from_le_bytes(*shard));
        let offset = u32::from_le_bytes(*offset.first_chunk::<4>()?);
        let end = self.shards.get(shard)?.read().arena.end();
        (offset <= end).then_some((shard, offset))
    }

    fn tag(&self, place: &[u8]) -> u64 {
        /// To be changed with what an offset means.
        const OFFSETS: u64 = 2;
        xxh3_64_with_seed(place, self.seed ^ OFFSETS)
    }
}

const CURSOR_LENGTH: usize = 14;

/// The shard of a domain with this hash. The index uses the lowest and the highest bits
/// of the hash.
pub(crate) fn shard_of(hash: u64) -> usize {
    const _: () = assert!(SHARDS == 256, "one byte of the hash");
    usize::from(hash.to_le_bytes()[5])
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, num::NonZeroU16};

    use business::email_domains::model::{DomainName, FoldedChange};
    use business::kernel::UnixSeconds;

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
            map.apply_all(
                &[change(&name, u64::from(number), u64::from(number % 7 == 0))],
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

    fn arena_of(map: &TallyMap, shard: usize) -> Vec<u8> {
        let mut bytes = vec![1];
        map.copy_arena(shard, &mut bytes);
        bytes
    }

    #[test]
    fn many_changes_at_once_are_as_one_after_the_other() {
        let names: Vec<_> = (0..700)
            .map(|number| DomainName::parse(&format!("d{number}.example")).unwrap())
            .collect();
        let new = || TallyMap::new(42, VerdictPolicy::default());
        let (one_by_one, together, in_parts) = (new(), new(), new());
        for round in 0..5u64 {
            // Some twice, which no group has, so that their order matters.
            let changes: Vec<_> = (0..1_000u64)
                .map(|number| {
                    let name = &names[usize::try_from(number * 7 * (round + 1) % 700).unwrap()];
                    change(name, number, u64::from(number % 97 == round))
                })
                .collect();
            let at = UnixSeconds::from(1_000);
            let verdicts: Vec<_> = changes
                .iter()
                .flat_map(|change| one_by_one.apply_all(&[*change], at))
                .collect();
            assert!(!verdicts.is_empty());
            assert_eq!(together.apply_all(&changes, at), verdicts);
            let mut parts = [0; 3].map(|_| Changes::default());
            for change in &changes {
                let hash = in_parts.hash_of(change.domain);
                parts[part_of(hash, 3)].push(change, hash, at);
            }
            for (number, changes) in parts.iter().enumerate() {
                in_parts.part(number, 3).apply(changes);
            }
        }
        for other in [together, in_parts] {
            assert_eq!(other.totals(), one_by_one.totals());
            for shard in 0..SHARDS {
                assert_eq!(arena_of(&other, shard), arena_of(&one_by_one, shard));
            }
        }
    }

    #[test]
    fn an_arena_is_loaded_as_it_was_copied() {
        let (map, model) = filled(3_000);
        let copy = TallyMap::new(42, VerdictPolicy::default());
        for shard in 0..SHARDS {
            copy.load_arena(shard, &arena_of(&map, shard)).unwrap();
        }
        assert_eq!(walk(&copy, 1_000), model);
        assert_eq!(copy.totals(), map.totals());

        let other_seed = TallyMap::new(43, VerdictPolicy::default());
        assert!((0..SHARDS).any(|s| other_seed.load_arena(s, &arena_of(&map, s)).is_none()));
        let mut cut = arena_of(&map, 9);
        cut.pop();
        assert!(copy.load_arena(9, &cut).is_none());
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
