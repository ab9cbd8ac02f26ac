//! The journal: segments, each a file of records in space that was written with zeros ahead.
//!
//! A sync of bytes that a file has already is cheaper than one of a file that grew: the file
//! system has nothing to write but them.

use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::Arc,
};

use business::email_domains::ports::StoreId;

use super::{
    disk::{Disk, DiskFile},
    error::OpenError,
    format::{FileKind, HEADER_LENGTH, Header},
    record::{Framed, any_behind, framed},
};

/// How much is allocated between two syncs: those of the segment in use wait for no more.
const ALLOCATED_AT_ONCE: usize = 1 << 20;

/// A segment that is open for appending.
pub(super) struct Segment {
    pub(super) number: u64,
    file: Box<dyn DiskFile>,
    /// Where its records end.
    length: u64,
    /// Where its file ends, if not before `length`; all between is zero.
    allocated: u64,
}

/// Why a record is not in the journal.
pub(super) enum AppendError {
    /// It was not written, and what was written of it is gone again.
    NotWritten(io::Error),
    /// It is not known what is durable. The journal must not be used any more.
    Unknown(io::Error),
}

impl AppendError {
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::NotWritten(error) | Self::Unknown(error) => error,
        }
    }
}

impl Segment {
    /// A new one of `bytes`, with a durable header and a durable name.
    pub(super) fn create(
        disk: &dyn Disk,
        store: StoreId,
        number: u64,
        bytes: u64,
    ) -> Result<Self, AppendError> {
        let name = FileKind::Journal.file_name(number);
        let header = Header {
            kind: FileKind::Journal,
            store,
            number,
        }
        .encode();
        let created = disk.create(&name).or_else(|error| match error.kind() {
            // Left over from when the disk was full, and never used.
            io::ErrorKind::AlreadyExists => disk.remove(&name).and_then(|()| disk.create(&name)),
            _ => Err(error),
        });
        let mut segment = Self {
            number,
            file: created.map_err(AppendError::NotWritten)?,
            length: HEADER_LENGTH as u64,
            allocated: HEADER_LENGTH as u64,
        };
        let header = segment.file.write_at(&header, 0);
        let made = header
            .map_err(AppendError::NotWritten)
            .and_then(|()| segment.allocate(bytes));
        if let Err(error) = made {
            // Best effort: one without a header is thrown away when the store opens, and one
            // without records holds nothing.
            let _ = disk.remove(&name);
            return Err(error);
        }
        disk.sync_directory().map_err(AppendError::Unknown)?;
        Ok(segment)
    }

    /// One that is there already, without records in its `length` bytes; made to have `bytes`.
    pub(super) fn reopen(
        disk: &dyn Disk,
        number: u64,
        length: u64,
        bytes: u64,
    ) -> Result<Self, AppendError> {
        let file = disk.open(&FileKind::Journal.file_name(number));
        let mut segment = Self {
            number,
            file: file.map_err(AppendError::NotWritten)?,
            length: HEADER_LENGTH as u64,
            allocated: length,
        };
        segment.allocate(bytes)?;
        Ok(segment)
    }

    /// Writes zeros up to byte `end`, and syncs. On a full disk it takes what there is: without
    /// space ahead, the segment grows with each record.
    fn allocate(&mut self, end: u64) -> Result<(), AppendError> {
        let zeros = vec![0; ALLOCATED_AT_ONCE];
        loop {
            let missing = end.saturating_sub(self.allocated);
            let now = usize::try_from(missing)
                .unwrap_or(usize::MAX)
                .min(ALLOCATED_AT_ONCE);
            let full = self.file.write_at(&zeros[..now], self.allocated).is_err();
            if full {
                self.file
                    .truncate(self.allocated)
                    .map_err(AppendError::NotWritten)?;
            } else {
                self.allocated += now as u64;
            }
            self.file.sync().map_err(AppendError::Unknown)?;
            if full || self.allocated >= end {
                return Ok(());
            }
        }
    }

    /// Whether so many bytes more need no space that is not there yet.
    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        self.length + bytes as u64 <= self.allocated
    }

    /// Whether the next segment will be needed soon.
    pub(super) fn is_half_full(&self) -> bool {
        self.length >= self.allocated / 2
    }

    /// Writes a whole record behind the last one and makes it durable.
    pub(super) fn append(&mut self, record: &[u8]) -> Result<(), AppendError> {
        if let Err(error) = self.file.write_at(record, self.length) {
            // Neither may the next record stand behind half of this one, nor, when it is shorter,
            // before what is left of it. Nor may any of it come back once the next is durable,
            // which may stand in another file.
            let cut = self.file.truncate(self.length);
            return Err(match cut.and_then(|()| self.file.sync()) {
                Ok(()) => {
                    self.allocated = self.length;
                    AppendError::NotWritten(error)
                }
                Err(error) => AppendError::Unknown(error),
            });
        }
        self.file.sync().map_err(AppendError::Unknown)?;
        self.length += record.len() as u64;
        Ok(())
    }

    /// The length of its header and records in bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }
}

/// The end of a journal that a crash left unfinished: cut off when the store was opened. Nothing
/// in it was ever acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// The segment's file.
    pub file: String,
    /// Where the unfinished record began.
    pub offset: u64,
    /// How many bytes there were of it, up to the last that is not zero.
    pub bytes: u64,
}

/// What was found while replaying a journal.
pub(super) struct Replayed {
    /// The number of the last record.
    pub(super) sequence: u64,
    /// How many records were read.
    pub(super) records: u64,
    /// The segments that hold records, and where these end.
    pub(super) segments: VecDeque<(u64, u64)>,
    /// The last segment, when it is empty and can be written to, and the length of its file.
    pub(super) empty: Option<(u64, u64)>,
    /// The highest number in use.
    pub(super) last_number: u64,
    pub(super) torn: Option<TornTail>,
    /// The file of a segment that a crash kept from getting its header, and how much is in it.
    unfinished: Option<(String, u64)>,
}

/// Reads the segments from number `first` on, in order, and gives each record's number and
/// payload to `apply`, which returns `None` for a payload that is no record. With a snapshot
/// before it, `first` has to be there, for it was made before the snapshot was, and so has every
/// record that the snapshot holds already, up to `snapshot_holds`.
///
/// Behind the last sound record of a segment, zeros are space that was never used. Anything else is
/// a torn tail and cut off, if nothing sound stands behind it; otherwise the journal is corrupt,
/// and nothing is changed.
pub(super) fn replay(
    disk: &Arc<dyn Disk>,
    store: StoreId,
    first: u64,
    snapshot_holds: Option<u64>,
    sequence: u64,
    mut apply: impl FnMut(u64, &[u8]) -> Option<()>,
) -> Result<Replayed, OpenError> {
    let mut numbers: Vec<u64> = list(disk, FileKind::Journal)?;
    numbers.retain(|number| *number >= first);
    let last = numbers.last().copied();
    let mut replayed = Replayed {
        sequence,
        records: 0,
        segments: VecDeque::new(),
        empty: None,
        last_number: first - 1,
        torn: None,
        unfinished: None,
    };
    // One for all segments: an allocator may hold on to what is freed.
    let mut bytes = Vec::new();
    for (expected, number) in (first..).zip(numbers) {
        let name = FileKind::Journal.file_name(number);
        if number != expected {
            return Err(OpenError::corrupt(
                &name,
                0,
                "the segment before it is missing",
            ));
        }
        read_up_to(disk, &name, u64::MAX, &mut bytes)?;
        let header = Header::decode(FileKind::Journal, &name, &bytes)?;
        if header
            != Some(Header {
                kind: FileKind::Journal,
                store,
                number,
            })
        {
            // A crash while the segment was made leaves no record behind.
            let unfinished = header.is_none()
                && Some(number) == last
                && !any_behind(number, &bytes, 0, replayed.sequence + 1);
            if !unfinished {
                return Err(OpenError::corrupt(
                    &name,
                    0,
                    "not the header of this segment",
                ));
            }
            replayed.unfinished = Some((name, without_zeros(&bytes).len() as u64));
            break;
        }
        replayed.last_number = number;
        let end = replay_segment(&name, number, &bytes, &mut replayed, &mut apply)?;
        let rest = without_zeros(&bytes[end..]).len();
        if rest > 0 {
            replayed.torn = Some(TornTail {
                file: name,
                offset: end as u64,
                bytes: rest as u64,
            });
        }
        if end > HEADER_LENGTH {
            replayed.segments.push_back((number, end as u64));
            replayed.empty = None;
        } else {
            let length = if rest > 0 { end } else { bytes.len() };
            replayed.empty = Some((number, length as u64));
        }
    }
    if let Some(holds) = snapshot_holds {
        let last = FileKind::Journal.file_name(replayed.last_number.max(first));
        if replayed.last_number < first {
            return Err(OpenError::corrupt(
                &last,
                0,
                "the snapshot's first segment is missing",
            ));
        }
        if replayed.sequence < holds {
            return Err(OpenError::corrupt(
                &last,
                0,
                "the journal ends before its snapshot does",
            ));
        }
    }
    replayed.settle(disk)?;
    Ok(replayed)
}

impl Replayed {
    /// Cuts off what a crash left unfinished, and the space behind the last records, which nobody
    /// goes on in. Makes durable what was read, and the names it was read under: they may not be
    /// yet, when the process died and not the machine.
    fn settle(&mut self, disk: &Arc<dyn Disk>) -> Result<(), OpenError> {
        let sync = |name: &str, length: Option<u64>| {
            let mut file = disk.open(name).map_err(OpenError::io(name, "open it"))?;
            if let Some(length) = length {
                file.truncate(length)
                    .map_err(OpenError::io(name, "cut it behind its records"))?;
            }
            file.sync().map_err(OpenError::io(name, "sync it"))
        };
        if let Some(torn) = &self.torn {
            sync(&torn.file, Some(torn.offset))?;
        }
        if let Some((file, bytes)) = self.unfinished.take() {
            remove(disk, &file)?;
            // A file that was made and holds nothing has nothing to tell.
            if bytes > 0 {
                self.torn.get_or_insert(TornTail {
                    file,
                    offset: 0,
                    bytes,
                });
            }
        }
        if let Some((number, end)) = self.segments.back() {
            sync(&FileKind::Journal.file_name(*number), Some(*end))?;
        }
        if let Some((number, _)) = self.empty {
            sync(&FileKind::Journal.file_name(number), None)?;
        }
        disk.sync_directory().map_err(OpenError::io(".", "sync it"))
    }
}

/// Says where the sound records end.
fn replay_segment(
    name: &str,
    number: u64,
    bytes: &[u8],
    replayed: &mut Replayed,
    apply: &mut impl FnMut(u64, &[u8]) -> Option<()>,
) -> Result<usize, OpenError> {
    let mut at = HEADER_LENGTH;
    while at < bytes.len() {
        let Some(Framed {
            sequence,
            payload,
            end,
        }) = framed(number, bytes, at)
        else {
            // Looked at first: of a segment that was hardly used, most is this.
            if without_zeros(&bytes[at..]).is_empty() {
                return Ok(at);
            }
            if any_behind(number, bytes, at, replayed.sequence + 1) {
                return Err(OpenError::corrupt(
                    name,
                    at,
                    "a damaged record before sound ones",
                ));
            }
            return Ok(at);
        };
        if let Some(torn) = &replayed.torn {
            return Err(OpenError::Corrupt {
                file: torn.file.clone(),
                offset: torn.offset,
                reason: "a damaged record before sound ones in a later segment",
            });
        }
        if sequence != replayed.sequence + 1 {
            return Err(OpenError::corrupt(
                name,
                at,
                "a record is missing before this one",
            ));
        }
        apply(sequence, payload).ok_or(OpenError::corrupt(name, at, "not a record"))?;
        replayed.sequence = sequence;
        replayed.records += 1;
        at = end;
    }
    Ok(at)
}

/// The store that the first segment belongs to; `None` when there is no whole one yet.
pub(super) fn store_of_first(disk: &Arc<dyn Disk>) -> Result<Option<StoreId>, OpenError> {
    let Some(number) = list(disk, FileKind::Journal)?.first().copied() else {
        return Ok(None);
    };
    let name = FileKind::Journal.file_name(number);
    let mut header = Vec::new();
    read_up_to(disk, &name, HEADER_LENGTH as u64, &mut header)?;
    let header = Header::decode(FileKind::Journal, &name, &header)?;
    Ok(header.map(|header| header.store))
}

/// The numbers of all files of a kind, in order.
pub(super) fn list(disk: &Arc<dyn Disk>, kind: FileKind) -> Result<Vec<u64>, OpenError> {
    let names = disk.list().map_err(OpenError::io(".", "list it"))?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| kind.number_of(name))
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn remove(disk: &Arc<dyn Disk>, name: &str) -> Result<(), OpenError> {
    disk.remove(name).map_err(OpenError::io(name, "remove it"))
}

/// Puts the first bytes of a file in place of what is in `bytes`.
fn read_up_to(
    disk: &Arc<dyn Disk>,
    name: &str,
    length: u64,
    bytes: &mut Vec<u8>,
) -> Result<(), OpenError> {
    bytes.clear();
    disk.read(name)
        .and_then(|file| file.take(length).read_to_end(bytes))
        .map_err(OpenError::io(name, "read it"))?;
    Ok(())
}

/// All up to the last byte that is not zero.
fn without_zeros(bytes: &[u8]) -> &[u8] {
    const ZEROS: [u8; 4_096] = [0; 4_096];
    let blank: usize = bytes
        .rchunks(ZEROS.len())
        .take_while(|chunk| **chunk == ZEROS[..chunk.len()])
        .map(<[u8]>::len)
        .sum();
    let bytes = &bytes[..bytes.len() - blank];
    let last = bytes.iter().rposition(|byte| *byte != 0);
    &bytes[..last.map_or(0, |last| last + 1)]
}
