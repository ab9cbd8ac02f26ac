//! A disk that can be filled.

#![allow(
    clippy::unwrap_used,
    reason = "a disk that cannot be had must fail the test"
)]

use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{self, Command},
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A small disk of its own where that may be mounted; otherwise the one that temporary files are on,
/// the bound being below what is free there.
pub struct SmallDisk {
    root: Root,
    min_free_bytes: u64,
}

enum Root {
    /// Mounted, and detached at once: it lives as long as this handle, so nothing is left however
    /// this process ends.
    Mounted(File),
    Shared(TempDir),
}

impl SmallDisk {
    /// An empty one.
    ///
    /// # Panics
    /// When there is no folder for it.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        if let Some(root) = mount(folder.path()) {
            return Self {
                root: Root::Mounted(root),
                min_free_bytes: 16 * MIB,
            };
        }
        // Others use it too.
        let free = free(folder.path());
        Self {
            root: Root::Shared(folder),
            min_free_bytes: free - free / 8,
        }
    }

    /// The bound that a server on it is set to.
    pub fn min_free_bytes(&self) -> u64 {
        self.min_free_bytes
    }

    /// Takes all on the small disk, and what is needed on a large one.
    ///
    /// # Panics
    /// When it cannot.
    pub fn fill(&self) {
        let file = File::create(self.filler()).unwrap();
        let free = free(&self.root.path());
        let mut bytes = match self.root {
            Root::Mounted(_) => free,
            Root::Shared(_) => free / 4,
        };
        // A server may be writing to it.
        while let Err(error) = fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            assert_eq!(error, rustix::io::Errno::NOSPC);
            bytes = bytes.checked_sub(4_096).unwrap();
        }
    }

    /// Gives it back.
    ///
    /// # Panics
    /// When it was not taken.
    pub fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    /// Where a server keeps its data on it.
    pub fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn filler(&self) -> PathBuf {
        self.root.path().join("somebody-else")
    }
}

impl Default for SmallDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl Root {
    fn path(&self) -> PathBuf {
        match self {
            Self::Mounted(root) => {
                format!("/proc/{}/fd/{}", process::id(), root.as_raw_fd()).into()
            }
            Self::Shared(folder) => folder.path().to_owned(),
        }
    }
}

fn mount(folder: &Path) -> Option<File> {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]);
    let mounted = mount.arg(folder).output().ok()?.status.success();
    mounted.then(|| {
        let root = File::open(folder).unwrap();
        let detached = Command::new("umount").arg("-l").arg(folder).output();
        assert!(detached.unwrap().status.success());
        root
    })
}

fn free(folder: &Path) -> u64 {
    let told = statvfs(folder).unwrap();
    told.f_bavail * told.f_frsize
}
