//! Makes segments and snapshots ahead of need, on a thread of its own, so that no group waits for
//! a file to be made.

use std::{
    io,
    sync::{Arc, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use foundation::{
    planted::{kill_point, planted_bug},
    supervision::{Heart, Role, Worker, spawn_worker},
};
use parking_lot::Mutex;

use super::{
    Shared,
    disk::Disk,
    format::{FileKind, Header},
    journal::{AppendError, Segment},
    snapshot::{UNFINISHED, Writer},
};
use crate::email_domains::tally_map::SHARDS;

/// How long the keeper rests when it could not do its work.
const AFTER_A_FAILURE: Duration = Duration::from_secs(1);

/// How much of a file is given back to the file system at a time. It may tell the disk what is free
/// (`discard`), and all syncs wait meanwhile.
const GIVEN_BACK_AT_ONCE: u64 = 16 << 20;

/// What only one at a time may do.
pub(super) struct Keeper {
    /// The number of the next segment to be made.
    pub(super) next_number: u64,
    /// A snapshot was begun in a new segment, and failed. The next attempt needs no other: each
    /// would take room, and on a full disk that is what is missing.
    pub(super) began_segment: bool,
}

/// One that takes longer for one shard, or for a segment, is stuck.
const KEEPER: Role = Role {
    name: "journal-keeper",
    group: "store",
    patience: Duration::from_secs(60),
};

/// Starts the thread; it ends when nobody can wake it any more.
pub(super) fn start(shared: Arc<Shared>, wakes: mpsc::Receiver<()>) -> io::Result<Worker> {
    let shutdown = shared.shutdown.clone();
    let wakes = Mutex::new(wakes);
    spawn_worker(KEEPER, &shutdown, move |heart| {
        loop {
            let woken = wakes.lock().recv();
            if woken.is_err() {
                return;
            }
            heart.beats();
            let kept = shared.keep(heart);
            heart.rests();
            if heart.is_replaced() {
                return;
            }
            if let Err(error) = kept {
                // The journal grows meanwhile, and the next group asks again; a full disk is not
                // filled with one attempt after the other.
                tracing::warn!(%error, "journal housekeeping failed");
                rest(&wakes.lock());
            }
        }
    })
}

/// Hears no wake for a while, unless there will be no more.
fn rest(wakes: &mpsc::Receiver<()>) {
    let end = Instant::now() + AFTER_A_FAILURE;
    while let Some(left) = end.checked_duration_since(Instant::now())
        && wakes.recv_timeout(left).is_ok()
    {}
}

impl Shared {
    fn keep(&self, heart: &Heart) -> io::Result<()> {
        let (segment, snapshot) = {
            let writer = self.writer.lock();
            (writer.wants_segment(), writer.wants_snapshot(&self.options))
        };
        if segment {
            self.prepare(&mut self.keeper.lock())?;
        }
        if snapshot {
            self.snapshot(|| heart.beats())?;
        }
        Ok(())
    }

    /// Makes the next segment, unless it is there.
    fn prepare(&self, keeper: &mut Keeper) -> io::Result<()> {
        self.check()?;
        if self.writer.lock().prepared.is_some() {
            return Ok(());
        }
        // Without one the journal grows where it is, slowly, and as long as there is room.
        self.space
            .check_for(&*self.disk, self.options.segment_bytes)?;
        let header = Header {
            kind: FileKind::Journal,
            store: self.store,
            number: keeper.next_number,
        };
        let made = Segment::create(&*self.disk, header, self.options.segment_bytes);
        let segment = made.map_err(|error| self.stop_if_unknown(error))?;
        keeper.next_number += 1;
        self.writer.lock().prepared = Some(segment);
        Ok(())
    }

    /// Writes all tallies to a new snapshot and removes what it replaces. Says when a piece is done.
    pub(super) fn snapshot(&self, goes_on: impl Fn()) -> io::Result<()> {
        let mut keeper = self.keeper.lock();
        let written = self.write_snapshot(&mut keeper, goes_on);
        if written.is_err() {
            // On a full disk, the room that half a snapshot takes is what the journal needs. What
            // cannot be removed now is when the store opens.
            let _ = self.disk.remove(UNFINISHED);
        }
        written
    }

    fn write_snapshot(&self, keeper: &mut Keeper, goes_on: impl Fn()) -> io::Result<()> {
        self.check()?;
        let timer = self.metrics.snapshot_timer();
        if !keeper.began_segment {
            self.prepare(keeper)?;
        }
        let (first, sequence) = {
            let mut writer = self.writer.lock();
            // The committer may have gone on in the prepared segment by itself a moment ago; then
            // the snapshot begins before the records that stand in it already.
            if !keeper.began_segment {
                keeper.began_segment = writer.roll();
            }
            (writer.segment.number, writer.before_segment)
        };
        let mut snapshot = Writer::start(&*self.disk, self.store, first, sequence)?;
        // One for all, so that hardly a copy waits for memory while groups wait for the lock.
        let mut arena = Vec::new();
        for shard in 0..SHARDS {
            let sequence = {
                let applied = self.applied.lock();
                self.map.copy_arena(shard, &mut arena);
                applied.sequence
            };
            kill_point("snapshot-half");
            self.space.check_for(&*self.disk, arena.len() as u64)?;
            snapshot
                .shard(shard, sequence, &arena)
                .map_err(|error| self.stop_if_unknown(error))?;
            goes_on();
            // It takes a while, and groups must not wait for space meanwhile.
            if self.writer.lock().wants_segment() {
                self.prepare(keeper)?;
            }
        }
        let (sequence, writers, marks) = {
            let applied = self.applied.lock();
            let ledger = &applied.ledger;
            (applied.sequence, ledger.writers(), ledger.marks.copy())
        };
        if planted_bug("journal-removed-early") {
            let numbered = |name: &String| FileKind::Journal.number_of(name);
            let old = |name: &String| numbered(name).is_some_and(|number| number < first);
            for name in self.disk.list()?.into_iter().filter(old) {
                self.disk.remove(&name)?;
            }
        }
        goes_on();
        self.space.check_for(&*self.disk, marks.bytes())?;
        snapshot
            .ledger(sequence, &writers, &marks)
            .map_err(|error| self.stop_if_unknown(error))?;
        goes_on();
        let length = snapshot
            .finish(&*self.disk)
            .map_err(|error| self.stop_if_unknown(error))?;

        kill_point("snapshot-named");
        goes_on();
        let replaced = self.writer.lock().snapshot_bytes;
        remove_before(&*self.disk, first, replaced).map_err(|error| self.stop_if_unknown(error))?;
        let mut writer = self.writer.lock();
        writer.full.retain(|(number, _)| *number >= first);
        writer.snapshot_bytes = length;
        keeper.began_segment = false;
        self.metrics.sized(&writer);
        drop(timer);
        Ok(())
    }

    /// After a failed sync nothing is written any more, nor removed.
    fn check(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("a sync failed before"));
        }
        Ok(())
    }

    /// A failed sync leaves nobody knowing what is durable, whichever file it was.
    fn stop_if_unknown(&self, error: AppendError) -> io::Error {
        if let AppendError::Unknown(error) = &error {
            self.fail(error);
        }
        error.into_io()
    }
}

/// Removes what the snapshot that begins at segment `first` replaces, and what a crash left of an
/// unfinished one. A snapshot of `snapshot_bytes` goes little by little, as segments do.
pub(super) fn remove_before(
    disk: &dyn Disk,
    first: u64,
    snapshot_bytes: u64,
) -> Result<(), AppendError> {
    for name in disk.list().map_err(AppendError::NotWritten)? {
        let snapshot = FileKind::Snapshot.number_of(&name);
        let number = snapshot.or_else(|| FileKind::Journal.number_of(&name));
        if number.is_some_and(|number| number < first) || name == UNFINISHED {
            if snapshot.is_some() {
                shorten(disk, &name, snapshot_bytes)?;
            }
            disk.remove(&name).map_err(AppendError::NotWritten)?;
            disk.sync_directory().map_err(AppendError::Unknown)?;
        }
    }
    Ok(())
}

/// Cuts a file that is not needed any more to nearly nothing.
fn shorten(disk: &dyn Disk, name: &str, mut length: u64) -> Result<(), AppendError> {
    let mut file = disk.open(name).map_err(AppendError::NotWritten)?;
    while length > GIVEN_BACK_AT_ONCE {
        length -= GIVEN_BACK_AT_ONCE;
        file.truncate(length).map_err(AppendError::NotWritten)?;
        file.sync().map_err(AppendError::Unknown)?;
    }
    Ok(())
}
