//! What this is measured on.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    path::Path,
    thread::available_parallelism,
    time::Instant,
};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::sample::percentile;

/// In words and as JSON.
pub(crate) fn describe(data: &Path) -> anyhow::Result<(String, Value)> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1))
        .unwrap_or("unknown CPU");
    let cpus = available_parallelism()?;
    let memory = read("/proc/meminfo");
    let kib: f64 = memory
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .unwrap_or_default();
    let gib = kib / 1_048_576.0;
    let release = read("/proc/sys/kernel/osrelease");
    let kernel = release.trim();
    let (data_fs, temporary_fs) = (file_system(data), file_system(&std::env::temp_dir()));
    let sync_us = sync_us(data, 500)?;
    let words = format!(
        "Machine: {cpus} × {model}, {gib:.0} GiB, Linux {kernel}; data on {data_fs}, PostgreSQL's \
         on {temporary_fs}. One small append and fdatasync takes {sync_us:.0} µs here (median of \
         500). Client and server share the cores."
    );
    let json = json!({
        "cpus": cpus, "cpu_model": model, "memory_gib": gib, "kernel": kernel,
        "data_file_system": data_fs, "postgres_file_system": temporary_fs,
        "fdatasync_us": sync_us,
    });
    Ok((words, json))
}

/// The median time of one append of 64 bytes and its sync, in microseconds, in a file whose space
/// is allocated ahead, as a journal's is.
pub(crate) fn sync_us(folder: &Path, times: usize) -> anyhow::Result<f64> {
    let path = folder.join("sync");
    let mut file = file_with_space(&path, 1 << 20)?;
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let start = Instant::now();
        file.write_all(&[1; 64])?;
        file.sync_data()?;
        took.push(start.elapsed().as_secs_f64() * 1e6);
    }
    fs::remove_file(path)?;
    Ok(percentile(&mut took, 0.5))
}

/// A new file with so many bytes of zeros, to be written from its beginning.
pub(crate) fn file_with_space(path: &Path, bytes: u64) -> anyhow::Result<File> {
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    io::copy(&mut io::repeat(0).take(bytes), &mut file)?;
    file.sync_all()?;
    file.rewind()?;
    Ok(file)
}

/// As in "ext4 (/dev/vda)".
fn file_system(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (device, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
            path.starts_with(at).then_some((at.len(), device, kind))
        })
        // The last of several at one place is the one that is seen.
        .max_by_key(|(depth, ..)| *depth)
        .map_or_else(
            || "an unknown file system".to_owned(),
            |(_, device, kind)| format!("{kind} ({device})"),
        )
}
