//! What the shadow still has to get, and whether it missed something.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use business::{
    email_domains::{
        model::{DomainName, Group, GroupId, Member, Outcome, WriterId},
        ports::Recorded,
    },
    kernel::{ErrorKind, PortError, UnixSeconds},
};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::metrics::Metrics;

/// So many events are recorded in the shadow together, unless one group has more.
const MAX_BATCH: usize = 65_536;
/// Domains that wait to be compared.
const MAX_SAMPLES: usize = 16;
/// A writer is a committer of this server; no setting allows for more.
const MAX_WRITERS: usize = 65_536;

/// Shared by those who record, the applier and the comparer. Nobody holds the lock for longer than
/// it takes to move a few words.
pub(super) struct Progress {
    state: Mutex<State>,
    /// As in the state, for those who need not lock it any more.
    lost: AtomicBool,
    capacity: usize,
    /// Until this second, groups may be of an earlier life of this server.
    began: UnixSeconds,
    work: Notify,
    pub(super) metrics: Metrics,
}

#[derive(Default)]
struct State {
    lost: bool,
    next_ticket: u64,
    /// Groups that are being recorded in the primary.
    in_flight: Vec<u64>,
    writers: HashMap<WriterId, Writer>,
    /// Writers with a group whose outcome is unknown.
    unsettled: usize,
    queue: VecDeque<Queued>,
    /// Events that the shadow has not applied, in the queue and taken from it.
    waiting: usize,
    /// Groups that were ever queued, and of these the ones that are applied.
    given: u64,
    applied: u64,
    samples: VecDeque<DomainName>,
}

#[derive(Default)]
struct Writer {
    /// Its last group that counted: one that is repeated is not given twice.
    given: Option<u64>,
    /// Its group of which nobody knows whether it counted.
    unsettled: Option<u64>,
}

/// What counted of a group.
struct Queued {
    formed_at: UnixSeconds,
    members: SmallVec<[Arc<Member>; 1]>,
    events: usize,
}

/// Groups of one second, to be recorded together.
pub(super) struct Batch {
    pub(super) formed_at: UnixSeconds,
    pub(super) members: SmallVec<[Arc<Member>; 1]>,
    events: usize,
    groups: u64,
}

/// What the comparer waits for.
pub(super) enum Awaited {
    /// It is there.
    Yes,
    /// It may come.
    NotYet,
    /// The shadow is out of step, or nobody knows.
    Never,
}

/// What became of a group at the primary.
enum Settled {
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
pub(super) enum Loss {
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

/// A group on its way through the primary. One that is dropped unsettled may have been applied.
pub(super) struct Flight<'a> {
    progress: &'a Progress,
    id: Option<GroupId>,
    /// `None` when nobody cares any more.
    ticket: Option<u64>,
}

impl Progress {
    pub(super) fn new(capacity: NonZeroU32, began: UnixSeconds, metrics: Metrics) -> Self {
        metrics.in_step.set(1);
        Self {
            state: Mutex::default(),
            lost: AtomicBool::new(false),
            capacity: capacity.get() as usize,
            began,
            work: Notify::new(),
            metrics,
        }
    }

    /// To be called before a group is recorded in the primary.
    pub(super) fn begin(&self, group: &Group) -> Flight<'_> {
        let mut flight = Flight {
            progress: self,
            id: group.id,
            ticket: None,
        };
        if self.is_lost() {
            return flight;
        }
        // One that an earlier life began and could not finish: it may be counted since.
        if group.id.is_some() && group.formed_at <= self.began {
            self.lose(&Loss::Earlier);
            return flight;
        }
        let mut state = self.state.lock();
        if state.went_on_from_unsettled(group.id) {
            drop(state);
            self.lose(&Loss::Unknown);
            return flight;
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.in_flight.push(ticket);
        flight.ticket = Some(ticket);
        flight
    }

    fn settle(&self, ticket: u64, id: Option<GroupId>, settled: Settled) {
        let mut state = self.state.lock();
        state.in_flight.retain(|other| *other != ticket);
        if state.lost {
            return;
        }
        let before = state.unsettled;
        let settled = state.settle(id, settled, self.capacity);
        self.metrics.queue_depth.set(signed(state.waiting));
        let after = state.unsettled;
        self.metrics.in_step.set(i64::from(after == 0));
        drop(state);
        match settled {
            Ok(false) => {}
            Ok(true) => self.work.notify_one(),
            Err(loss) => self.lose(&loss),
        }
        if before == 0 && after > 0 {
            tracing::warn!(
                "the shadow is not compared: nobody knows whether the primary counted a group"
            );
        }
    }

    /// The shadow missed something, for good. What waits for it is [discarded](Self::discard) by
    /// another, for it may be much.
    pub(super) fn lose(&self, loss: &Loss) {
        let mut state = self.state.lock();
        if mem::replace(&mut state.lost, true) {
            return;
        }
        self.lost.store(true, Ordering::Release);
        self.metrics.in_step.set(0);
        drop(state);
        self.work.notify_one();
        let source = std::error::Error::source(loss);
        tracing::error!(
            reason = %loss,
            source = source.map(tracing::field::display),
            "the shadow is out of step, and left alone until the next start"
        );
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Frees what waits for a shadow that is out of step.
    pub(super) fn discard(&self) {
        let mut state = self.state.lock();
        let all = (mem::take(&mut state.queue), mem::take(&mut state.writers));
        self.metrics.queue_depth.set(0);
        drop(state);
        drop(all);
    }

    /// The next groups for the shadow, all of one second, if there are any.
    pub(super) fn take(&self) -> Option<Batch> {
        let mut state = self.state.lock();
        if state.lost {
            return None;
        }
        let first = state.queue.pop_front()?;
        let mut batch = Batch {
            formed_at: first.formed_at,
            members: first.members,
            events: first.events,
            groups: 1,
        };
        while batch.events < MAX_BATCH {
            let next = state
                .queue
                .pop_front_if(|next| next.formed_at == batch.formed_at);
            let Some(next) = next else { break };
            batch.members.extend(next.members);
            batch.events += next.events;
            batch.groups += 1;
        }
        Some(batch)
    }

    /// Waits until there may be something to [take](Self::take), or no more will come.
    pub(super) async fn work(&self) {
        self.work.notified().await;
    }

    /// The shadow has it.
    pub(super) fn applied(&self, batch: &Batch, sample: Option<DomainName>) {
        let mut state = self.state.lock();
        state.waiting -= batch.events;
        state.applied += batch.groups;
        state.samples.extend(sample);
        if !state.lost {
            self.metrics.queue_depth.set(signed(state.waiting));
        }
    }

    pub(super) fn wants_sample(&self) -> bool {
        self.state.lock().samples.len() < MAX_SAMPLES
    }

    /// A domain to compare, unless there would be no point in it.
    pub(super) fn sample(&self) -> Option<DomainName> {
        let mut state = self.state.lock();
        if state.unsettled > 0 {
            return None;
        }
        state.samples.pop_front()
    }

    /// Stands for all groups that were begun until now.
    pub(super) fn begun(&self) -> u64 {
        self.state.lock().next_ticket
    }

    /// Whether all these groups are settled at the primary; then `given` stands for the ones that
    /// the shadow has to have.
    pub(super) fn settled(&self, begun: u64, given: &mut u64) -> Awaited {
        let state = self.state.lock();
        *given = state.given;
        if state.lost || state.unsettled > 0 {
            Awaited::Never
        } else if state.in_flight.iter().all(|ticket| *ticket >= begun) {
            Awaited::Yes
        } else {
            Awaited::NotYet
        }
    }

    /// Whether the shadow has all these groups.
    pub(super) fn has_applied(&self, given: u64) -> Awaited {
        let state = self.state.lock();
        if state.applied >= given {
            Awaited::Yes
        } else if state.lost {
            Awaited::Never
        } else {
            Awaited::NotYet
        }
    }
}

impl State {
    /// Whether the writer forms groups again though the outcome of its last one is unknown: then
    /// that one never comes again.
    fn went_on_from_unsettled(&self, id: Option<GroupId>) -> bool {
        let Some(id) = id.filter(|_| self.unsettled > 0) else {
            return false;
        };
        let unsettled = self.writers.get(&id.writer).and_then(|w| w.unsettled);
        unsettled.is_some_and(|unsettled| unsettled < id.sequence)
    }

    /// Whether the applier has to be woken.
    fn settle(
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

impl Flight<'_> {
    /// Says what became of the group.
    pub(super) fn settle(mut self, group: &Group, recorded: &Result<Recorded, PortError>) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let settled = match recorded {
            Ok(recorded) => Settled::Counted(Queued::of(group, &recorded.outcomes)),
            Err(error) => match error.kind() {
                ErrorKind::Unavailable | ErrorKind::Overloaded => Settled::Nothing,
                ErrorKind::Ambiguous | ErrorKind::Corrupt | ErrorKind::Unexpected => {
                    Settled::Unknown
                }
                _ => Settled::Refused,
            },
        };
        self.progress.settle(ticket, self.id, settled);
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.progress.settle(ticket, self.id, Settled::Unknown);
        }
    }
}

impl Queued {
    /// The members that counted; `None` when none did.
    fn of(group: &Group, outcomes: &[Outcome]) -> Option<Self> {
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

fn signed(events: usize) -> i64 {
    i64::try_from(events).unwrap_or(i64::MAX)
}
