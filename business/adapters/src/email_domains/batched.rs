//! Group commit: many callers share one write.
//!
//! A committer takes all that waits the moment it is free, forms one group of it, records it, and
//! answers every caller. There is no timer: a lone event is written at once, and under load the
//! groups grow by themselves, for while one is written the next one gathers.

mod answers;
mod committer;
mod oldest;

use std::{
    io,
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use business::{
    email_domains::{
        model::{DomainName, Group, Member, Tally},
        ports::{DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, Totals},
    },
    kernel::{Clock, ErrorKind, PortError},
};
use foundation::{
    planted::planted_bug,
    supervision::{Role, Shutdown, Worker, spawn_worker},
    telemetry::{Caller, metrics::GROUP_SIZE},
};
use prometheus::{
    Counter, Histogram, IntGauge, Registry, register_counter_vec_with_registry,
    register_histogram_with_registry, register_int_gauge_vec_with_registry,
};
use smallvec::SmallVec;
use tokio::sync::{
    Semaphore,
    mpsc::{self, error::TrySendError},
    watch,
};

use self::{
    answers::Ticket,
    committer::{Committer, Incoming},
    oldest::{Oldest, OldestWait, now_ms},
};
use super::{Accounting, accounting::events_of};

/// How requests wait.
#[derive(Clone, Copy, Debug)]
pub struct BatchedOptions {
    /// How many committers write at the same time. Each has a thread, and in PostgreSQL a
    /// connection, of its own.
    pub committers: NonZeroUsize,
    /// How many requests may wait for each committer; one more is refused.
    pub queue_capacity: NonZeroU32,
    /// Once a request has waited for longer than this, its committer's queue takes no more until it
    /// moves: who cannot be served soon is told so at once. Those that wait already stay.
    pub max_wait: Duration,
}

/// Groups what callers record, and records the groups in `inner`.
///
/// The id and the time of a caller's group are not kept: the groups formed here have their own. A
/// caller that hangs up takes nothing back: what is queued is recorded.
pub struct Batched {
    inner: Arc<dyn DomainTallies>,
    lanes: Box<[Lane]>,
    max_wait_ms: u64,
    /// Whose turn it is among the lanes.
    turn: AtomicUsize,
    accounting: Accounting,
    close: watch::Sender<bool>,
    workers: Vec<Worker>,
}

/// A committer that writes for longer is stuck: the stores give up long before.
const COMMITTER: Role = Role {
    name: "committer",
    group: "store",
    patience: Duration::from_secs(60),
};

/// The way to one committer.
struct Lane {
    sender: mpsc::Sender<Waiting>,
    oldest: Arc<Oldest>,
    depth: IntGauge,
}

/// A caller's members, and where the answer goes.
struct Waiting {
    members: SmallVec<[Arc<Member>; 1]>,
    events: u64,
    ticket: Ticket,
    /// Whose trace is to show the group.
    caller: Option<Caller>,
    /// When it came, by [`now_ms`].
    queued_ms: u64,
}

/// What a committer counts.
struct Metrics {
    depth: IntGauge,
    busy_seconds: Counter,
    group_requests: Histogram,
    group_changes: Histogram,
}

impl Batched {
    /// Starts the committers over `inner`. One that panics is started again; what it was recording
    /// is answered as unknown.
    ///
    /// # Errors
    /// When threads or metrics cannot be made.
    pub fn start(
        inner: Arc<dyn DomainTallies>,
        options: BatchedOptions,
        clock: &Arc<dyn Clock>,
        shutdown: &Shutdown,
        accounting: &Accounting,
        registry: &Registry,
    ) -> io::Result<Self> {
        let metrics = Metrics::register(registry, &options).map_err(io::Error::other)?;
        let (close, closing) = watch::channel(false);
        let mut lanes = Vec::with_capacity(options.committers.get());
        let mut workers = Vec::with_capacity(options.committers.get());
        for metrics in metrics {
            let depth = metrics.depth.clone();
            let oldest = Arc::new(Oldest::nobody());
            let capacity = match planted_bug("queue-without-bound") {
                true => Semaphore::MAX_PERMITS,
                false => options.queue_capacity.get() as usize,
            };
            let (sender, waiting) = mpsc::channel(capacity);
            let committer = Committer {
                inner: Arc::clone(&inner),
                clock: Arc::clone(clock),
                incoming: Incoming::new(waiting, closing.clone()),
                oldest: Arc::clone(&oldest),
                accounting: accounting.clone(),
                metrics,
            };
            workers.push(spawn_worker(COMMITTER, shutdown, move |heart| {
                committer.run(heart);
            })?);
            lanes.push(Lane {
                sender,
                oldest,
                depth,
            });
        }
        let oldest = lanes.iter().map(|lane: &Lane| Arc::clone(&lane.oldest));
        registry
            .register(Box::new(OldestWait::new(oldest).map_err(io::Error::other)?))
            .map_err(io::Error::other)?;
        Ok(Self {
            inner,
            lanes: lanes.into(),
            max_wait_ms: u64::try_from(options.max_wait.as_millis()).unwrap_or(u64::MAX),
            turn: AtomicUsize::new(0),
            accounting: accounting.clone(),
            close,
            workers,
        })
    }

    /// Takes nothing more, records what waits, and returns when all of it is answered.
    pub async fn close(&self) {
        self.close.send_replace(true);
        for worker in &self.workers {
            worker.ended().await;
        }
    }

    /// Single events go to one committer: a group costs much by itself and little for each event,
    /// so a few large ones are quicker than many small ones that are written side by side. A
    /// larger request is worth a write of its own: they go whole to the other committers in turn,
    /// if there are others, so that single events do not wait behind them.
    fn lane(&self, group: &Group) -> Option<&Lane> {
        let mut changes = group
            .members
            .iter()
            .flat_map(|member| member.changes.iter());
        let (single, others) = self.lanes.split_first()?;
        if changes.nth(1).is_none() || others.is_empty() {
            return Some(single);
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        others.get(turn % others.len())
    }
}

#[async_trait]
impl DomainTallies for Batched {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        let events = events_of(group);
        let refused = |kind, step| {
            self.accounting.refused(events, kind);
            PortError::new(kind, step)
        };
        let lane = self
            .lane(group)
            .ok_or_else(|| refused(ErrorKind::Unexpected, "queue"))?;
        let queued_ms = now_ms();
        let waited_ms = lane.oldest.waited_ms(queued_ms);
        if waited_ms > self.max_wait_ms && !planted_bug("wait-without-bound") {
            return Err(refused(ErrorKind::Overloaded, "wait"));
        }
        let place = lane.sender.try_reserve().map_err(|full| match full {
            TrySendError::Full(()) => refused(ErrorKind::Overloaded, "queue"),
            TrySendError::Closed(()) => refused(ErrorKind::Unavailable, "queue"),
        })?;
        let (ticket, answered) = answers::ticket();
        lane.depth.inc();
        self.accounting.queued(events);
        lane.oldest.queue(queued_ms);
        place.send(Waiting {
            members: group.members.clone(),
            events,
            ticket,
            caller: Caller::current(),
            queued_ms,
        });
        answered.await
    }

    async fn get(
        &self,
        domains: &[DomainName],
        freshness: Freshness,
    ) -> Result<Vec<Tally>, PortError> {
        self.inner.get(domains, freshness).await
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        self.inner.page(request).await
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        self.inner.totals().await
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        self.inner.probe().await
    }
}

impl Metrics {
    /// Those of each committer.
    fn register(registry: &Registry, options: &BatchedOptions) -> prometheus::Result<Vec<Self>> {
        let capacity = register_int_gauge_vec_with_registry!(
            "catchall_queue_capacity",
            "Requests that may wait for a committer.",
            &["committer"],
            registry
        )?;
        let depth = register_int_gauge_vec_with_registry!(
            "catchall_queue_depth",
            "Requests that wait for a committer to take them.",
            &["committer"],
            registry
        )?;
        let busy = register_counter_vec_with_registry!(
            "catchall_committer_busy_seconds_total",
            "How long a committer was busy recording groups.",
            &["committer"],
            registry
        )?;
        let group_requests = register_histogram_with_registry!(
            "catchall_group_requests",
            "Requests that shared one group.",
            GROUP_SIZE.to_vec(),
            registry
        )?;
        let group_changes = register_histogram_with_registry!(
            "catchall_group_changes",
            "Changes in one group, before they are folded.",
            GROUP_SIZE.to_vec(),
            registry
        )?;
        let of_committer = |number: usize| {
            let label = number.to_string();
            let capacity = capacity.with_label_values(&[&label]);
            capacity.set(options.queue_capacity.get().into());
            Self {
                depth: depth.with_label_values(&[&label]),
                busy_seconds: busy.with_label_values(&[&label]),
                group_requests: group_requests.clone(),
                group_changes: group_changes.clone(),
            }
        };
        Ok((0..options.committers.get()).map(of_committer).collect())
    }
}
