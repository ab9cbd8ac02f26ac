use std::{collections::HashMap, sync::Arc};

use smallvec::SmallVec;

use super::Member;
use crate::kernel::UnixSeconds;

/// How far a key's stamp may lie ahead of the clock here, in seconds: clocks differ.
pub const MAX_AHEAD_S: u32 = 300;

/// What a caller gives to have a request counted once, however often it is sent: hashed, for a
/// store keeps many.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// Its digest. It may begin with the stamp, so that new ones stand together in an index; the last
    /// 64 bits are evenly spread.
    pub hash: u128,
    /// When it was made, if it says so, as a UUIDv7 does (RFC 9562, section 5.7).
    pub stamped_at: Option<UnixSeconds>,
}

/// A key, with a digest of what was sent under it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mark {
    /// The key.
    pub key: Key,
    /// Tells a repeat from another payload under the same key.
    pub fingerprint: u64,
}

/// What became of a member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// It counts now, and is durable.
    Counted,
    /// Its mark counted before, with the same payload, and that is durable.
    Duplicate,
    /// Its mark counted before, with another payload. It does not count.
    Mismatch,
    /// Its key was made before the [horizon](MarkMemory::horizon): nobody knows whether it counted
    /// before. It does not count.
    Expired,
    /// The store is away. It is durable elsewhere, and counts once the store is back, unless its
    /// mark counted before.
    Spooled,
}

/// One outcome a member, in the order of the members.
pub type Outcomes = SmallVec<[Outcome; 1]>;

/// What a store remembers of marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MarkMemory {
    /// For how many seconds a mark is remembered, unless there are too many.
    pub window_s: u32,
    /// The latest moment at which a mark was counted that is forgotten.
    pub forgotten_through: UnixSeconds,
    /// The latest stamp of a key that is forgotten. Keys without stamps are never refused, so
    /// forgetting them refuses nobody, whatever a clock may have said when they were counted.
    pub forgotten_stamp: UnixSeconds,
}

impl MarkMemory {
    /// A key that says that it was made from this moment on is remembered if it ever counted.
    pub fn horizon(&self, now: UnixSeconds) -> UnixSeconds {
        self.since(now, self.forgotten_stamp)
    }

    /// Whatever counted from this moment on is remembered, whatever its key says.
    pub fn remembered_from(&self, now: UnixSeconds) -> UnixSeconds {
        self.since(now, self.forgotten_through.max(self.forgotten_stamp))
    }

    fn since(&self, now: UnixSeconds, forgotten: UnixSeconds) -> UnixSeconds {
        let window = now.get().saturating_sub(self.window_s);
        match forgotten.get() {
            0 => window,
            forgotten => window.max(forgotten.saturating_add(1)),
        }
        .into()
    }
}

/// What became of each member, given the store's horizon and the fingerprints it has: a mark
/// counts the first time it is met, in the store or earlier in the group.
pub fn resolve_marks(
    members: &[Arc<Member>],
    horizon: UnixSeconds,
    mut stored: impl FnMut(u128) -> Option<u64>,
) -> SmallVec<[Outcome; 1]> {
    let mut earlier = HashMap::new();
    members
        .iter()
        .map(|member| {
            let Some(Mark { key, fingerprint }) = member.mark else {
                return Outcome::Counted;
            };
            let first = earlier.get(&key.hash).copied();
            match first.or_else(|| stored(key.hash)) {
                Some(first) if first == fingerprint => Outcome::Duplicate,
                Some(_) => Outcome::Mismatch,
                None if key.stamped_at.is_some_and(|stamp| stamp < horizon) => Outcome::Expired,
                None => {
                    earlier.insert(key.hash, fingerprint);
                    Outcome::Counted
                }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::Changes, *};

    fn member(hash: u128, fingerprint: u64, stamped_at: Option<u32>) -> Arc<Member> {
        let key = Key {
            hash,
            stamped_at: stamped_at.map(UnixSeconds::from),
        };
        Arc::new(Member {
            mark: Some(Mark { key, fingerprint }),
            changes: Changes::default(),
        })
    }

    #[test]
    fn a_mark_counts_the_first_time_it_is_met() {
        let unmarked = Arc::new(Member {
            mark: None,
            changes: Changes::default(),
        });
        let members = [
            member(1, 10, None),
            member(1, 10, None),
            member(1, 11, None),
            member(2, 20, None),
            member(2, 21, None),
            unmarked,
            member(3, 30, Some(99)),
            member(3, 30, Some(100)),
            member(2, 20, Some(99)),
        ];
        let outcomes = resolve_marks(&members, 100.into(), |key| (key == 2).then_some(20));
        use Outcome::*;
        assert_eq!(
            outcomes[..],
            [
                Counted, Duplicate, Mismatch, Duplicate, Mismatch, Counted, Expired, Counted,
                Duplicate
            ]
        );
    }

    #[test]
    fn the_horizon_is_where_memory_ends() {
        let ends = |counted: u32, stamp: u32, now: u32| {
            let memory = MarkMemory {
                window_s: 60,
                forgotten_through: counted.into(),
                forgotten_stamp: stamp.into(),
            };
            let now = now.into();
            (memory.horizon(now).get(), memory.remembered_from(now).get())
        };
        assert_eq!(ends(0, 0, 1_000), (940, 940));
        assert_eq!(ends(0, 0, 10), (0, 0));
        assert_eq!(ends(900, 900, 1_000), (940, 940));
        assert_eq!(ends(970, 0, 1_000), (940, 971));
        assert_eq!(ends(970, 980, 1_000), (981, 981));
    }
}
