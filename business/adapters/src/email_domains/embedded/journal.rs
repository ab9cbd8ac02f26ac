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
use foundation::planted::{kill_point, planted_bug};

use super::{
    disk::{Disk, DiskFile},
    error::OpenError,
    format::{FileKind, HEADER_LENGTH, Header},
    record::{Framed, any_behind, framed},
};

/// How much is allocated between two syncs: those of the segment in use wait for no more.
const ALLOCATED_AT_ONCE: usize = 1 << 20;

/// A segment that is open for appending.
pub(in crate::email_domains) struct Segment {
    pub(in crate::email_domains) number: u64,
    file: Box<dyn DiskFile>,
    /// Where its records end.
    length: u64,
    /// Where its file ends, if not before `length`; all between is zero.
    allocated: u64,
}

/// Why a record is not in the journal.
pub(in crate::email_domains) enum AppendError {
    /// It was not written, and what was written of it is gone again.
    NotWritten(io::Error),
    /// It is not known what is durable. The journal must not be used any more.
    Unknown(io::Error),
}

impl AppendError {
    pub(in crate::email_domains) fn into_io(self) -> io::Error {
        match self {
            Self::NotWritten(error) | Self::Unknown(error) => error,
        }
    }
}

impl Segment {
    /// A new one of `bytes`, with a durable header and a durable name.
    pub(in crate::email_domains) fn create(
        disk: &dyn Disk,
        header: Header,
        bytes: u64,
    ) -> Result<Self, AppendError> {
        let Header { kind, number, .. } = header;
        let name = kind.file_name(number);
        let header = header.encode();
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
            let _ = disk.remove(&name).and_then(|()| disk.sync_directory());
            return Err(error);
        }
        kill_point("segment-unnamed");
        if !planted_bug("skip-directory-sync") {
            disk.sync_directory().map_err(AppendError::Unknown)?;
        }
        Ok(segment)
    }

    /// One that is there already, without records in its `length` bytes; made to have `bytes`.
    pub(in crate::email_domains) fn reopen(
        disk: &dyn Disk,
        kind: FileKind,
        number: u64,
        length: u64,
        bytes: u64,
    ) -> Result<Self, AppendError> {
        let file = disk.open(&kind.file_name(number));
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
    pub(in crate::email_domains) fn has_room_for(&self, bytes: usize) -> bool {
        self.length + bytes as u64 <= self.allocated
    }

    /// Whether the next segment will be needed soon.
    pub(in crate::email_domains) fn is_half_full(&self) -> bool {
        self.length >= self.allocated / 2
    }

    /// Writes a whole record behind the last one and makes it durable.
    pub(in crate::email_domains) fn append(&mut self, record: &[u8]) -> Result<(), AppendError> {
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
        kill_point("before-sync");
        self.sync_record().map_err(AppendError::Unknown)?;
        kill_point("after-sync");
        self.length += record.len() as u64;
        Ok(())
    }

    fn sync_record(&mut self) -> io::Result<()> {
        if planted_bug("acknowledge-before-sync") {
            return Ok(());
        }
        let synced = self.file.sync();
        if planted_bug("swallow-sync-error") {
            return Ok(());
        }
        if planted_bug("sync-again") {
            return synced.or_else(|_| self.file.sync());
        }
        synced
    }

    /// The length of its header and records in bytes.
    pub(in crate::email_domains) fn length(&self) -> u64 {
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
pub(in crate::email_domains) struct Replayed {
    /// The number of the last record.
    pub(in crate::email_domains) sequence: u64,
    /// How many records were read.
    pub(in crate::email_domains) records: u64,
    /// The segments that hold records, and where these end.
    pub(in crate::email_domains) segments: VecDeque<(u64, u64)>,
    /// The last record of the last of these.
    last_record: Vec<u8>,
    /// The last segment, when it is empty and can be written to, and the length of its file.
    pub(in crate::email_domains) empty: Option<(u64, u64)>,
    /// The highest number in use.
    pub(in crate::email_domains) last_number: u64,
    pub(in crate::email_domains) torn: Option<TornTail>,
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
pub(in crate::email_domains) fn replay(
    disk: &Arc<dyn Disk>,
    (kind, store): (FileKind, StoreId),
    first: u64,
    snapshot_holds: Option<u64>,
    sequence: u64,
    mut apply: impl FnMut(u64, &[u8]) -> Option<()>,
) -> Result<Replayed, OpenError> {
    let mut numbers: Vec<u64> = list(disk, kind)?;
    numbers.retain(|number| *number >= first);
    let last = numbers.last().copied();
    let mut replayed = Replayed {
        sequence,
        records: 0,
        segments: VecDeque::new(),
        last_record: Vec::new(),
        empty: None,
        last_number: first.saturating_sub(1),
        torn: None,
        unfinished: None,
    };
    // One for all segments: an allocator may hold on to what is freed.
    let mut bytes = Vec::new();
    let mut expected = first;
    for number in numbers {
        let name = kind.file_name(number);
        if number != expected {
            return Err(OpenError::corrupt(
                &name,
                0,
                "the segment before it is missing",
            ));
        }
        read_up_to(disk, &name, u64::MAX, &mut bytes)?;
        let header = Header::decode(kind, &name, &bytes)?;
        if header
            != Some(Header {
                kind,
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
        let (last, end) = replay_segment(&name, number, &bytes, &mut replayed, &mut apply)?;
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
            replayed.last_record = bytes[last..end].to_vec();
            replayed.empty = None;
        } else {
            let length = if rest > 0 { end } else { bytes.len() };
            replayed.empty = Some((number, length as u64));
        }
        expected = kind.number_behind(number, replayed.sequence);
    }
    if let Some(holds) = snapshot_holds {
        let last = kind.file_name(replayed.last_number.max(first));
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
    replayed.settle(disk, kind, store)?;
    Ok(replayed)
}

impl Replayed {
    /// Cuts off what a crash left unfinished, and the space behind the last records, which nobody
    /// goes on in. Makes durable what was read, and the names it was read under: they may not be
    /// yet, when the process died and not the machine.
    ///
    /// What a sync may have failed to write is written again first: the kernel calls such pages
    /// clean, so they are read, and no sync writes them.
    fn settle(
        &mut self,
        disk: &Arc<dyn Disk>,
        kind: FileKind,
        store: StoreId,
    ) -> Result<(), OpenError> {
        let sync = |name: &str, length: Option<u64>, again: &[u8], at: u64| {
            let mut file = disk.open(name).map_err(OpenError::io(name, "open it"))?;
            file.write_at(again, at)
                .map_err(OpenError::io(name, "write it again"))?;
            if let Some(length) = length {
                file.truncate(length)
                    .map_err(OpenError::io(name, "cut it behind its records"))?;
            }
            file.sync().map_err(OpenError::io(name, "sync it"))
        };
        if let Some(torn) = &self.torn {
            sync(&torn.file, Some(torn.offset), &[], 0)?;
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
            let name = kind.file_name(*number);
            let last = self.last_record.as_slice();
            sync(&name, Some(*end), last, end - last.len() as u64)?;
        }
        if let Some((number, _)) = self.empty {
            let header = Header {
                kind,
                store,
                number,
            };
            sync(&kind.file_name(number), None, &header.encode(), 0)?;
        }
        disk.sync_directory().map_err(OpenError::io(".", "sync it"))
    }
}

/// Says where the last sound record begins and where it ends.
fn replay_segment(
    name: &str,
    number: u64,
    bytes: &[u8],
    replayed: &mut Replayed,
    apply: &mut impl FnMut(u64, &[u8]) -> Option<()>,
) -> Result<(usize, usize), OpenError> {
    let (mut last, mut at) = (HEADER_LENGTH, HEADER_LENGTH);
    while at < bytes.len() {
        let Some(Framed {
            sequence,
            payload,
            end,
        }) = framed(number, bytes, at)
        else {
            // Looked at first: of a segment that was hardly used, most is this.
            if without_zeros(&bytes[at..]).is_empty() {
                return Ok((last, at));
            }
            if any_behind(number, bytes, at, replayed.sequence + 1) {
                return Err(OpenError::corrupt(
                    name,
                    at,
                    "a damaged record before sound ones",
                ));
            }
            return Ok((last, at));
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
        (last, at) = (at, end);
    }
    Ok((last, at))
}

/// The store that the first segment belongs to; `None` when there is no whole one yet.
pub(in crate::email_domains) fn store_of_first(
    disk: &Arc<dyn Disk>,
    kind: FileKind,
) -> Result<Option<StoreId>, OpenError> {
    let Some(number) = list(disk, kind)?.first().copied() else {
        return Ok(None);
    };
    let name = kind.file_name(number);
    let mut header = Vec::new();
    read_up_to(disk, &name, HEADER_LENGTH as u64, &mut header)?;
    let header = Header::decode(kind, &name, &header)?;
    Ok(header.map(|header| header.store))
}

/// The numbers of all files of a kind, in order.
pub(in crate::email_domains) fn list(
    disk: &Arc<dyn Disk>,
    kind: FileKind,
) -> Result<Vec<u64>, OpenError> {
    let names = disk.list().map_err(OpenError::io(".", "list it"))?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| kind.number_of(name))
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

pub(in crate::email_domains) fn remove(disk: &Arc<dyn Disk>, name: &str) -> Result<(), OpenError> {
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
