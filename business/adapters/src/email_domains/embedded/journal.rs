//! The journal: segments, each a file to which records are appended.

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

/// A segment that is open for appending.
pub(super) struct Segment {
    pub(super) number: u64,
    file: Box<dyn DiskFile>,
    length: u64,
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
    /// A new one, with a durable header and a durable name.
    pub(super) fn create(
        disk: &dyn Disk,
        store: StoreId,
        number: u64,
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
        let mut file = created.map_err(AppendError::NotWritten)?;
        if let Err(error) = file.append(&header) {
            // Best effort: a segment without a whole header is thrown away when the store opens.
            let _ = disk.remove(&name);
            return Err(AppendError::NotWritten(error));
        }
        file.sync()
            .and_then(|()| disk.sync_directory())
            .map_err(AppendError::Unknown)?;
        Ok(Self {
            number,
            file,
            length: header.len() as u64,
        })
    }

    /// One that is there already and holds `length` bytes.
    pub(super) fn reopen(disk: &dyn Disk, number: u64, length: u64) -> io::Result<Self> {
        let file = disk.open(&FileKind::Journal.file_name(number))?;
        Ok(Self {
            number,
            file,
            length,
        })
    }

    /// Appends whole records and makes them durable.
    pub(super) fn append(&mut self, record: &[u8]) -> Result<(), AppendError> {
        if let Err(error) = self.file.append(record) {
            // The next record must not stand behind half of this one.
            return Err(match self.file.truncate(self.length) {
                Ok(()) => AppendError::NotWritten(error),
                Err(error) => AppendError::Unknown(error),
            });
        }
        self.file.sync().map_err(AppendError::Unknown)?;
        self.length += record.len() as u64;
        Ok(())
    }

    /// Its length in bytes.
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
    /// How many bytes were cut.
    pub bytes: u64,
}

/// What was found while replaying a journal.
pub(super) struct Replayed {
    /// The number of the last record.
    pub(super) sequence: u64,
    /// How many records were read.
    pub(super) records: u64,
    /// The segments that hold records, and their lengths.
    pub(super) segments: VecDeque<(u64, u64)>,
    /// The last segment, when it is empty and can be written to.
    pub(super) empty: Option<u64>,
    /// The highest number in use.
    pub(super) last_number: u64,
    pub(super) torn: Option<TornTail>,
    /// The file of a segment that a crash kept from getting its header, and its length.
    unfinished: Option<(String, u64)>,
}

/// Reads the segments from number `first` on, in order, and gives each record's number and
/// payload to `apply`, which returns `None` for a payload that is no record. With a snapshot
/// before it, `first` has to be there, for it was made before the snapshot was, and so has every
/// record that the snapshot holds already, up to `snapshot_holds`.
///
/// What follows the last sound record is a torn tail and cut off, if nothing sound stands behind
/// it; otherwise the journal is corrupt, and nothing is changed.
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
    for (expected, number) in (first..).zip(numbers) {
        let name = FileKind::Journal.file_name(number);
        if number != expected {
            return Err(OpenError::corrupt(
                &name,
                0,
                "the segment before it is missing",
            ));
        }
        let bytes = read(disk, &name)?;
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
            replayed.unfinished = Some((name, bytes.len() as u64));
            break;
        }
        replayed.last_number = number;
        let end = replay_segment(&name, number, &bytes, &mut replayed, &mut apply)?;
        if end < bytes.len() {
            let bytes = (bytes.len() - end) as u64;
            replayed.torn = Some(TornTail {
                file: name,
                offset: end as u64,
                bytes,
            });
        }
        if end > HEADER_LENGTH {
            replayed.segments.push_back((number, end as u64));
            replayed.empty = None;
        } else {
            replayed.empty = Some(number);
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
    /// Cuts off what a crash left unfinished, and makes durable what was read: it may not be yet,
    /// when the process died and not the machine.
    fn settle(&mut self, disk: &Arc<dyn Disk>) -> Result<(), OpenError> {
        let sync = |name: &str, length: Option<u64>| {
            let mut file = disk.open(name).map_err(OpenError::io(name, "open it"))?;
            if let Some(length) = length {
                file.truncate(length)
                    .map_err(OpenError::io(name, "cut its torn tail"))?;
            }
            file.sync().map_err(OpenError::io(name, "sync it"))
        };
        if let Some(torn) = &self.torn {
            sync(&torn.file, Some(torn.offset))?;
        }
        if let Some((file, bytes)) = self.unfinished.take() {
            remove(disk, &file)?;
            // A file that was made and never written to has nothing to tell.
            if bytes > 0 {
                self.torn.get_or_insert(TornTail {
                    file,
                    offset: 0,
                    bytes,
                });
            }
        }
        let read = [self.segments.back().map(|last| last.0), self.empty];
        for number in read.into_iter().flatten() {
            sync(&FileKind::Journal.file_name(number), None)?;
        }
        Ok(())
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
    let header = Header::decode(FileKind::Journal, &name, &read(disk, &name)?)?;
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

fn read(disk: &Arc<dyn Disk>, name: &str) -> Result<Vec<u8>, OpenError> {
    let mut bytes = Vec::new();
    disk.read(name)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .map_err(OpenError::io(name, "read it"))?;
    Ok(bytes)
}
