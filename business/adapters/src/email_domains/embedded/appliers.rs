//! Threads that apply what is replayed, each to its part of the map.

use std::{
    io, mem,
    sync::mpsc,
    thread::{self, Scope},
};

use business::{email_domains::model::FoldedChange, kernel::UnixSeconds};

use crate::email_domains::tally_map::{Changes, TallyMap, part_of};

/// How many changes are handed over at once.
const HANDED_OVER: usize = 1_024;
/// How often a thread may be handed changes before it has applied the first.
const QUEUED: usize = 8;

/// Hands changes to the threads. Those of one shard are applied in the order they came.
pub(super) struct Appliers {
    parts: Vec<(Changes, mpsc::SyncSender<Changes>)>,
}

impl Appliers {
    /// Starts the threads; they end behind [`Self::finish`], and with them the scope does.
    pub(super) fn start<'scope, 'map>(
        scope: &'scope Scope<'scope, 'map>,
        map: &'map TallyMap,
        threads: usize,
    ) -> io::Result<Self> {
        let start = |number| {
            let (queue, changes) = mpsc::sync_channel(QUEUED);
            thread::Builder::new()
                .name("replay".into())
                .spawn_scoped(scope, move || {
                    let mut part = map.part(number, threads);
                    changes.iter().for_each(|changes| part.apply(&changes));
                })?;
            Ok((Changes::default(), queue))
        };
        let parts = (0..threads).map(start).collect::<io::Result<_>>()?;
        Ok(Self { parts })
    }

    /// Takes one change; `hash` is that of its domain.
    pub(super) fn add(&mut self, change: &FoldedChange<'_>, hash: u64, at: UnixSeconds) {
        let part = part_of(hash, self.parts.len());
        let (changes, queue) = &mut self.parts[part];
        changes.push(change, hash, at);
        if changes.len() == HANDED_OVER {
            hand_over(changes, queue);
        }
    }

    /// Hands over the rest.
    pub(super) fn finish(mut self) {
        for (changes, queue) in &mut self.parts {
            hand_over(changes, queue);
        }
    }
}

fn hand_over(changes: &mut Changes, queue: &mpsc::SyncSender<Changes>) {
    // Fails only behind a panic, which the scope passes on.
    let _ = queue.send(mem::take(changes));
}
