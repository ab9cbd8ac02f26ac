use std::{collections::HashMap, sync::Arc, thread};

use business::{
    email_domains::{
        model::{DomainName, Group, GroupId, WriterId},
        ports::{DomainTallies, Recorded},
        verdict::VerdictChange,
    },
    kernel::{Clock, PortError},
};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::{Metrics, Waiting, answers::answer_all, oldest::Oldest};

/// A group is closed when it has this many changes, so that one write stays bounded however many
/// large requests wait. The request that reaches the bound still goes in: it is never split.
const MAX_CHANGES: usize = 65_536;

/// Forms groups and records them, one after the other.
pub(super) struct Committer {
    inner: Arc<dyn DomainTallies>,
    clock: Arc<dyn Clock>,
    waiting: mpsc::Receiver<Waiting>,
    /// The first of the next group, when this one is full: only who has it knows how long it waits.
    left: Option<Waiting>,
    oldest: Arc<Oldest>,
    closing: watch::Receiver<bool>,
    metrics: Metrics,
    writer: WriterId,
    sequence: u64,
}

impl Committer {
    pub(super) fn new(
        inner: Arc<dyn DomainTallies>,
        clock: Arc<dyn Clock>,
        waiting: mpsc::Receiver<Waiting>,
        oldest: Arc<Oldest>,
        closing: watch::Receiver<bool>,
        metrics: Metrics,
    ) -> Self {
        let writer = WriterId(Uuid::new_v4().as_u128());
        Self {
            inner,
            clock,
            waiting,
            left: None,
            oldest,
            closing,
            metrics,
            writer,
            sequence: 0,
        }
    }

    /// Runs until it is told to close and nothing waits any more, or until nobody can send.
    pub(super) async fn run(mut self) {
        let mut open = true;
        loop {
            let first = match self.left.take() {
                Some(left) => Some(left),
                None => tokio::select! {
                    biased;
                    // An error means that the policy is gone. What waits already is still received.
                    _ = self.closing.wait_for(|close| *close), if open => {
                        self.waiting.close();
                        open = false;
                        continue;
                    }
                    first = self.waiting.recv() => first,
                },
            };
            let Some(first) = first else { return };
            // The threads that serve go first: on a busy processor they add to the group instead
            // of being interrupted for it, and on an idle one this returns at once. Groups
            // are larger for it, and events cheaper (docs/performance.md).
            thread::yield_now();
            let waiting = self.take(first);
            self.commit(waiting).await;
        }
    }

    /// All that waits now, within the bound.
    fn take(&mut self, first: Waiting) -> Vec<Waiting> {
        let mut changes = first.changes();
        let mut all = vec![first];
        while let Ok(next) = self.waiting.try_recv() {
            if changes >= MAX_CHANGES {
                self.left = Some(next);
                break;
            }
            changes += next.changes();
            all.push(next);
        }
        self.oldest
            .settle(self.left.as_ref().map(|left| left.queued_ms));
        self.metrics.depth.sub(all.len() as i64);
        self.metrics.group_requests.observe(all.len() as f64);
        self.metrics.group_changes.observe(changes as f64);
        all
    }

    async fn commit(&mut self, waiting: Vec<Waiting>) {
        self.sequence += 1;
        let group = Group {
            id: Some(GroupId {
                writer: self.writer,
                sequence: self.sequence,
            }),
            formed_at: self.clock.now(),
            members: waiting
                .iter()
                .flat_map(|request| request.members.iter().cloned())
                .collect(),
        };
        let recorded = self.inner.record(&group).await;
        answer(waiting, recorded);
    }
}

impl Waiting {
    fn changes(&self) -> usize {
        self.members.iter().map(|member| member.changes.len()).sum()
    }
}

/// Gives every caller the outcomes of its own members, and the verdict changes of its own domains,
/// each change to one caller only.
fn answer(waiting: Vec<Waiting>, recorded: Result<Recorded, PortError>) {
    let recorded = match recorded {
        Ok(recorded) => recorded,
        Err(error) => {
            return answer_all(
                waiting
                    .into_iter()
                    .map(|request| (request.ticket, Err(error.clone()))),
            );
        }
    };
    let mut outcomes = recorded.outcomes.into_iter();
    let mut changes: HashMap<DomainName, VerdictChange> = recorded
        .verdict_changes
        .into_iter()
        .map(|change| (change.domain.clone(), change))
        .collect();
    answer_all(waiting.into_iter().map(|request| {
        let Waiting {
            members, ticket, ..
        } = request;
        let outcomes = outcomes.by_ref().take(members.len()).collect();
        let verdict_changes = if changes.is_empty() {
            Vec::new()
        } else {
            let domains = members.iter().flat_map(|member| member.changes.iter());
            domains
                .filter_map(|change| changes.remove(&change.domain.to_name()))
                .collect()
        };
        (
            ticket,
            Ok(Recorded {
                outcomes,
                verdict_changes,
            }),
        )
    }));
}
