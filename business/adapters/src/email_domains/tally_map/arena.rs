use business::{
    email_domains::model::{DomainName, DomainRef, Seen, Tally},
    kernel::UnixSeconds,
};

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
/// Numbers are little-endian. They stand in chunks, each whole in one, so that an arena grows
/// without being copied and without asking for much more than it needs. An offset is a chunk (the
/// upper half) and a place in it. Snapshots hold the records without the gaps between chunks, so
/// this is a file format; the same records in the same order have the same offsets again.
#[derive(Default)]
pub(super) struct Arena {
    chunks: Vec<Vec<u8>>,
}

/// A record without its name.
const FIXED: usize = 25;
/// The length of a chunk: what the lower half of an offset can name.
const CHUNK: usize = 1 << 16;

impl Arena {
    /// Adds a record; says where it begins.
    pub(super) fn push(&mut self, name: &[u8], tally: &Tally) -> u32 {
        let (chunk, offset) = self.room_for(FIXED + name.len());
        // A name has at most 253 bytes.
        chunk.push(name.len().to_le_bytes()[0]);
        chunk.extend([0; FIXED - 1]);
        chunk.extend(name);
        self.update(offset, tally);
        offset
    }

    /// The chunk that so many bytes fit into, and where in the arena they will stand.
    fn room_for(&mut self, bytes: usize) -> (&mut Vec<u8>, u32) {
        let fits = |chunk: &Vec<u8>| chunk.len() + bytes <= CHUNK;
        if !self.chunks.last().is_some_and(fits) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let last = self.chunks.len() - 1;
        let chunk = &mut self.chunks[last];
        #[expect(
            clippy::expect_used,
            reason = "256 arenas of 4 GiB: memory ends long before"
        )]
        let offset = offset(last, chunk.len()).expect("an arena stays below 4 GiB");
        (chunk, offset)
    }

    pub(super) fn update(&mut self, offset: u32, tally: &Tally) {
        let seen = tally.seen.unwrap_or(Seen::at(UnixSeconds::default()));
        let (chunk, at) = place(offset);
        let fixed = &mut self.chunks[chunk][at..at + FIXED];
        fixed[1..9].copy_from_slice(&tally.delivered.to_le_bytes());
        fixed[9..17].copy_from_slice(&tally.bounced.to_le_bytes());
        fixed[17..21].copy_from_slice(&seen.first.get().to_le_bytes());
        fixed[21..25].copy_from_slice(&seen.last.get().to_le_bytes());
    }

    pub(super) fn tally(&self, offset: u32) -> Tally {
        let (chunk, at) = place(offset);
        let fixed = &self.chunks[chunk][at..at + FIXED];
        Tally {
            delivered: u64::from_le_bytes(array(&fixed[1..])),
            bounced: u64::from_le_bytes(array(&fixed[9..])),
            seen: Some(Seen {
                first: u32::from_le_bytes(array(&fixed[17..])).into(),
                last: u32::from_le_bytes(array(&fixed[21..])).into(),
            }),
        }
    }

    pub(super) fn name(&self, offset: u32) -> &[u8] {
        let (chunk, at) = place(offset);
        name(&self.chunks[chunk][at..])
    }

    /// The name as it was pushed. `None` only for bytes that were never checked.
    pub(super) fn domain(&self, offset: u32) -> Option<DomainName> {
        stored(self.name(offset)).map(DomainRef::to_name)
    }

    /// The first record that begins at `offset` or behind, and where it ends.
    pub(super) fn record_from(&self, offset: u32) -> Option<(u32, u32)> {
        let (mut chunk, mut at) = place(offset);
        if at == self.chunks.get(chunk)?.len() {
            (chunk, at) = (chunk + 1, 0);
        }
        let length = record_length(self.chunks.get(chunk)?.get(at..)?)?;
        let begin = self::offset(chunk, at)?;
        begin
            .checked_add(u32::try_from(length).ok()?)
            .map(|end| (begin, end))
    }

    /// Where the last record ends.
    pub(super) fn end(&self) -> u32 {
        let last = self.chunks.len().saturating_sub(1);
        let length = self.chunks.last().map_or(0, Vec::len);
        offset(last, length).unwrap_or(u32::MAX)
    }

    /// All records from how a snapshot holds them, and how many; `None` unless the bytes are records
    /// from end to end.
    pub(super) fn from_bytes(mut bytes: &[u8]) -> Option<(Self, usize)> {
        u32::try_from(bytes.len()).ok()?;
        let (mut arena, mut count) = (Self::default(), 0);
        while !bytes.is_empty() {
            let (record, rest) = bytes.split_at(record_length(bytes)?);
            stored(name(record))?;
            arena.room_for(record.len()).0.extend(record);
            count += 1;
            bytes = rest;
        }
        Some((arena, count))
    }

    /// Puts in place of what is in `bytes` how a snapshot holds the records.
    pub(super) fn copy_to(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        self.chunks.iter().for_each(|chunk| bytes.extend(chunk));
    }

    /// Both ends of what may be the record at `offset`, only to have them in the processor's cache.
    pub(super) fn glance(&self, offset: u32) -> u8 {
        let (chunk, at) = place(offset);
        let byte = |at| self.chunks.get(chunk)?.get(at).copied();
        byte(at).unwrap_or(0) ^ byte(at + FIXED + 18).unwrap_or(0)
    }
}

fn offset(chunk: usize, at: usize) -> Option<u32> {
    u32::try_from(chunk * CHUNK + at).ok()
}

fn place(offset: u32) -> (usize, usize) {
    (offset as usize / CHUNK, offset as usize % CHUNK)
}

/// How long the record is that these bytes begin with, if they hold all of it.
fn record_length(bytes: &[u8]) -> Option<usize> {
    let length = FIXED + usize::from(*bytes.first()?);
    (length <= bytes.len()).then_some(length)
}

/// The name in the record that these bytes begin with.
fn name(bytes: &[u8]) -> &[u8] {
    &bytes[FIXED..FIXED + usize::from(bytes[0])]
}

fn stored(name: &[u8]) -> Option<DomainRef<'_>> {
    DomainRef::from_stored(std::str::from_utf8(name).ok()?).ok()
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_the_same_offsets_again() {
        let mut arena = Arena::default();
        let mut offsets = Vec::new();
        for number in 0..5_000u32 {
            let name = format!("{}.example", "d".repeat(1 + number as usize % 60));
            let tally = Tally::ZERO.plus(number.into(), 1, number.into());
            offsets.push((arena.push(name.as_bytes(), &tally), name, tally));
        }
        assert!(arena.chunks.len() > 2);
        let mut bytes = Vec::new();
        arena.copy_to(&mut bytes);
        let (copy, count) = Arena::from_bytes(&bytes).unwrap();
        assert_eq!((count, copy.end()), (5_000, arena.end()));
        let mut from = 0;
        for (offset, name, tally) in offsets {
            let (begin, end) = copy.record_from(from).unwrap();
            assert_eq!(begin, offset);
            assert_eq!(copy.name(begin), name.as_bytes());
            assert_eq!(copy.tally(begin), tally);
            from = end;
        }
        assert_eq!(copy.record_from(from), None);
        assert_eq!(copy.end(), from);
    }

    /// A page may end with the last record there is; the next one goes on with what came since.
    #[test]
    fn what_is_pushed_behind_the_end_is_found_from_there() {
        let mut arena = Arena::default();
        for _ in 0..5_000 {
            let end = arena.end();
            let offset = arena.push(b"a.example", &Tally::ZERO);
            let (begin, next) = arena.record_from(end).unwrap();
            assert_eq!((begin, next), (offset, arena.end()));
        }
    }
}
