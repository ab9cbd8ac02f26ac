//! The marks that a store keeps in memory.

use std::{collections::VecDeque, num::NonZeroU32, sync::Arc};

use business::{
    email_domains::model::{Mark, MarkMemory},
    kernel::UnixSeconds,
};
use hashbrown::{HashTable, hash_table::Entry};

/// For how long marks are remembered, at the most.
#[derive(Clone, Copy, Debug)]
pub struct MarkLimits {
    /// In seconds, after they were counted.
    pub window_s: NonZeroU32,
    /// How many of them; the oldest go first.
    pub max_count: NonZeroU32,
}

/// Marks are forgotten so many at a time: a long list of large pieces is quickly copied, and
/// forgetting takes no more than part of a millisecond.
const CHUNK: usize = 4_096;
/// The index grows in so many steps, for each of which the groups wait.
const PARTS: usize = 64;

/// Marks in the order in which they were counted, and where each stands. 24 bytes a mark, and 6 to
/// 11 for the index.
pub(crate) struct Marks {
    limits: MarkLimits,
    chunks: VecDeque<Arc<Chunk>>,
    /// The place of the first mark there is. Places go up by one a mark, and begin anew behind the
    /// last number.
    first: u32,
    index: Vec<HashTable<u32>>,
    forgotten: Moments,
}

/// The latest ones of some marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Moments {
    /// At which one was counted.
    pub(crate) counted_at: UnixSeconds,
    /// Which a key says it was made at; the epoch if none does.
    pub(crate) stamped_at: UnixSeconds,
}

impl Moments {
    fn max(self, other: Self) -> Self {
        Self {
            counted_at: self.counted_at.max(other.counted_at),
            stamped_at: self.stamped_at.max(other.stamped_at),
        }
    }
}

/// Up to so many marks, counted one after the other.
#[derive(Clone, Default)]
pub(crate) struct Chunk {
    pub(crate) newest: Moments,
    pub(crate) marks: Vec<StoredMark>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StoredMark {
    /// In two halves, so that no room is lost between marks.
    hash: [u64; 2],
    fingerprint: u64,
}

/// All marks at one moment, cheaply copied.
pub(crate) struct MarksCopy {
    pub(crate) forgotten: Moments,
    pub(crate) chunks: VecDeque<Arc<Chunk>>,
}

impl Marks {
    pub(crate) fn new(limits: MarkLimits) -> Self {
        Self {
            limits,
            chunks: VecDeque::new(),
            first: 0,
            index: (0..PARTS).map(|_| HashTable::new()).collect(),
            forgotten: Moments::default(),
        }
    }

    pub(crate) fn memory(&self) -> MarkMemory {
        MarkMemory {
            window_s: self.limits.window_s.get(),
            forgotten_through: self.forgotten.counted_at,
            forgotten_stamp: self.forgotten.stamped_at,
        }
    }

    /// The fingerprint under this key.
    pub(crate) fn get(&self, hash: u128) -> Option<u64> {
        let halves = halves(hash);
        let found =
            self.index[part(halves)].find(halves[0], |&place| self.stored(place).hash == halves)?;
        Some(self.stored(*found).fingerprint)
    }

    /// Adds a mark that is counted at this moment, and forgets what is too old or too many.
    pub(crate) fn add(&mut self, mark: Mark, counted_at: UnixSeconds) {
        let moments = Moments {
            counted_at,
            stamped_at: mark.key.stamped_at.unwrap_or_default(),
        };
        self.push(StoredMark::of(&mark), moments);
        // Few at a time, for groups wait meanwhile; chunks fill more slowly.
        for _ in 0..2 {
            let too_many = self.len() > self.limits.max_count.get() as usize;
            let oldest = counted_at.get().saturating_sub(self.limits.window_s.get());
            let is_old = |chunk: &Arc<Chunk>| chunk.newest.counted_at.get() < oldest;
            if too_many && self.chunks.len() > 1 || self.chunks.front().is_some_and(is_old) {
                self.forget_chunk();
            }
        }
    }

    pub(crate) fn copy(&self) -> MarksCopy {
        MarksCopy {
            forgotten: self.forgotten,
            chunks: self.chunks.clone(),
        }
    }

    /// Takes over what was forgotten before.
    pub(crate) fn forgot(&mut self, moments: Moments) {
        self.forgotten = self.forgotten.max(moments);
    }

    /// Adds a mark as it was copied, of a chunk with these newest moments.
    pub(crate) fn push(&mut self, stored: StoredMark, moments: Moments) {
        if self
            .chunks
            .back()
            .is_none_or(|chunk| chunk.marks.len() == CHUNK)
        {
            self.chunks.push_back(Arc::default());
        }
        let place = self.first.wrapping_add(low_bits(self.len()));
        if let Some(chunk) = self.chunks.back_mut() {
            // A copy is made when a snapshot holds it just now.
            let chunk = Arc::make_mut(chunk);
            chunk.newest = chunk.newest.max(moments);
            chunk.marks.push(stored);
        }
        let Self {
            index,
            chunks,
            first,
            ..
        } = self;
        let entry = index[part(stored.hash)].entry(
            stored.hash[0],
            |&other| at(chunks, *first, other).hash == stored.hash,
            |&other| at(chunks, *first, other).hash[0],
        );
        // It may stand there, from before it was forgotten, when more is remembered now than then.
        match entry {
            Entry::Occupied(mut known) => *known.get_mut() = place,
            Entry::Vacant(free) => {
                free.insert(place);
            }
        }
    }

    fn forget_chunk(&mut self) {
        let Some(chunk) = self.chunks.front().map(Arc::clone) else {
            return;
        };
        for (offset, mark) in chunk.marks.iter().enumerate() {
            let place = self.first.wrapping_add(low_bits(offset));
            let found =
                self.index[part(mark.hash)].find_entry(mark.hash[0], |&other| other == place);
            if let Ok(entry) = found {
                entry.remove();
            }
        }
        self.forgot(chunk.newest);
        self.first = self.first.wrapping_add(low_bits(chunk.marks.len()));
        self.chunks.pop_front();
    }

    fn len(&self) -> usize {
        let last = self.chunks.back().map_or(0, |chunk| chunk.marks.len());
        self.chunks.len().saturating_sub(1) * CHUNK + last
    }

    fn stored(&self, place: u32) -> &StoredMark {
        at(&self.chunks, self.first, place)
    }
}

impl MarksCopy {
    /// What they take in a snapshot, but for the heads of blocks.
    pub(crate) fn bytes(&self) -> u64 {
        let count: usize = self.chunks.iter().map(|chunk| chunk.marks.len()).sum();
        (count * size_of::<StoredMark>()) as u64
    }
}

impl StoredMark {
    pub(crate) fn of(mark: &Mark) -> Self {
        Self {
            hash: halves(mark.key.hash),
            fingerprint: mark.fingerprint,
        }
    }

    /// As a snapshot holds it.
    pub(crate) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let fields = [self.hash[0], self.hash[1], self.fingerprint];
        for (to, field) in bytes.chunks_exact_mut(8).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; 24]) -> Self {
        let field = |number: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(&bytes[8 * number..8 * number + 8]);
            u64::from_le_bytes(field)
        };
        Self {
            hash: [field(0), field(1)],
            fingerprint: field(2),
        }
    }
}

fn at(chunks: &VecDeque<Arc<Chunk>>, first: u32, place: u32) -> &StoredMark {
    let offset = place.wrapping_sub(first) as usize;
    &chunks[offset / CHUNK].marks[offset % CHUNK]
}

fn halves(hash: u128) -> [u64; 2] {
    let low = low_half(hash);
    [low, low_half(hash >> 64)]
}

#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
fn low_half(hash: u128) -> u64 {
    hash as u64
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "places begin anew behind the last number"
)]
fn low_bits(offset: usize) -> u32 {
    offset as u32
}

/// Which part of the index: by bits that a table does not look at first.
fn part(hash: [u64; 2]) -> usize {
    usize::from(hash[0].to_le_bytes()[5]) % PARTS
}

#[cfg(test)]
mod tests {
    use business::email_domains::model::Key;

    use super::*;

    fn limits(window_s: u32, max_count: u32) -> MarkLimits {
        MarkLimits {
            window_s: NonZeroU32::new(window_s).unwrap(),
            max_count: NonZeroU32::new(max_count).unwrap(),
        }
    }

    /// The hash of number `n`: bits as evenly spread as those of a digest.
    fn mark(number: u64, stamped_at: Option<u32>) -> Mark {
        let half = |salt| xxhash_rust::xxh3::xxh3_64_with_seed(&number.to_le_bytes(), salt);
        let hash = u128::from(half(1)) << 64 | u128::from(half(2));
        let stamped_at = stamped_at.map(UnixSeconds::from);
        Mark {
            key: Key { hash, stamped_at },
            fingerprint: number,
        }
    }

    fn known(marks: &Marks, numbers: std::ops::Range<u64>) -> u64 {
        let found = numbers.map(|number| marks.get(mark(number, None).key.hash) == Some(number));
        found.map(u64::from).sum()
    }

    #[test]
    fn all_are_found_until_there_are_too_many() {
        let mut marks = Marks::new(limits(1_000, 10_000));
        // Over the end of the numbers of places.
        marks.first = u32::MAX - 9_000;
        for number in 0..40_000 {
            marks.add(mark(number, None), 5_000.into());
            assert!(marks.len() <= 10_000);
        }
        let kept = marks.len() as u64;
        assert!(kept > 10_000 - CHUNK as u64, "{kept}");
        assert_eq!(known(&marks, 40_000 - kept..40_000), kept);
        assert_eq!(known(&marks, 0..40_000 - kept), 0);
        assert_eq!(marks.memory().forgotten_through, 5_000.into());
        assert_eq!(
            marks.index.iter().map(HashTable::len).sum::<usize>(),
            marks.len()
        );
    }

    #[test]
    fn what_is_older_than_the_window_goes_and_its_stamps_are_known_to_be_gone() {
        let mut marks = Marks::new(limits(100, 1_000_000));
        let chunk = CHUNK as u64;
        for number in 0..chunk {
            // One key was made by a clock that is fast.
            let stamp = (number == 7).then_some(1_250);
            marks.add(mark(number, stamp), 1_000.into());
        }
        marks.add(mark(chunk, None), 1_100.into());
        assert_eq!(known(&marks, 0..chunk), chunk, "the window is not over");
        marks.add(mark(chunk + 1, None), 1_101.into());
        assert_eq!(known(&marks, 0..chunk), 0);
        assert_eq!(known(&marks, chunk..chunk + 2), 2);
        assert_eq!(marks.memory().horizon(1_101.into()), 1_251.into());
        assert_eq!(marks.memory().forgotten_through, 1_000.into());
    }

    #[test]
    fn one_that_was_forgotten_and_counted_again_is_the_later_one() {
        let mut marks = Marks::new(limits(1_000, 1_000_000));
        let other = |fingerprint| Mark {
            fingerprint,
            ..mark(1, None)
        };
        marks.add(other(10), 5_000.into());
        (2..=CHUNK as u64).for_each(|number| marks.add(mark(number, None), 5_000.into()));
        marks.add(other(20), 6_000.into());
        assert_eq!(marks.get(other(0).key.hash), Some(20));
        marks.forget_chunk();
        assert_eq!(marks.get(other(0).key.hash), Some(20));
    }

    #[test]
    fn a_copy_stays_as_it_was_and_can_be_taken_over() {
        let mut marks = Marks::new(limits(1_000, 1_000_000));
        let count = CHUNK as u64 + 5;
        (0..count).for_each(|number| marks.add(mark(number, None), 5_000.into()));
        let copy = marks.copy();
        marks.add(mark(count, None), 6_000.into());

        let mut again = Marks::new(limits(1_000, 1_000_000));
        again.forgot(copy.forgotten);
        for chunk in &copy.chunks {
            for stored in &chunk.marks {
                let read = StoredMark::from_bytes(&stored.to_bytes());
                assert_eq!(read, *stored);
                again.push(read, chunk.newest);
            }
        }
        assert_eq!(known(&again, 0..count + 1), count);
        assert_eq!(known(&marks, 0..count + 1), count + 1);
    }
}
