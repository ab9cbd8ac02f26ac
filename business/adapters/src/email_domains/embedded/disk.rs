//! The seam between the store and the file system: all it needs of one folder. Narrow, so that a
//! test can put a disk behind it that loses what was never synced.

mod delayed;
#[cfg(feature = "testing")]
mod simulated;

use std::{
    any::Any,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

pub use delayed::Delayed;
use foundation::planted::fail_point;
use rustix::fs::statvfs;
#[cfg(feature = "testing")]
pub use simulated::SimulatedDisk;

/// One folder.
pub trait Disk: Send + Sync + 'static {
    /// Keeps every other process out for as long as what is returned lives. It may wait for another
    /// for half a second.
    ///
    /// # Errors
    /// `WouldBlock` when another process is in.
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>>;

    /// The names of all files.
    ///
    /// # Errors
    /// When the folder cannot be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Reads a file from its beginning.
    ///
    /// # Errors
    /// When there is no such file.
    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>>;

    /// Makes a new, empty file.
    ///
    /// # Errors
    /// When it is there already, or cannot be made.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file to write to it.
    ///
    /// # Errors
    /// When there is no such file.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, in place of whichever had it.
    ///
    /// # Errors
    /// When it cannot be done.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// When it cannot be done.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names of files durable: after files were made, renamed or removed.
    ///
    /// # Errors
    /// Then nothing is known of what is durable.
    fn sync_directory(&self) -> io::Result<()>;

    /// How many bytes more it takes, of whoever is not root.
    ///
    /// # Errors
    /// When the file system does not say.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// A file that is written to.
pub trait DiskFile: Send {
    /// Writes all of it from byte `at` on; the file grows when it has to.
    ///
    /// # Errors
    /// Then some of it may have been written.
    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Makes the file end at byte `length`, which it has reached.
    ///
    /// # Errors
    /// When it cannot be done.
    fn truncate(&mut self, length: u64) -> io::Result<()>;

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// Then nothing is known of what is durable, and no later sync will tell: the kernel may have
    /// dropped the pages and called them clean (ATC '20, "Can Applications Recover from fsync
    /// Failures?"). Never call it again.
    fn sync(&mut self) -> io::Result<()>;
}

/// A folder of the machine's file system.
pub struct Directory {
    path: PathBuf,
}

const LOCK_FILE: &str = "LOCK";

/// A process that is started by another has what that one holds, until it begins its own program.
const LOCKED_FOR_A_MOMENT: Duration = Duration::from_millis(500);

impl Directory {
    /// The folder at `path`, made if it is not there yet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = std::path::absolute(path.into())?;
        let made: Vec<_> = path
            .ancestors()
            .take_while(|folder| !folder.exists())
            .collect();
        fs::create_dir_all(&path)?;
        // The names of the folders must be durable too, not only what is in them.
        for parent in made.into_iter().filter_map(Path::parent) {
            File::open(parent)?.sync_all()?;
        }
        // Also when somebody else made it, or an earlier start that was cut short. Where it stands
        // may not be ours to open.
        if let Some(parent) = path.parent()
            && let Ok(parent) = File::open(parent)
        {
            parent.sync_all()?;
        }
        Ok(Self { path })
    }
}

impl Disk for Directory {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.path.join(LOCK_FILE))?;
        let deadline = Instant::now() + LOCKED_FOR_A_MOMENT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Box::new(file)),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is no Unicode is none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(self.path.join(name))?))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path.join(name);
        Ok(Box::new(
            OpenOptions::new().write(true).create_new(true).open(path)?,
        ))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(
            OpenOptions::new().write(true).open(self.path.join(name))?,
        ))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let told = statvfs(&self.path)?;
        Ok(told.f_bavail.saturating_mul(told.f_frsize))
    }
}

impl DiskFile for File {
    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        if fail_point("sync") {
            return Err(io::Error::other("EIO"));
        }
        self.sync_data()
    }
}
