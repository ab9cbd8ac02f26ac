//! What the shadow still has to get, and whether it missed something.

mod state;

use std::{
    mem,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use business::{
    email_domains::{
        model::{DomainName, Group, GroupId, Member},
        ports::Recorded,
    },
    kernel::{ErrorKind, PortError, UnixSeconds},
};
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;
use tokio::sync::Notify;

pub(super) use self::state::Loss;
use self::state::{Queued, Settled, State};
use super::metrics::Metrics;

/// So many events are recorded in the shadow together, unless one group has more.
const MAX_BATCH: usize = 65_536;
/// So many groups are taken at once: those who record wait meanwhile.
const MAX_GROUPS: usize = 1_024;
/// Domains that wait to be compared.
const MAX_SAMPLES: usize = 16;

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
            self.lose_under(state, &Loss::Unknown);
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
        let wakes = match state.settle(id, settled, self.capacity) {
            Ok(wakes) => wakes,
            // Before anybody can give it what came after.
            Err(loss) => return self.lose_under(state, &loss),
        };
        self.metrics.queue_depth.set(signed(state.waiting));
        let after = state.unsettled;
        self.metrics.in_step.set(i64::from(after == 0));
        drop(state);
        if wakes {
            self.work.notify_one();
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
        self.lose_under(self.state.lock(), loss);
    }

    fn lose_under(&self, mut state: MutexGuard<'_, State>, loss: &Loss) {
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
        let (formed_at, mut events) = (first.formed_at, first.events);
        let mut taken = vec![first];
        while events < MAX_BATCH && taken.len() < MAX_GROUPS {
            let next = state.queue.pop_front_if(|next| next.formed_at == formed_at);
            let Some(next) = next else { break };
            events += next.events;
            taken.push(next);
        }
        drop(state);
        let groups = taken.len() as u64;
        let members = taken.into_iter().flat_map(|queued| queued.members);
        Some(Batch {
            formed_at,
            members: members.collect(),
            events,
            groups,
        })
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

fn signed(events: usize) -> i64 {
    i64::try_from(events).unwrap_or(i64::MAX)
}
