//! The bookkeeping of it, without a lock.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use business::{
    email_domains::model::{DomainName, Group, GroupId, Member, Outcome, WriterId},
    kernel::{PortError, UnixSeconds},
};
use smallvec::SmallVec;

/// A writer is a committer of this server; no setting allows for more.
const MAX_WRITERS: usize = 65_536;

#[derive(Default)]
pub(super) struct State {
    pub(super) lost: bool,
    pub(super) next_ticket: u64,
    /// Groups that are being recorded in the primary.
    pub(super) in_flight: Vec<u64>,
    pub(super) writers: HashMap<WriterId, Writer>,
    /// Writers with a group whose outcome is unknown.
    pub(super) unsettled: usize,
    pub(super) queue: VecDeque<Queued>,
    /// Events that the shadow has not applied, in the queue and taken from it.
    pub(super) waiting: usize,
    /// Groups that were ever queued, and of these the ones that are applied.
    pub(super) given: u64,
    pub(super) applied: u64,
    pub(super) samples: VecDeque<DomainName>,
}

#[derive(Default)]
pub(super) struct Writer {
    /// Its last group that counted: one that is repeated is not given twice.
    given: Option<u64>,
    /// Its group of which nobody knows whether it counted.
    unsettled: Option<u64>,
}

/// What counted of a group.
pub(super) struct Queued {
    pub(super) formed_at: UnixSeconds,
    pub(super) members: SmallVec<[Arc<Member>; 1]>,
    pub(super) events: usize,
}

/// What became of a group at the primary.
pub(super) enum Settled {
    Counted(Option<Queued>),
    /// Nothing was applied; it may come again.
    Nothing,
    /// Nothing was applied, and it will not come again.
    Refused,
    /// It may have been applied.
    Unknown,
}

/// Why the shadow is out of step.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum Loss {
    #[error("more waits for it than may wait")]
    Full,
    #[error("nobody knows whether the primary counted a group, and it was not sent again")]
    Unknown,
    #[error("a group of an earlier life was recorded: nobody knows whether the copy held it")]
    Earlier,
    #[error("there are too many writers")]
    Writers,
    #[error("it did not take a group")]
    Refused(#[source] PortError),
    #[error("a part of it broke: {0}")]
    Broken(String),
}

impl State {
    /// Whether the writer forms groups again though the outcome of its last one is unknown: then
    /// that one never comes again.
    pub(super) fn went_on_from_unsettled(&self, id: Option<GroupId>) -> bool {
        let Some(id) = id.filter(|_| self.unsettled > 0) else {
            return false;
        };
        let unsettled = self.writers.get(&id.writer).and_then(|w| w.unsettled);
        unsettled.is_some_and(|unsettled| unsettled < id.sequence)
    }

    /// Whether the applier has to be woken.
    pub(super) fn settle(
        &mut self,
        id: Option<GroupId>,
        settled: Settled,
        capacity: usize,
    ) -> Result<bool, Loss> {
        let writer = id.map(|id| (id.sequence, self.writers.entry(id.writer).or_default()));
        let queued = match (settled, writer) {
            (Settled::Nothing, _) | (Settled::Refused, None) => None,
            (Settled::Refused, Some((sequence, writer))) => {
                if writer.unsettled == Some(sequence) {
                    return Err(Loss::Unknown);
                }
                None
            }
            (Settled::Unknown, None) => return Err(Loss::Unknown),
            // Told late: it was given before, when it was repeated.
            (Settled::Unknown, Some((sequence, writer))) if writer.given >= Some(sequence) => None,
            (Settled::Unknown, Some((sequence, writer))) => {
                if writer.unsettled.replace(sequence).is_none() {
                    self.unsettled += 1;
                }
                None
            }
            (Settled::Counted(queued), None) => queued,
            (Settled::Counted(queued), Some((sequence, writer))) => {
                if writer.unsettled == Some(sequence) {
                    writer.unsettled = None;
                    self.unsettled -= 1;
                }
                let is_new = writer.given.is_none_or(|given| given < sequence);
                if is_new {
                    writer.given = Some(sequence);
                }
                queued.filter(|_| is_new)
            }
        };
        if self.writers.len() > MAX_WRITERS {
            return Err(Loss::Writers);
        }
        let Some(queued) = queued else {
            return Ok(false);
        };
        // The group that reaches the bound still goes in: so every group fits that waits alone.
        if self.waiting >= capacity {
            return Err(Loss::Full);
        }
        let idle = self.queue.is_empty();
        self.waiting += queued.events;
        self.given += 1;
        self.queue.push_back(queued);
        Ok(idle)
    }
}

impl Queued {
    /// The members that counted; `None` when none did.
    pub(super) fn of(group: &Group, outcomes: &[Outcome]) -> Option<Self> {
        let members: SmallVec<[Arc<Member>; 1]> = group
            .members
            .iter()
            .zip(outcomes)
            .filter(|(_, outcome)| **outcome == Outcome::Counted)
            .map(|(member, _)| Arc::clone(member))
            .collect();
        let events = members.iter().map(|member| member.changes.len().max(1));
        let events = events.sum();
        (!members.is_empty()).then_some(Self {
            formed_at: group.formed_at,
            members,
            events,
        })
    }
}
