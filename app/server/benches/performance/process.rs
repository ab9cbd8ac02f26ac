//! What the kernel says of a process: the CPU time it took and the memory it has.

use std::{collections::HashSet, fs};

use anyhow::Context as _;

/// A server whose costs are measured: one process or, with PostgreSQL behind it, many.
#[derive(Clone, Copy)]
pub(crate) struct Processes {
    pub(crate) server: u32,
    /// The first process of the PostgreSQL that works for it.
    pub(crate) postmaster: Option<u32>,
}

impl Processes {
    /// CPU seconds so far, of all of them.
    pub(crate) fn cpu_seconds(self) -> anyhow::Result<f64> {
        let family = self.postmaster.map_or(Ok(0.0), family_cpu_seconds)?;
        Ok(Stat::read(self.server)?.own + family)
    }

    /// From now on [`Self::peak_mib`] is the most since now.
    pub(crate) fn reset_peak(self) -> anyhow::Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.server), "5").context("reset VmHWM")
    }

    /// The most memory the server itself had, in MiB; PostgreSQL shares its pages among processes,
    /// so that no sum over them would mean anything.
    pub(crate) fn peak_mib(self) -> anyhow::Result<f64> {
        status_kib(self.server, "VmHWM:").map(|kib| kib / 1024.0)
    }

    /// What the server itself has now, in bytes.
    pub(crate) fn resident_bytes(self) -> anyhow::Result<f64> {
        status_kib(self.server, "VmRSS:").map(|kib| kib * 1024.0)
    }
}

/// A process and all below it. The time of a child that ended is its parent's from then on, so the
/// sum never shrinks; the parent is read first, that none is counted twice.
fn family_cpu_seconds(root: u32) -> anyhow::Result<f64> {
    let first = Stat::read(root)?;
    let mut family = HashSet::from([root]);
    let mut sum = first.own + first.of_ended_children;
    let mut others: Vec<u32> = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    others.sort_unstable();
    for pid in others {
        // One that is gone by now did little.
        if let Ok(stat) = Stat::read(pid)
            && family.contains(&stat.parent)
        {
            family.insert(pid);
            sum += stat.own;
        }
    }
    Ok(sum)
}

struct Stat {
    parent: u32,
    own: f64,
    of_ended_children: f64,
}

impl Stat {
    /// proc(5): the fields behind the name, which stands in parentheses and may contain anything.
    fn read(pid: u32) -> anyhow::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, behind) = stat.rsplit_once(')').context("no process name")?;
        let fields: Vec<f64> = behind
            .split_whitespace()
            .skip(1)
            .map(|field| field.parse().unwrap_or(0.0))
            .collect();
        // fields[0] is the fourth of the manual, the parent; utime is its 14th.
        let ticks = |number: usize| fields.get(number - 4).copied().unwrap_or(0.0);
        #[expect(clippy::cast_precision_loss, reason = "a hundred or so")]
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        let parent = behind.split_whitespace().nth(1).context("no parent")?;
        Ok(Self {
            parent: parent.parse()?,
            own: (ticks(14) + ticks(15)) / per_second,
            of_ended_children: (ticks(16) + ticks(17)) / per_second,
        })
    }
}

fn status_kib(pid: u32, field: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix(field)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .with_context(|| format!("no {field}"))
}
