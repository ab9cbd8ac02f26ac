//! A disk that somebody else fills.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tempfile::TempDir;

use crate::support::{Account, DEADLINE, Kind, Setup, names, until};

const MIB: u64 = 1 << 20;

/// A disk that can be filled: a small one of its own where that may be mounted; otherwise the one
/// that temporary files are on, the bound being close below what is free there.
struct Disk {
    folder: TempDir,
    mounted: bool,
    min_free_bytes: u64,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"])
            .arg(folder.path())
            .output();
        let mounted = mount.is_ok_and(|output| output.status.success());
        let min_free_bytes = match mounted {
            true => 16 * MIB,
            // Other tests use it too.
            false => free(folder.path()).saturating_sub(512 * MIB),
        };
        Self {
            folder,
            mounted,
            min_free_bytes,
        }
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("somebody-else")
    }

    /// Takes all on the small disk, and what is needed on a large one.
    fn fill(&self) {
        let bytes = match self.mounted {
            true => free(self.folder.path()),
            false => 1_024 * MIB,
        };
        let file = File::create(self.filler()).unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, bytes).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for Disk {
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

#[tokio::test]
async fn a_disk_that_is_nearly_full_takes_no_event_and_loses_none() {
    let disk = Disk::new();
    let setup = Setup::embedded(&disk.data())
        .set("store.embedded.segment_bytes", MIB)
        .set("store.embedded.min_free_bytes", disk.min_free_bytes);
    let server = setup.start();
    let domains = names(1);
    let mut account = Account::new(&domains);
    let mut connection = server.connect().await;
    let answer = connection.put("d0.example", Kind::Delivered).await.unwrap();
    assert_eq!(answer.status, 204, "{answer:?}");
    account.acknowledge(0, Kind::Delivered);

    disk.fill();
    let filled = Instant::now();
    let refused = loop {
        assert!(filled.elapsed() < DEADLINE, "it goes on");
        let answer = connection.put("d0.example", Kind::Delivered).await.unwrap();
        if answer.status != 204 {
            break answer;
        }
        account.acknowledge(0, Kind::Delivered);
    };
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.field("retry-after"), Some("1"));
    assert_eq!(refused.json()["type"], "urn:catchall:problem:unavailable");
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status, 503, "{ready:?}");
    let told = ready.text().to_owned();
    assert!(told.contains("no room to write on its disk"), "{told}");
    assert_eq!(server.get("/livez").await.status, 200);
    account.settle(&server).await;

    disk.free();
    let freed = Instant::now();
    until("the server is ready", async || {
        server.get("/readyz").await.status == 200
    })
    .await;
    let answer = connection.put("d0.example", Kind::Bounced).await.unwrap();
    assert_eq!(answer.status, 204, "{answer:?}");
    assert!(freed.elapsed() < Duration::from_secs(5));
    account.acknowledge(0, Kind::Bounced);

    // Nor does it start on such a disk; and when it does, all is there.
    server.stop();
    disk.fill();
    let reason = setup.refused();
    assert!(reason.contains("min_free_bytes"), "{reason}");
    disk.free();
    let server = setup.start();
    account.settle(&server).await;
    server.stop();
}
