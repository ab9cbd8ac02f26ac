use std::{
    collections::HashMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use business::{
    email_domains::{
        model::{DomainName, Group, GroupId, WriterId},
        ports::{DomainTallies, Recorded},
        verdict::VerdictChange,
    },
    kernel::{Clock, PortError},
};
use foundation::{supervision::Heart, telemetry::shared_span};
use prometheus::Counter;
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::timeout,
};
use tracing::{Instrument, field};
use uuid::Uuid;

use super::{Metrics, Waiting, answers::answer_all, oldest::Oldest};
use crate::email_domains::{Accounting, traced::show_failure};

/// A group is closed when it has this many changes, so that one write stays bounded however many
/// large requests wait. The request that reaches the bound still goes in: it is never split.
const MAX_CHANGES: usize = 65_536;

/// How often a committer that waits for its store shows that it lives.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// Forms groups and records them, one after the other. Each of its lives is a writer of its own.
pub(super) struct Committer {
    pub(super) inner: Arc<dyn DomainTallies>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) incoming: Incoming,
    pub(super) oldest: Arc<Oldest>,
    pub(super) accounting: Accounting,
    pub(super) metrics: Metrics,
}

/// Events that a life of a committer has taken from the queue. However it ends, they are in flight no
/// more.
struct Taken<'a> {
    accounting: &'a Accounting,
    events: u64,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.accounting.dequeued(self.events);
    }
}

/// What waits for a committer. A life that is stuck while it records does not hold it, so that the
/// next one goes on with it.
pub(super) struct Incoming(Mutex<Queue>);

struct Queue {
    waiting: mpsc::Receiver<Waiting>,
    /// The first of the next group, when this one is full: only who has it knows how long it waits.
    left: Option<Waiting>,
    closing: watch::Receiver<bool>,
    open: bool,
}

impl Incoming {
    pub(super) fn new(waiting: mpsc::Receiver<Waiting>, closing: watch::Receiver<bool>) -> Self {
        Self(Mutex::new(Queue {
            waiting,
            left: None,
            closing,
            open: true,
        }))
    }
}

impl Queue {
    /// The next that waits; `None` when it is to close and nothing waits any more, or when nobody
    /// can send.
    async fn next(&mut self) -> Option<Waiting> {
        if let Some(left) = self.left.take() {
            return Some(left);
        }
        loop {
            tokio::select! {
                biased;
                // An error means that the policy is gone. What waits already is still received.
                _ = self.closing.wait_for(|close| *close), if self.open => {
                    self.waiting.close();
                    self.open = false;
                }
                next = self.waiting.recv() => return next,
            }
        }
    }
}

impl Committer {
    /// One life, on a runtime of its own: a store may block it, and answers of a database arrive
    /// where they are awaited.
    pub(super) fn run(&self, heart: &Heart) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.commit_all(heart)),
            // As with any panic, it is tried again a few times, and then the process stops.
            Err(error) => panic!("no runtime: {error}"),
        }
    }

    /// Until it is told to close and nothing waits any more, or another has its place.
    async fn commit_all(&self, heart: &Heart) {
        let mut id = GroupId {
            writer: WriterId(Uuid::new_v4().as_u128()),
            sequence: 0,
        };
        loop {
            let waiting = {
                let mut queue = self.incoming.0.lock().await;
                let next = tokio::select! {
                    biased;
                    () = heart.replaced() => return,
                    next = queue.next() => next,
                };
                let Some(first) = next else { return };
                heart.beats();
                // The threads that serve go first: on a busy processor they add to the group instead
                // of being interrupted for it, and on an idle one this returns at once. Groups
                // are larger for it, and events cheaper (docs/performance.md).
                thread::yield_now();
                self.take(&mut queue, first)
            };
            id.sequence += 1;
            self.commit(id, waiting, heart).await;
            heart.rests();
        }
    }

    /// All that waits now, within the bound.
    fn take(&self, queue: &mut Queue, first: Waiting) -> Vec<Waiting> {
        let mut changes = first.changes();
        let mut all = vec![first];
        while let Ok(next) = queue.waiting.try_recv() {
            if changes >= MAX_CHANGES {
                queue.left = Some(next);
                break;
            }
            changes += next.changes();
            all.push(next);
        }
        self.oldest
            .settle(queue.left.as_ref().map(|left| left.queued_ms));
        self.metrics.depth.sub(all.len() as i64);
        self.metrics.group_requests.observe(all.len() as f64);
        self.metrics.group_changes.observe(changes as f64);
        all
    }

    async fn commit(&self, id: GroupId, waiting: Vec<Waiting>, heart: &Heart) {
        let group = Group {
            id: Some(id),
            formed_at: self.clock.now(),
            members: waiting
                .iter()
                .flat_map(|request| request.members.iter().cloned())
                .collect(),
        };
        let taken = Taken {
            accounting: &self.accounting,
            events: waiting.iter().map(|request| request.events).sum(),
        };
        let callers = waiting.iter().filter_map(|request| request.caller.as_ref());
        let span = shared_span(callers, || {
            tracing::debug_span!(
                "commit group",
                requests = waiting.len(),
                members = group.members.len(),
                otel.status_code = field::Empty,
                error.type = field::Empty,
            )
        });
        let mut busy = Busy {
            seconds: &self.metrics.busy_seconds,
            since: Instant::now(),
        };
        let mut recording = self.inner.record(&group).instrument(span.clone());
        let recorded = loop {
            // Who waits for an answer lives; how long for is not for here. Who is blocked does not
            // get to this.
            match timeout(ALIVE_EVERY, &mut recording).await {
                Ok(recorded) => break recorded,
                Err(_) => {
                    heart.beats();
                    busy.show();
                }
            }
        };
        drop(recording);
        if let Err(error) = &recorded {
            show_failure(&span, error);
        }
        // It ends here, before those it was for.
        drop(span);
        drop(busy);
        drop(taken);
        answer(waiting, recorded);
    }
}

/// The time in which a group is recorded; what is left of it is shown when that ends, however it does.
struct Busy<'a> {
    seconds: &'a Counter,
    since: Instant,
}

impl Busy<'_> {
    fn show(&mut self) {
        let now = Instant::now();
        self.seconds
            .inc_by(now.duration_since(self.since).as_secs_f64());
        self.since = now;
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.show();
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
