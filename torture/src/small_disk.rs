//! A disk that can be filled.

#![allow(
    clippy::unwrap_used,
    reason = "a disk that cannot be had must fail the test"
)]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A small disk of its own where that may be mounted; otherwise the one that temporary files are on,
/// the bound being close below what is free there.
pub struct SmallDisk {
    folder: TempDir,
    mounted: bool,
    min_free_bytes: u64,
}

impl SmallDisk {
    /// An empty one.
    ///
    /// # Panics
    /// When there is no folder for it.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"])
            .arg(folder.path())
            .output();
        let mounted = mount.is_ok_and(|output| output.status.success());
        let min_free_bytes = match mounted {
            true => 16 * MIB,
            // Others use it too.
            false => free(folder.path()).saturating_sub(512 * MIB),
        };
        Self {
            folder,
            mounted,
            min_free_bytes,
        }
    }

    /// The bound that a server on it is set to.
    pub fn min_free_bytes(&self) -> u64 {
        self.min_free_bytes
    }

    /// Takes all on the small disk, and what is needed on a large one.
    pub fn fill(&self) {
        let file = File::create(self.filler()).unwrap();
        let mut bytes = match self.mounted {
            true => free(self.folder.path()),
            false => 1_024 * MIB,
        };
        // A server may be writing to it.
        while fallocate(&file, FallocateFlags::empty(), 0, bytes).is_err() {
            bytes -= 4_096;
        }
    }

    /// Gives it back.
    pub fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    /// Where a server keeps its data on it.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("somebody-else")
    }
}

impl Default for SmallDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg(self.folder.path()).output();
        }
    }
}

fn free(folder: &Path) -> u64 {
    let told = statvfs(folder).unwrap();
    told.f_bavail * told.f_frsize
}
