//! Applying changes on several threads, each of which has some of the shards to itself.

use business::{email_domains::model::FoldedChange, kernel::UnixSeconds};
use parking_lot::RwLockWriteGuard;

use super::{
    TallyMap,
    shard::{Addition, Shard},
    shard_of,
    together::{TOGETHER, look_ahead},
};

/// Changes with their names, on their way to the thread that applies them.
#[derive(Default)]
pub(crate) struct Changes {
    names: Vec<u8>,
    entries: Vec<Entry>,
}

struct Entry {
    hash: u64,
    name_end: usize,
    delivered: u64,
    bounced: u64,
    at: UnixSeconds,
}

impl Changes {
    pub(crate) fn push(&mut self, change: &FoldedChange<'_>, hash: u64, at: UnixSeconds) {
        self.names.extend(change.domain.as_str().as_bytes());
        self.entries.push(Entry {
            hash,
            name_end: self.names.len(),
            delivered: change.delivered,
            bounced: change.bounced,
            at,
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn additions(&self) -> impl Iterator<Item = Addition<'_>> {
        let mut begin = 0;
        self.entries.iter().map(move |entry| {
            let name = &self.names[begin..entry.name_end];
            begin = entry.name_end;
            Addition {
                hash: entry.hash,
                name,
                delivered: entry.delivered,
                bounced: entry.bounced,
                at: entry.at,
            }
        })
    }
}

/// Every so manieth shard, locked until it is dropped.
pub(crate) struct Part<'a> {
    map: &'a TallyMap,
    shards: Vec<RwLockWriteGuard<'a, Shard>>,
    parts: usize,
}

impl TallyMap {
    /// Part `number` of `parts`.
    pub(crate) fn part(&self, number: usize, parts: usize) -> Part<'_> {
        let shards = self.shards.iter().skip(number).step_by(parts);
        Part {
            map: self,
            shards: shards.map(|shard| shard.write()).collect(),
            parts,
        }
    }
}

/// The part that the shard of a domain with this hash is in.
pub(crate) fn part_of(hash: u64, parts: usize) -> usize {
    shard_of(hash) % parts
}

impl Part<'_> {
    /// Applies changes that all belong to this part.
    pub(crate) fn apply(&mut self, changes: &Changes) {
        let (map, parts) = (self.map, self.parts);
        let additions: Vec<_> = changes.additions().collect();
        for some in additions.chunks(TOGETHER) {
            look_ahead(some.iter().map(|addition| {
                let shard = &self.shards[shard_of(addition.hash) / parts];
                (shard, addition.hash)
            }));
            for addition in some {
                let shard = &mut self.shards[shard_of(addition.hash) / parts];
                shard.add(addition, map.seed, map.policy);
            }
        }
    }
}
