#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    io::{self, Cursor, Read},
    sync::Arc,
};

use fastrand::Rng;
use parking_lot::{Mutex, MutexGuard};

use super::{Disk, DiskFile};

/// A disk that loses what was never synced, for tests. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
struct State {
    contents: Vec<Contents>,
    /// What the names mean now, and what they meant when the directory was last synced.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// What was done to names since then.
    unsynced: Vec<NameChange>,
    /// How many more writing operations succeed; all fail once the power is gone.
    operations_left: Option<u64>,
    /// The sync that fails, counted down.
    syncs_until_failure: Option<u64>,
    syncs_after_failure: u64,
    /// How many bytes all files together may hold.
    capacity: Option<usize>,
    /// How much of the next write is done before it fails.
    fails_after_bytes: Option<usize>,
    failed_writes: u64,
}

#[derive(Clone, Default)]
struct Contents {
    written: Vec<u8>,
    durable: Vec<u8>,
    /// What was done since the last sync, in order.
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Wrote { at: usize, bytes: Vec<u8> },
    Cut { length: usize },
}

#[derive(Clone)]
enum NameChange {
    Is(String, usize),
    Gone(String),
}

impl SimulatedDisk {
    /// Lets the power fail in the middle of the writing operation after `operations` more.
    pub fn cut_power_after(&self, operations: u64) {
        self.state().operations_left = Some(operations);
    }

    /// Leaves room for so many bytes more.
    pub fn leave_room_for(&self, bytes: usize) {
        let mut state = self.state();
        state.capacity = Some(state.used() + bytes);
    }

    /// How many bytes more there is room for, after [`Self::leave_room_for`].
    pub fn room_left(&self) -> usize {
        let state = self.state();
        state.capacity.unwrap_or(usize::MAX) - state.used()
    }

    /// Lets the sync after `syncs` more fail.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.state().syncs_until_failure = Some(syncs);
    }

    /// Lets the next write fail when so many of its bytes are written.
    pub fn fail_write_after_bytes(&self, bytes: usize) {
        self.state().fails_after_bytes = Some(bytes);
    }

    /// How many syncs were tried after one failed.
    pub fn syncs_after_failure(&self) -> u64 {
        self.state().syncs_after_failure
    }

    /// How many writes have failed because they were to.
    pub fn failed_writes(&self) -> u64 {
        self.state().failed_writes
    }

    /// Whether the power is gone or a sync has failed, so that nothing more can be expected of it.
    pub fn is_lost(&self) -> bool {
        let state = self.state();
        state.operations_left == Some(0) || state.syncs_after_failure > 0
    }

    /// What is found when the power is back: of what was not synced, whatever the disk happened to
    /// have written. Names come back changed or not, each by itself; so does each sector of a file
    /// as any of its versions since the last sync, and the length of a file.
    pub fn after_power_loss(&self, rng: &mut Rng) -> Self {
        let before = self.state().clone();
        let mut names = before.durable_names;
        for change in before.unsynced {
            if rng.bool() {
                match change {
                    NameChange::Is(name, file) => _ = names.insert(name, file),
                    NameChange::Gone(name) => _ = names.remove(&name),
                }
            }
        }
        let contents = before
            .contents
            .iter()
            .map(|contents| contents.survivors(rng))
            .collect();
        let state = State {
            contents,
            durable_names: names.clone(),
            names,
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// What is found when, of all that was not synced, only the first `bytes` of the last write to a
    /// file are there, in these of its sectors: the record that was being written, torn.
    pub fn torn(&self, bytes: usize, kept: impl Fn(usize) -> bool) -> Self {
        let before = self.state().clone();
        let contents = before.contents.into_iter().map(|contents| {
            let mut found = contents.durable;
            if let Some(Change::Wrote { at, bytes: written }) = contents.unsynced.last() {
                let bytes = &written[..bytes.min(written.len())];
                found.resize(found.len().max(at + bytes.len()), 0);
                for (offset, byte) in bytes.iter().enumerate() {
                    if kept((at + offset) / SECTOR - at / SECTOR) {
                        found[at + offset] = *byte;
                    }
                }
            }
            Contents::of(found)
        });
        let state = State {
            contents: contents.collect(),
            durable_names: before.durable_names.clone(),
            names: before.durable_names,
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// How much of the last write to a file is not synced: the most of any file.
    pub fn unsynced_bytes(&self) -> usize {
        let state = self.state();
        let last = state
            .contents
            .iter()
            .filter_map(|contents| contents.unsynced.last());
        last.map(|change| match change {
            Change::Wrote { bytes, .. } => bytes.len(),
            Change::Cut { .. } => 0,
        })
        .max()
        .unwrap_or(0)
    }

    /// What is found when only the process is gone: all that was written, durable or not.
    pub fn after_process_death(&self) -> Self {
        let state = State {
            operations_left: None,
            syncs_until_failure: None,
            syncs_after_failure: 0,
            fails_after_bytes: None,
            failed_writes: 0,
            ..self.state().clone()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn file(&self, name: &str) -> io::Result<usize> {
        self.state()
            .names
            .get(name)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// What a disk writes whole or not at all. Smaller than a real one, to tear short records too.
const SECTOR: usize = 64;

impl Contents {
    fn change(&mut self, change: Change) {
        change.apply_to(&mut self.written);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply_to(&mut self.durable);
        }
    }

    /// What the kernel does when it cannot write pages: it calls them clean, so they are read as
    /// they were written, and no later sync writes them (ATC '20, "Can Applications Recover from
    /// fsync Failures?").
    fn fail_to_sync(&mut self) {
        self.unsynced.clear();
    }

    /// Each sector, and the length, follows the changes up to one of them and no further.
    fn survivors(&self, rng: &mut Rng) -> Self {
        let mut found = self.durable.clone();
        let (mut length, mut length_follows) = (found.len(), true);
        let mut left_behind = BTreeSet::new();
        for change in &self.unsynced {
            length_follows &= rng.u8(..4) > 0;
            match change {
                Change::Wrote { at, bytes } => {
                    let end = at + bytes.len();
                    found.resize(found.len().max(end), 0);
                    if length_follows {
                        length = length.max(end);
                    } else if end > length {
                        length = rng.usize(length..=end);
                    }
                    for sector in at / SECTOR..end.div_ceil(SECTOR) {
                        if rng.u8(..4) == 0 {
                            left_behind.insert(sector);
                        }
                        if !left_behind.contains(&sector) {
                            let from = (sector * SECTOR).max(*at);
                            let to = ((sector + 1) * SECTOR).min(end);
                            found[from..to].copy_from_slice(&bytes[from - at..to - at]);
                        }
                    }
                }
                Change::Cut { length: cut } => {
                    if length_follows {
                        length = length.min(*cut);
                        found.truncate(length);
                    }
                }
            }
        }
        found.resize(length, 0);
        Self::of(found)
    }

    /// All of it durable.
    fn of(bytes: Vec<u8>) -> Self {
        Self {
            written: bytes.clone(),
            durable: bytes,
            unsynced: Vec::new(),
        }
    }
}

impl Change {
    fn apply_to(&self, file: &mut Vec<u8>) {
        match self {
            Self::Wrote { at, bytes } => {
                let end = at + bytes.len();
                file.resize(file.len().max(end), 0);
                file[*at..end].copy_from_slice(bytes);
            }
            Self::Cut { length } => file.truncate(*length),
        }
    }
}

impl State {
    fn used(&self) -> usize {
        self.names
            .values()
            .map(|file| self.contents[*file].written.len())
            .sum()
    }

    fn write(&mut self) -> io::Result<()> {
        match &mut self.operations_left {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        match &mut self.syncs_until_failure {
            Some(0) => {
                self.syncs_until_failure = None;
                // From now on, a sync would say that all is well.
                self.syncs_after_failure = 1;
                Err(io::Error::other("EIO"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => {
                self.syncs_after_failure += u64::from(self.syncs_after_failure > 0);
                Ok(())
            }
        }
    }
}

impl Disk for SimulatedDisk {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        Ok(Box::new(()))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        let file = self.file(name)?;
        Ok(Box::new(Cursor::new(
            self.state().contents[file].written.clone(),
        )))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.write()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.contents.len();
        state.contents.push(Contents::default());
        state.names.insert(name.into(), file);
        state.unsynced.push(NameChange::Is(name.into(), file));
        Ok(Box::new(SimulatedFile {
            disk: self.clone(),
            file,
        }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(SimulatedFile {
            disk: self.clone(),
            file: self.file(name)?,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.file(from)?;
        let mut state = self.state();
        state.write()?;
        state.names.remove(from);
        state.names.insert(to.into(), file);
        state.unsynced.push(NameChange::Gone(from.into()));
        state.unsynced.push(NameChange::Is(to.into(), file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.file(name)?;
        let mut state = self.state();
        state.write()?;
        state.names.remove(name);
        state.unsynced.push(NameChange::Gone(name.into()));
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        state.sync()?;
        state.durable_names = state.names.clone();
        state.unsynced.clear();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.room_left() as u64)
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    file: usize,
}

impl DiskFile for SimulatedFile {
    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        let at = usize::try_from(at).unwrap();
        let mut state = self.disk.state();
        let grows = (at + bytes.len()).saturating_sub(state.contents[self.file].written.len());
        let missing = match state.capacity {
            Some(capacity) => (state.used() + grows).saturating_sub(capacity),
            None => 0,
        };
        let mut done = bytes.len() - missing.min(bytes.len());
        let mut written = match missing {
            0 => Ok(()),
            _ => Err(io::ErrorKind::StorageFull.into()),
        };
        if let Some(bytes) = state.fails_after_bytes.take() {
            state.failed_writes += 1;
            done = done.min(bytes);
            written = Err(io::Error::other("EIO"));
        }
        // When the power fails, some of the write may have happened.
        let written = state.write().and(written);
        let bytes = bytes[..done].to_vec();
        state.contents[self.file].change(Change::Wrote { at, bytes });
        written
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).unwrap();
        let mut state = self.disk.state();
        state.write()?;
        let length = length.min(state.contents[self.file].written.len());
        state.contents[self.file].change(Change::Cut { length });
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        let failed_before = state.syncs_after_failure;
        let synced = state.sync();
        match &synced {
            Ok(()) => state.contents[self.file].sync(),
            Err(_) if state.syncs_after_failure > failed_before => {
                state.contents[self.file].fail_to_sync();
            }
            Err(_) => {}
        }
        synced
    }
}
