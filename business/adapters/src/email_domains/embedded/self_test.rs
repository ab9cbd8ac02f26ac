//! What is tried before a store serves.

use std::io::{self, Read};

use super::{disk::Disk, error::OpenError};

/// Removed when it was written, and by the next start after a crash in between.
const PROBE: &str = "probe.tmp";

/// Writes a file, makes it durable, reads it and leaves nothing behind: a disk that cannot do that
/// is known before the first event is.
pub(super) fn write_and_read(disk: &dyn Disk) -> Result<(), OpenError> {
    let content = [0x5a; 512];
    let listed = disk.list().map_err(OpenError::io(".", "list it"))?;
    if listed.iter().any(|name| name == PROBE) {
        disk.remove(PROBE)
            .map_err(OpenError::io(PROBE, "remove it"))?;
    }
    let written = write(disk, &content);
    let read = written.and_then(|()| read(disk, content.len()));
    let removed = disk
        .remove(PROBE)
        .and_then(|()| disk.sync_directory())
        .map_err(OpenError::io(PROBE, "remove it"));
    if read? != content {
        return Err(OpenError::corrupt(
            PROBE,
            0,
            "not what was written a moment ago",
        ));
    }
    removed
}

fn write(disk: &dyn Disk, content: &[u8]) -> Result<(), OpenError> {
    let file = disk.create(PROBE);
    let mut file = file.map_err(OpenError::io(PROBE, "make it"))?;
    file.write_at(content, 0)
        .map_err(OpenError::io(PROBE, "write to it"))?;
    file.sync()
        .and_then(|()| disk.sync_directory())
        .map_err(OpenError::io(PROBE, "sync it"))
}

fn read(disk: &dyn Disk, length: usize) -> Result<Vec<u8>, OpenError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut content = Vec::with_capacity(length);
        disk.read(PROBE)?.read_to_end(&mut content)?;
        Ok(content)
    };
    read().map_err(OpenError::io(PROBE, "read it"))
}
