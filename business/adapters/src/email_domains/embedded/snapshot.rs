//! A snapshot: all tallies, so that the journal before it can go.
//!
//! Behind the header stand blocks: a kind (1 byte), a length (8), a CRC32C of kind, length and
//! content (4), and the content. The shards are copied one at a time while the store goes on
//! counting, so each says up to which record it is complete; what comes later is replayed into it
//! and nothing else is.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, BufReader, Read},
    sync::{Arc, mpsc},
    thread,
};

use business::{
    email_domains::{
        model::{GroupId, Outcomes},
        ports::StoreId,
    },
    kernel::UnixSeconds,
};
use foundation::planted::{kill_point, planted_bug};
use parking_lot::Mutex;

use super::{
    disk::{Disk, DiskFile},
    error::OpenError,
    format::{FileKind, HEADER_LENGTH, Header, Reader, put_varint},
    journal::AppendError,
    record,
};
use crate::email_domains::{
    ledger::{Ledger, MarkLimits, MarksCopy, Moments, StoredMark},
    tally_map::{SHARDS, TallyMap},
};

/// The name of a snapshot that is not whole yet.
pub(super) const UNFINISHED: &str = "snapshot.tmp";

const BLOCK_HEAD_LENGTH: usize = 13;
/// The longest content of a block: an arena of 4 GiB and what stands before it.
const MAX_BLOCK: u64 = (1 << 32) + 64;

/// How much is written between two syncs. A sync of the journal waits for what the disk is busy
/// with, which must not be a whole snapshot.
const SYNCED_AT_ONCE: u64 = 4 << 20;

/// What a block is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Block {
    /// The number of the last record before the first segment to replay.
    Start = 1,
    /// A shard's number (2 bytes), the number of the last record in it (8), and its arena.
    Shard = 2,
    /// The number of the last record in it (8), the writers, the latest moments of what is forgotten
    /// (4 and 4), and how many blocks of marks follow (4).
    Ledger = 3,
    /// Nothing; there is nothing behind it.
    End = 4,
    /// The latest moments of these marks (4 and 4), and the marks.
    Marks = 5,
}

/// Writes a snapshot under a temporary name. Call `start`, every shard, `ledger`, `finish`.
pub(super) struct Writer {
    file: Box<dyn DiskFile>,
    name: String,
    length: u64,
    synced: u64,
}

impl Writer {
    /// Begins a snapshot from which the journal is replayed from segment `first` on, whose records
    /// begin behind number `sequence`.
    pub(super) fn start(
        disk: &dyn Disk,
        store: StoreId,
        first: u64,
        sequence: u64,
    ) -> io::Result<Self> {
        if disk.list()?.iter().any(|name| name == UNFINISHED) {
            disk.remove(UNFINISHED)?;
        }
        let name = FileKind::Snapshot.file_name(first);
        let mut writer = Self {
            file: disk.create(UNFINISHED)?,
            name,
            length: 0,
            synced: 0,
        };
        let header = Header {
            kind: FileKind::Snapshot,
            store,
            number: first,
        }
        .encode();
        writer.append(&header)?;
        writer.block(Block::Start, &[&sequence.to_le_bytes()])?;
        Ok(writer)
    }

    pub(super) fn shard(
        &mut self,
        number: usize,
        sequence: u64,
        arena: &[u8],
    ) -> Result<(), AppendError> {
        let number = &(number as u64).to_le_bytes()[..2];
        self.block(Block::Shard, &[number, &sequence.to_le_bytes(), arena])
            .map_err(AppendError::NotWritten)?;
        self.sync_if_due()
    }

    pub(super) fn ledger(
        &mut self,
        sequence: u64,
        writers: &[(GroupId, Outcomes)],
        marks: &MarksCopy,
    ) -> Result<(), AppendError> {
        let mut content = sequence.to_le_bytes().to_vec();
        put_varint(&mut content, writers.len() as u64);
        for (id, outcomes) in writers {
            record::put_group_id(&mut content, *id);
            record::put_outcomes(&mut content, outcomes);
        }
        content.extend(moments_to_bytes(marks.forgotten));
        let chunks = match planted_bug("snapshot-without-marks") {
            true => &VecDeque::new(),
            false => &marks.chunks,
        };
        content.extend(&(chunks.len() as u64).to_le_bytes()[..4]);
        self.block(Block::Ledger, &[&content])
            .map_err(AppendError::NotWritten)?;
        for chunk in chunks {
            let newest = moments_to_bytes(chunk.newest);
            content.clear();
            for mark in &chunk.marks {
                content.extend(mark.to_bytes());
            }
            self.block(Block::Marks, &[&newest, &content])
                .map_err(AppendError::NotWritten)?;
            self.sync_if_due()?;
        }
        Ok(())
    }

    /// Makes the snapshot durable and gives it its name; says how long it is.
    pub(super) fn finish(mut self, disk: &dyn Disk) -> Result<u64, AppendError> {
        self.block(Block::End, &[])
            .map_err(AppendError::NotWritten)?;
        if !planted_bug("snapshot-before-sync") {
            self.file.sync().map_err(AppendError::Unknown)?;
        }
        kill_point("snapshot-unnamed");
        disk.rename(UNFINISHED, &self.name)
            .map_err(AppendError::NotWritten)?;
        kill_point("snapshot-renamed");
        disk.sync_directory().map_err(AppendError::Unknown)?;
        Ok(self.length)
    }

    fn sync_if_due(&mut self) -> Result<(), AppendError> {
        if self.length - self.synced >= SYNCED_AT_ONCE {
            self.file.sync().map_err(AppendError::Unknown)?;
            self.synced = self.length;
        }
        Ok(())
    }

    fn block(&mut self, kind: Block, parts: &[&[u8]]) -> io::Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut head = Vec::with_capacity(BLOCK_HEAD_LENGTH);
        head.push(kind as u8);
        head.extend((length as u64).to_le_bytes());
        let crc = parts.iter().fold(crc32c::crc32c(&head), |crc, part| {
            crc32c::crc32c_append(crc, part)
        });
        head.extend(crc.to_le_bytes());
        self.append(&head)?;
        for part in parts {
            self.append(part)?;
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

/// What a snapshot says besides the tallies, which go to the map.
pub(super) struct Loaded {
    pub(super) store: StoreId,
    /// The number of the last record before the first segment to replay.
    pub(super) sequence: u64,
    /// Up to which record each shard is complete.
    pub(super) shards: Vec<u64>,
    pub(super) ledger: Ledger,
    /// Up to which record the ledger is complete.
    pub(super) ledger_sequence: u64,
    /// The length of the file.
    pub(super) length: u64,
}

impl Loaded {
    /// The number of the last record that any part of the snapshot holds.
    pub(super) fn holds(&self) -> u64 {
        self.shards
            .iter()
            .copied()
            .fold(self.ledger_sequence, u64::max)
    }

    /// Where there is no snapshot.
    pub(super) fn nothing(store: StoreId, marks: MarkLimits) -> Self {
        Self {
            store,
            sequence: 0,
            shards: vec![0; SHARDS],
            ledger: Ledger::new(marks),
            ledger_sequence: 0,
            length: 0,
        }
    }
}

/// Loads snapshot `number`; its tallies go to the map that `map` makes for its store, on so many
/// threads while this one reads.
pub(super) fn load(
    disk: &Arc<dyn Disk>,
    number: u64,
    threads: usize,
    marks: MarkLimits,
    map: impl FnOnce(StoreId) -> TallyMap,
) -> Result<(Loaded, TallyMap), OpenError> {
    let name = FileKind::Snapshot.file_name(number);
    let file = disk.read(&name).map_err(OpenError::io(&name, "read it"))?;
    let mut blocks = Blocks {
        name: &name,
        file: BufReader::new(file),
        offset: 0,
    };

    let mut header = Vec::new();
    blocks.bytes(HEADER_LENGTH as u64, &mut header)?;
    let header = Header::decode(FileKind::Snapshot, &name, &header)?
        .filter(|header| header.number == number)
        .ok_or(OpenError::corrupt(
            &name,
            0,
            "not the header of this snapshot",
        ))?;
    let map = map(header.store);
    let start = blocks.next(Block::Start, |fields| {
        fields.array().map(u64::from_le_bytes)
    })?;
    let shards = load_shards(&mut blocks, &map, threads)?;
    let mut ledger = Ledger::new(marks);
    let (ledger_sequence, chunks) = blocks.next(Block::Ledger, |fields| {
        let sequence = fields.u64()?;
        for _ in 0..fields.varint()? {
            let (id, outcomes) = (record::group_id(fields)?, record::outcomes(fields)?);
            ledger.settle(Some(id), &outcomes, [], UnixSeconds::default());
        }
        ledger.marks.forgot(moments(fields)?);
        Some((sequence, fields.u32()?))
    })?;
    for _ in 0..chunks {
        blocks.next(Block::Marks, |fields| {
            let newest = moments(fields)?;
            while !fields.is_empty() {
                let mark = StoredMark::from_bytes(&fields.array()?);
                ledger.marks.push(mark, newest);
            }
            Some(())
        })?;
    }
    blocks.next(Block::End, |_| Some(()))?;
    let length = blocks.offset as u64;
    let store = header.store;
    Ok((
        Loaded {
            store,
            sequence: start,
            shards,
            ledger,
            ledger_sequence,
            length,
        },
        map,
    ))
}

/// Says up to which record each shard is complete. Holds few shards besides those in the map.
fn load_shards(
    blocks: &mut Blocks<'_, impl Read>,
    map: &TallyMap,
    threads: usize,
) -> Result<Vec<u64>, OpenError> {
    let name = blocks.name;
    let loaded = Mutex::new(BTreeMap::new());
    let read = thread::scope(|scope| {
        let (queue, found) = mpsc::sync_channel::<(usize, Found)>(threads);
        let found = Arc::new(Mutex::new(found));
        // What was read is read into again: an allocator may hold on to what is freed.
        let (give_back, spare) = mpsc::channel();
        for _ in 0..threads {
            let (loaded, found) = (&loaded, Arc::clone(&found));
            let give_back = give_back.clone();
            let load = move || {
                loop {
                    let Ok((number, found)) = found.lock().recv() else {
                        return;
                    };
                    let shard = found.read(name, Block::Shard, |fields| {
                        let shard = usize::from(fields.u16()?);
                        let sequence = fields.u64()?;
                        (shard == number).then_some(())?;
                        map.load_arena(shard, fields.take_rest())?;
                        Some(sequence)
                    });
                    loaded.lock().insert(number, shard);
                    // Nobody takes it behind the last one.
                    let _ = give_back.send(found.content);
                }
            };
            thread::Builder::new()
                .name("load".into())
                .spawn_scoped(scope, load)
                .map_err(OpenError::io(name, "start a thread to load it"))?;
        }
        drop(found);
        for number in 0..SHARDS {
            // Nobody takes it only behind a panic, which the scope passes on.
            let _ = queue.send((number, blocks.find(spare.try_recv().unwrap_or_default())?));
        }
        Ok(())
    });
    // What is wrong first in the file is told, whoever found it first.
    let shards = loaded
        .into_inner()
        .into_values()
        .collect::<Result<_, _>>()?;
    read.map(|()| shards)
}

fn moments_to_bytes(moments: Moments) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&moments.counted_at.get().to_le_bytes());
    bytes[4..].copy_from_slice(&moments.stamped_at.get().to_le_bytes());
    bytes
}

fn moments(fields: &mut Reader<'_>) -> Option<Moments> {
    Some(Moments {
        counted_at: fields.u32()?.into(),
        stamped_at: fields.u32()?.into(),
    })
}

struct Blocks<'a, R> {
    name: &'a str,
    file: R,
    offset: usize,
}

/// A block that was not looked at yet.
struct Found {
    /// Where it begins.
    at: usize,
    kind: u8,
    crc: u32,
    /// The CRC32C of kind and length.
    head_crc: u32,
    content: Vec<u8>,
}

impl Found {
    /// What stands in it, if it is sound.
    fn read<T>(
        &self,
        name: &str,
        expected: Block,
        read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
    ) -> Result<T, OpenError> {
        let corrupt = |reason| OpenError::corrupt(name, self.at, reason);
        if crc32c::crc32c_append(self.head_crc, &self.content) != self.crc {
            return Err(corrupt("a block with a wrong checksum"));
        }
        if self.kind != expected as u8 {
            return Err(corrupt("not the block that belongs here"));
        }
        let mut fields = Reader::new(&self.content);
        read(&mut fields)
            .filter(|_| fields.is_empty())
            .ok_or_else(|| corrupt("a block that cannot be read"))
    }
}

impl<R: Read> Blocks<'_, R> {
    fn next<T>(
        &mut self,
        expected: Block,
        read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
    ) -> Result<T, OpenError> {
        self.find(Vec::new())?.read(self.name, expected, read)
    }

    /// Reads the next block, its content in place of what is in `content`.
    fn find(&mut self, mut content: Vec<u8>) -> Result<Found, OpenError> {
        let at = self.offset;
        let mut head = Vec::new();
        self.bytes(BLOCK_HEAD_LENGTH as u64, &mut head)?;
        let mut fields = Reader::new(&head);
        let (kind, length, crc) = (fields.u8(), fields.u64(), fields.u32());
        let length = length.filter(|length| *length <= MAX_BLOCK);
        let (Some(kind), Some(length), Some(crc)) = (kind, length, crc) else {
            return Err(OpenError::corrupt(self.name, at, "not the head of a block"));
        };
        self.bytes(length, &mut content)?;
        Ok(Found {
            at,
            kind,
            crc,
            head_crc: crc32c::crc32c(&head[..BLOCK_HEAD_LENGTH - 4]),
            content,
        })
    }

    fn bytes(&mut self, length: u64, bytes: &mut Vec<u8>) -> Result<(), OpenError> {
        bytes.clear();
        // Beyond a few shards' worth, it grows with what is there, not with what a damaged head
        // promises.
        bytes.reserve_exact(usize::try_from(length.min(4 << 20)).unwrap_or(0));
        let read = (&mut self.file).take(length).read_to_end(bytes);
        let read = read.map_err(OpenError::io(self.name, "read it"))?;
        if read as u64 != length {
            return Err(OpenError::corrupt(
                self.name,
                self.offset,
                "it ends too early",
            ));
        }
        self.offset += read;
        Ok(())
    }
}
