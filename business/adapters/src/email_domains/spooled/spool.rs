//! The spool's files: segments of the embedded store's journal, each named by the number of the
//! last record before it. New groups go to the last one; the ones before it are sealed, and removed
//! once all that is in them is settled.

use std::{
    any::Any,
    collections::VecDeque,
    io::{self, Read},
    sync::Arc,
};

use business::{
    email_domains::{
        model::{Group, GroupId},
        ports::StoreId,
    },
    kernel::UnixSeconds,
};

use super::entry;
use crate::email_domains::{
    accounting::events_of,
    embedded::{
        OpenError,
        disk::Disk,
        format::{FileKind, HEADER_LENGTH, Header},
        journal::{self, AppendError, Segment},
        record::{framed, put_framed},
    },
};

/// A segment that has reached this length is sealed. One is read whole when it is drained, and takes
/// some ten times as much in memory.
const SEGMENT_BYTES: u64 = 4 << 20;
/// What is allocated ahead of the first groups, who wait for it.
const FIRST_BYTES: u64 = 64 << 10;

/// The groups that wait for the store.
pub(super) struct Spool {
    disk: Arc<dyn Disk>,
    store: StoreId,
    /// None when the disk had no room for one.
    segment: Option<Segment>,
    /// When the first group of the segment was formed; nothing as long as it is empty.
    began: Option<UnixSeconds>,
    /// How many events are in the segment.
    events: u64,
    /// The oldest first.
    sealed: VecDeque<Sealed>,
    /// The number of the last record.
    sequence: u64,
    /// Where records are encoded.
    buffer: Vec<u8>,
    /// Keeps other processes out.
    _lock: Box<dyn Any + Send + Sync>,
}

/// A segment that takes no more.
#[derive(Clone, Copy)]
pub(super) struct Sealed {
    pub(super) number: u64,
    /// The length of its header and records.
    length: u64,
    began: UnixSeconds,
    events: u64,
}

impl Spool {
    /// Opens the spool for this store, or makes one.
    ///
    /// # Errors
    /// When another process has it, the disk fails, the files are not sound, or hold what belongs
    /// to another store.
    pub(super) fn open(disk: Arc<dyn Disk>, store: StoreId) -> Result<Self, OpenError> {
        let lock = disk.lock().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::Locked,
            _ => OpenError::io(".", "lock it")(error),
        })?;
        let first = journal::list(&disk, FileKind::Spool)?.first().copied();
        let first = first.unwrap_or(0);
        let found = journal::store_of_first(&disk, FileKind::Spool)?;
        if found.is_some_and(|found| found != store) {
            return Err(OpenError::corrupt(
                &FileKind::Spool.file_name(first),
                0,
                "it waits for another store",
            ));
        }
        let numbers = journal::list(&disk, FileKind::Spool)?;
        // When the first group of each segment was formed, and how many events are in it.
        let mut found: Vec<(u64, UnixSeconds, u64)> = Vec::new();
        let replayed = journal::replay(
            &disk,
            (FileKind::Spool, store),
            first,
            None,
            first,
            |sequence, payload| {
                let group = entry::group(payload)?;
                if numbers.binary_search(&(sequence - 1)).is_ok() {
                    found.push((sequence - 1, group.formed_at, 0));
                }
                if let Some((.., events)) = found.last_mut() {
                    *events += events_of(&group);
                }
                Some(())
            },
        )?;
        let sealed = replayed.segments.iter().map(|&(number, length)| {
            let found = found.iter().find(|(found, ..)| *found == number);
            let (began, events) =
                found.map_or_else(Default::default, |&(_, began, events)| (began, events));
            Sealed {
                number,
                length,
                began,
                events,
            }
        });
        let sealed = sealed.collect();
        let segment = match replayed.empty {
            Some((number, length)) => {
                Segment::reopen(&*disk, FileKind::Spool, number, length, FIRST_BYTES)
            }
            None => Segment::create(&*disk, header(store, replayed.sequence), FIRST_BYTES),
        };
        let segment = match segment {
            Ok(segment) => Some(segment),
            // What waits has to leave a full disk all the same.
            Err(AppendError::NotWritten(error)) if is_full_disk(&error) => {
                tracing::warn!(%error, "the spool takes nothing until there is room");
                None
            }
            Err(AppendError::NotWritten(error) | AppendError::Unknown(error)) => {
                return Err(OpenError::io(".", "make a segment ready")(error));
            }
        };
        Ok(Self {
            disk,
            store,
            segment,
            began: None,
            events: 0,
            sealed,
            sequence: replayed.sequence,
            buffer: Vec::new(),
            _lock: lock,
        })
    }

    /// Makes a group durable.
    pub(super) fn append(&mut self, id: GroupId, group: &Group) -> Result<(), AppendError> {
        let full = |segment: &Segment| segment.length() >= SEGMENT_BYTES;
        if self.segment.as_ref().is_some_and(full) {
            self.seal()?;
        }
        let segment = match &mut self.segment {
            Some(segment) => segment,
            none => {
                let header = header(self.store, self.sequence);
                none.insert(Segment::create(&*self.disk, header, FIRST_BYTES)?)
            }
        };
        self.buffer.clear();
        put_framed(
            segment.number,
            self.sequence + 1,
            &mut self.buffer,
            |bytes| {
                entry::put(bytes, id, group);
            },
        )
        .ok_or_else(|| AppendError::NotWritten(io::ErrorKind::FileTooLarge.into()))?;
        segment.append(&self.buffer)?;
        self.sequence += 1;
        self.began.get_or_insert(group.formed_at);
        self.events += events_of(group);
        Ok(())
    }

    /// Has the next group go to a new segment, unless this one is empty. On a full disk that one is
    /// made when there is room again.
    pub(super) fn seal(&mut self) -> Result<(), AppendError> {
        let Some(began) = self.began else {
            return Ok(());
        };
        let next = Segment::create(&*self.disk, header(self.store, self.sequence), FIRST_BYTES);
        let next = match next {
            Ok(next) => Some(next),
            Err(AppendError::NotWritten(_)) => None,
            Err(unknown) => return Err(unknown),
        };
        if let Some(full) = std::mem::replace(&mut self.segment, next) {
            self.sealed.push_back(Sealed {
                number: full.number,
                length: full.length(),
                began,
                events: self.events,
            });
        }
        self.began = None;
        self.events = 0;
        Ok(())
    }

    /// The oldest sealed segment.
    pub(super) fn first_sealed(&self) -> Option<Sealed> {
        self.sealed.front().copied()
    }

    /// Removes the oldest sealed segment, if it is still this one. Should it come back after a
    /// crash, its groups have been settled, and are again.
    pub(super) fn remove(&mut self, sealed: Sealed) -> Result<(), AppendError> {
        if self.sealed.front().map(|front| front.number) != Some(sealed.number) {
            return Ok(());
        }
        let name = FileKind::Spool.file_name(sealed.number);
        self.disk.remove(&name).map_err(AppendError::NotWritten)?;
        self.sealed.pop_front();
        // In this order, so that none comes back whose successor does not.
        self.disk.sync_directory().map_err(AppendError::Unknown)
    }

    /// Whether no group waits.
    pub(super) fn is_empty(&self) -> bool {
        self.began.is_none() && self.sealed.is_empty()
    }

    /// When the first of the groups that wait was formed.
    pub(super) fn oldest(&self) -> Option<UnixSeconds> {
        self.sealed
            .front()
            .map(|sealed| sealed.began)
            .or(self.began)
    }

    /// How many events wait.
    pub(super) fn events(&self) -> u64 {
        self.sealed.iter().map(|sealed| sealed.events).sum::<u64>() + self.events
    }

    /// How many bytes wait.
    pub(super) fn bytes(&self) -> u64 {
        let segment = self.segment.as_ref().filter(|_| self.began.is_some());
        let segment = segment.map_or(0, Segment::length);
        self.sealed.iter().map(|sealed| sealed.length).sum::<u64>() + segment
    }
}

/// Whether any segment holds a record.
///
/// # Errors
/// When one cannot be read.
pub(super) fn holds_groups(disk: &Arc<dyn Disk>) -> Result<bool, OpenError> {
    for number in journal::list(disk, FileKind::Spool)? {
        let name = FileKind::Spool.file_name(number);
        let mut bytes = Vec::new();
        disk.read(&name)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(OpenError::io(&name, "read it"))?;
        if framed(number, &bytes, HEADER_LENGTH).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The groups of a sealed segment, in order.
///
/// # Errors
/// When it cannot be read, or is not what was written.
pub(super) fn read(disk: &dyn Disk, sealed: Sealed) -> io::Result<Vec<Group>> {
    let mut bytes = Vec::new();
    let file = disk.read(&FileKind::Spool.file_name(sealed.number))?;
    file.take(sealed.length).read_to_end(&mut bytes)?;
    let mut groups = Vec::new();
    let mut at = HEADER_LENGTH;
    while (at as u64) < sealed.length {
        let group = framed(sealed.number, &bytes, at)
            .and_then(|record| Some((entry::group(record.payload)?, record.end)));
        let Some((group, end)) = group else {
            let reason = format!("segment {} of the spool is damaged", sealed.number);
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        };
        groups.push(group);
        at = end;
    }
    Ok(groups)
}

fn is_full_disk(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

fn header(store: StoreId, number: u64) -> Header {
    Header {
        kind: FileKind::Spool,
        store,
        number,
    }
}
