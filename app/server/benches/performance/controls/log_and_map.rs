//! The least a durable store in one process can do: append a batch to a log whose space is
//! allocated ahead, sync it, and add it to a hash map. One thread; no HTTP, no parsing, no
//! checksum, no snapshot.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use hashbrown::{HashTable, hash_table::Entry};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    keys::{Draw, Keys, Name},
    machine::file_with_space,
    sample::{Latency, Run},
};

/// No encoded event is longer: length, name and two counts.
const MOST_BYTES: u64 = 1 + 18 + 8;

pub(crate) struct LogAndMap {
    keys: Keys,
    map: HashTable<(Name, [u32; 2])>,
}

impl LogAndMap {
    /// All domains of the set are there already.
    pub(crate) fn new(keys: Keys) -> Self {
        let mut this = Self {
            keys,
            map: HashTable::new(),
        };
        if let Keys::Uniform(domains) = keys {
            this.map.reserve(domains as usize, hash);
            (0..domains).for_each(|index| this.add(Name::derived(index), [1, 0]));
        }
        this
    }

    pub(crate) fn run(
        &mut self,
        folder: &Path,
        batch: u32,
        events: u64,
        seed: u64,
    ) -> anyhow::Result<Run> {
        let path = folder.join("log");
        let mut log = file_with_space(&path, events * MOST_BYTES)?;
        let mut draw = Draw::new(self.keys, seed);
        let mut bytes = Vec::new();
        let mut took = Vec::new();
        let mut left = events;
        while left > 0 {
            let now = left.min(batch.into());
            left -= now;
            // Drawn before the clock starts: it is what comes in.
            let events: Vec<_> = (0..now)
                .map(|_| (draw.name(), draw_counts(&mut draw)))
                .collect();
            let start = Instant::now();
            append(&mut log, &mut bytes, &events)?;
            for (name, counts) in events {
                self.add(name, counts);
            }
            took.push(start.elapsed());
        }
        fs::remove_file(path)?;
        let elapsed = took.iter().sum::<Duration>();
        let mut ms: Vec<_> = took.iter().map(|took| took.as_secs_f64() * 1e3).collect();
        Ok(Run {
            done: events,
            elapsed,
            latency: Latency::of(&mut ms),
        })
    }

    fn add(&mut self, name: Name, counts: [u32; 2]) {
        let hashed = xxh3_64(name.as_bytes());
        match self.map.entry(hashed, |known| known.0 == name, hash) {
            Entry::Occupied(mut known) => {
                for (sum, count) in known.get_mut().1.iter_mut().zip(counts) {
                    *sum += count;
                }
            }
            Entry::Vacant(unknown) => {
                unknown.insert((name, counts));
            }
        }
    }
}

fn hash(entry: &(Name, [u32; 2])) -> u64 {
    xxh3_64(entry.0.as_bytes())
}

fn append(log: &mut File, bytes: &mut Vec<u8>, events: &[(Name, [u32; 2])]) -> anyhow::Result<()> {
    bytes.clear();
    for (name, [delivered, bounced]) in events {
        bytes.push(name.as_bytes().len().to_le_bytes()[0]);
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&delivered.to_le_bytes());
        bytes.extend_from_slice(&bounced.to_le_bytes());
    }
    log.write_all(bytes)?;
    log.sync_data()?;
    Ok(())
}

fn draw_counts(draw: &mut Draw) -> [u32; 2] {
    if draw.bounces() { [0, 1] } else { [1, 0] }
}
