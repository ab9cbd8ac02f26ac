//! What a store in memory remembers of groups: the last one of each writer, and the marks.

mod marks;

use std::{collections::HashMap, sync::Arc};

use business::{
    email_domains::model::{
        Group, GroupId, Mark, MarkMemory, Member, Outcome, Outcomes, WriterId, resolve_marks,
    },
    kernel::UnixSeconds,
};
use foundation::planted::planted_bug;

pub use self::marks::MarkLimits;
pub(crate) use self::marks::{Marks, MarksCopy, Moments, StoredMark};

/// How many writers are remembered. A writer is one life of a committer and repeats nothing but
/// its last group, so only the latest few matter.
const MAX_WRITERS: usize = 1_024;

/// Decides what of a group is new. Its owner keeps it in step with the counts: both change under
/// one lock, and in one journal record where there is a journal.
pub(crate) struct Ledger {
    writers: HashMap<WriterId, LastGroup>,
    pub(crate) marks: Marks,
    /// Counts what was settled, to know the oldest writer.
    settled: u64,
}

#[derive(Clone)]
struct LastGroup {
    sequence: u64,
    outcomes: Outcomes,
    settled: u64,
}

/// What a group is to a ledger.
pub(crate) enum Standing {
    /// Not applied yet; these will be the outcomes.
    New(Outcomes),
    /// Applied before, with these outcomes.
    Repeated(Outcomes),
    /// Older than the writer's last group: its outcomes are not known any more.
    Outdated,
}

impl Ledger {
    pub(crate) fn new(limits: MarkLimits) -> Self {
        Self {
            writers: HashMap::new(),
            marks: Marks::new(limits),
            settled: 0,
        }
    }

    pub(crate) fn memory(&self) -> MarkMemory {
        self.marks.memory()
    }

    pub(crate) fn standing(&self, group: &Group) -> Standing {
        let last = group
            .id
            .and_then(|id| Some((id, self.writers.get(&id.writer)?)));
        match last {
            Some((id, last)) if id.sequence == last.sequence => {
                Standing::Repeated(last.outcomes.clone())
            }
            Some((id, last)) if id.sequence < last.sequence => Standing::Outdated,
            _ => {
                let horizon = match planted_bug("horizon-not-looked-at") {
                    true => 0.into(),
                    false => self.memory().horizon(group.formed_at),
                };
                let stored = |hash| self.marks.get(hash);
                Standing::New(resolve_marks(&group.members, horizon, stored))
            }
        }
    }

    /// Remembers a group that is applied now, and the marks it counted.
    pub(crate) fn settle(
        &mut self,
        id: Option<GroupId>,
        outcomes: &Outcomes,
        marks: impl IntoIterator<Item = Mark>,
        formed_at: UnixSeconds,
    ) {
        for mark in marks {
            self.marks.add(mark, formed_at);
        }
        let Some(GroupId { writer, sequence }) = id else {
            return;
        };
        if planted_bug("writer-not-remembered") {
            return;
        }
        self.settled += 1;
        let last = LastGroup {
            sequence,
            outcomes: outcomes.clone(),
            settled: self.settled,
        };
        self.writers.insert(writer, last);
        if self.writers.len() > MAX_WRITERS {
            let oldest = self.writers.iter().min_by_key(|(_, last)| last.settled);
            if let Some(oldest) = oldest.map(|(&writer, _)| writer) {
                self.writers.remove(&oldest);
            }
        }
    }

    /// The writers with their last sequence and its outcomes, the oldest first.
    pub(crate) fn writers(&self) -> Vec<(GroupId, Outcomes)> {
        let mut all: Vec<_> = self.writers.iter().collect();
        all.sort_unstable_by_key(|(_, last)| last.settled);
        all.into_iter()
            .map(|(&writer, last)| {
                let id = GroupId {
                    writer,
                    sequence: last.sequence,
                };
                (id, last.outcomes.clone())
            })
            .collect()
    }
}

/// The marks that count with these outcomes.
pub(crate) fn new_marks<'a>(
    members: &'a [Arc<Member>],
    outcomes: &'a Outcomes,
) -> impl Iterator<Item = Mark> + Clone + 'a {
    members
        .iter()
        .zip(outcomes)
        .filter(|(_, outcome)| **outcome == Outcome::Counted)
        .filter_map(|(member, _)| member.mark)
}
