//! A disk whose syncs take longer.

use std::{
    any::Any,
    io::{self, Read},
    sync::Arc,
    thread,
    time::Duration,
};

use super::{Disk, DiskFile};

/// Another disk, each sync of which takes so much longer. For benchmarks: the disks of virtual
/// machines sync faster than those that a store is put on.
pub struct Delayed {
    disk: Arc<dyn Disk>,
    delay: Duration,
    pause: fn(Duration),
}

impl Delayed {
    /// `disk`, with `delay` added to every sync.
    pub fn new(disk: Arc<dyn Disk>, delay: Duration) -> Self {
        Self {
            disk,
            delay,
            pause: thread::sleep,
        }
    }

    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(DelayedFile {
            file,
            delay: self.delay,
            pause: self.pause,
        })
    }
}

impl Disk for Delayed {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.disk.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        self.disk.read(name)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.disk.create(name).map(|file| self.file(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(name).map(|file| self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        (self.pause)(self.delay);
        self.disk.sync_directory()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

struct DelayedFile {
    file: Box<dyn DiskFile>,
    delay: Duration,
    pause: fn(Duration),
}

impl DiskFile for DelayedFile {
    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_at(bytes, at)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.truncate(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        (self.pause)(self.delay);
        self.file.sync()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::email_domains::embedded::disk::Directory;

    thread_local! {
        static PAUSES: RefCell<Vec<Duration>> = const { RefCell::new(Vec::new()) };
    }

    #[test]
    fn every_sync_is_delayed_once_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let delay = Duration::from_micros(1_500);
        let mut disk = Delayed::new(Arc::new(Directory::new(folder.path()).unwrap()), delay);
        disk.pause = |delay| PAUSES.with_borrow_mut(|pauses| pauses.push(delay));
        let _lock = disk.lock().unwrap();
        let mut file = disk.create("a").unwrap();
        file.write_at(b"abc", 0).unwrap();
        file.truncate(2).unwrap();
        disk.rename("a", "b").unwrap();
        assert_eq!(PAUSES.take(), []);

        file.sync().unwrap();
        assert_eq!(PAUSES.take(), [delay]);
        disk.open("b").unwrap().sync().unwrap();
        assert_eq!(PAUSES.take(), [delay]);
        disk.sync_directory().unwrap();
        assert_eq!(PAUSES.take(), [delay]);

        let mut read = Vec::new();
        disk.read("b").unwrap().read_to_end(&mut read).unwrap();
        assert_eq!(read, b"ab");
        disk.remove("b").unwrap();
        assert_eq!(disk.list().unwrap(), ["LOCK"]);
        assert_eq!(PAUSES.take(), []);
    }
}
