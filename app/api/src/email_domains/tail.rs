//! The events as they are answered, for whoever watches.
//!
//! Nobody waits for who watches: each has a small queue, and whoever lets it fill up is told so and
//! dropped. While nobody watches, an event costs one look at a counter.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use actix_web::web::Bytes;
use business::{
    email_domains::{
        error::RecordError,
        model::{Change, DomainName, EventKind},
        service::Receipt,
    },
    kernel::UnixSeconds,
};
use foundation::telemetry::Metrics;
use futures_util::{Stream, stream};
use parking_lot::RwLock;
use prometheus::IntCounter;
use serde::Serialize;
use tokio::{sync::mpsc, time::timeout};
use utoipa::ToSchema;

use super::{
    dto::Moment,
    request::{Sent, TailQuery},
};
use crate::{
    health::Readiness,
    stream::{Open, event},
};

/// Events that may wait for one who watches, beside what the connection holds.
const QUEUE: usize = 1_024;

/// How many domains of one request are told of, beside those that somebody asks for.
const DOMAINS_TOLD: usize = 100;

/// How often it is told what was skipped, and looked whether the server stops.
const EVERY: Duration = Duration::from_secs(1);

/// Those who watch.
pub(crate) struct Tail {
    began: Instant,
    watching: AtomicUsize,
    watchers: RwLock<Vec<Arc<Watcher>>>,
    dropped: IntCounter,
}

/// One who watches.
struct Watcher {
    wants: TailQuery,
    queue: mpsc::Sender<Arc<Told>>,
    /// A second since [`Tail::began`], and in the lower half how much was sent in it.
    window: AtomicU64,
    skipped: AtomicU64,
    dropped: AtomicBool,
}

/// What happened to one domain in one request.
#[derive(Clone, Serialize, ToSchema)]
#[schema(as = TailEvent)]
pub(crate) struct Told {
    /// When it was read (RFC 3339).
    #[schema(value_type = String, format = DateTime, example = "2026-11-21T10:30:00Z")]
    at: Moment,
    /// Its name in canonical form.
    #[schema(example = "example.com")]
    domain: String,
    /// Deliveries.
    #[schema(example = 1)]
    delivered: u32,
    /// Bounces.
    #[schema(example = 0)]
    bounced: u32,
    outcome: TailOutcome,
}

/// What became of it; `mixed` where that is not the same for all of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TailOutcome {
    Counted,
    Duplicate,
    Spooled,
    Refused,
    Failed,
    Mixed,
}

/// What was not shown in the last second: more came than was asked for.
#[derive(Serialize, ToSchema)]
#[schema(as = TailSkipped)]
pub(crate) struct Skipped {
    /// Events.
    #[schema(example = 0)]
    events: u64,
}

/// The last event of who is dropped.
#[derive(Serialize, ToSchema)]
#[schema(as = TailDropped)]
pub(crate) struct Dropped {
    /// Why.
    detail: &'static str,
}

/// What is told of one request, once it is answered. Dropped before, it was not.
pub(crate) struct Telling<'a> {
    tail: &'a Tail,
    at: UnixSeconds,
    changes: Vec<Counts>,
    /// Events of domains that are not told.
    others: u64,
}

/// What one request says of one domain.
struct Counts {
    domain: DomainName,
    delivered: u32,
    bounced: u32,
}

impl Tail {
    /// Registers the metric.
    ///
    /// # Errors
    /// When its name is taken.
    pub(crate) fn register(metrics: &Metrics) -> prometheus::Result<Self> {
        let dropped = IntCounter::new(
            "catchall_tail_dropped_total",
            "Readers of the tail that were dropped, for they read too slowly.",
        )?;
        metrics.register(dropped.clone())?;
        Ok(Self {
            began: Instant::now(),
            watching: AtomicUsize::new(0),
            watchers: RwLock::default(),
            dropped,
        })
    }

    /// What a single event may be told with; `None` while nobody watches.
    pub(crate) fn of_event(
        &self,
        domain: &DomainName,
        kind: EventKind,
        now: impl FnOnce() -> UnixSeconds,
    ) -> Option<Telling<'_>> {
        let (delivered, bounced) = match kind {
            EventKind::Delivered => (1, 0),
            EventKind::Bounced => (0, 1),
        };
        self.is_watched().then(|| Telling {
            tail: self,
            at: now(),
            changes: vec![Counts {
                domain: domain.clone(),
                delivered,
                bounced,
            }],
            others: 0,
        })
    }

    /// The same for a bulk request: of its first domains, and those that somebody asks for.
    pub(crate) fn of_bulk(
        &self,
        sent: &Sent,
        now: impl FnOnce() -> UnixSeconds,
    ) -> Option<Telling<'_>> {
        if !self.is_watched() {
            return None;
        }
        let mut telling = Telling {
            tail: self,
            at: now(),
            changes: Vec::new(),
            others: 0,
        };
        let watchers = self.watchers.read();
        let wanted = watchers.iter().filter_map(|watcher| {
            let domain = watcher.wants.domain.as_ref()?;
            Some(domain.as_str())
        });
        let wanted: HashSet<&str> = wanted.collect();
        let mut places = HashMap::new();
        match sent {
            Sent::Together(changes, _) => {
                for change in changes.iter() {
                    telling.add(change, &wanted, &mut places);
                }
            }
            Sent::Each(members) => {
                for change in members.iter().flat_map(|member| member.changes.iter()) {
                    telling.add(change, &wanted, &mut places);
                }
            }
        }
        Some(telling)
    }

    fn is_watched(&self) -> bool {
        self.watching.load(Ordering::Relaxed) > 0
    }

    fn watch(&self, wants: TailQuery) -> (Arc<Watcher>, mpsc::Receiver<Arc<Told>>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let watcher = Arc::new(Watcher {
            wants,
            queue,
            window: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            dropped: AtomicBool::new(false),
        });
        self.watchers.write().push(Arc::clone(&watcher));
        self.watching.fetch_add(1, Ordering::Relaxed);
        (watcher, waiting)
    }

    fn forget(&self, watcher: &Arc<Watcher>) {
        self.watching.fetch_sub(1, Ordering::Relaxed);
        let mut watchers = self.watchers.write();
        watchers.retain(|other| !Arc::ptr_eq(other, watcher));
    }
}

impl Telling<'_> {
    fn add<'c>(
        &mut self,
        change: Change<'c>,
        wanted: &HashSet<&str>,
        places: &mut HashMap<&'c str, usize>,
    ) {
        let name = change.domain.as_str();
        if let Some(counts) = places.get(name).and_then(|at| self.changes.get_mut(*at)) {
            counts.delivered = counts.delivered.saturating_add(change.delivered);
            counts.bounced = counts.bounced.saturating_add(change.bounced);
        } else if places.len() < DOMAINS_TOLD || wanted.contains(name) {
            places.insert(name, self.changes.len());
            self.changes.push(Counts {
                domain: change.domain.to_name(),
                delivered: change.delivered,
                bounced: change.bounced,
            });
        } else {
            self.others += u64::from(change.delivered) + u64::from(change.bounced);
        }
    }

    /// Tells all who watch.
    pub(crate) fn tell(mut self, outcome: TailOutcome) {
        self.tell_all(outcome);
    }

    fn tell_all(&mut self, outcome: TailOutcome) {
        let second = self.tail.began.elapsed().as_secs();
        let watchers = self.tail.watchers.read();
        for counts in mem::take(&mut self.changes) {
            let told = Arc::new(Told {
                at: Moment(self.at),
                domain: counts.domain.as_str().to_owned(),
                delivered: counts.delivered,
                bounced: counts.bounced,
                outcome,
            });
            for watcher in watchers.iter() {
                watcher.tell(second, &told, &self.tail.dropped);
            }
        }
        let others = mem::take(&mut self.others);
        for watcher in watchers
            .iter()
            .filter(|watcher| watcher.wants.domain.is_none())
        {
            watcher.skipped.fetch_add(others, Ordering::Relaxed);
        }
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        // Its client left, or it took too long.
        self.tell_all(TailOutcome::Failed);
    }
}

impl From<&RecordError> for TailOutcome {
    fn from(error: &RecordError) -> Self {
        match error {
            RecordError::Store(_) => Self::Failed,
            RecordError::MarkMismatch | RecordError::KeyExpired | RecordError::KeyAhead => {
                Self::Refused
            }
        }
    }
}

impl TailOutcome {
    /// Of a bulk request.
    pub(crate) fn of(receipt: &Receipt) -> Self {
        let all = [
            (receipt.counted, Self::Counted),
            (receipt.duplicates, Self::Duplicate),
            (receipt.spooled, Self::Spooled),
        ];
        let mut some = all.iter().filter(|(events, _)| events.sum() > 0);
        match (some.next(), some.next()) {
            (Some((_, outcome)), None) => *outcome,
            _ => Self::Mixed,
        }
    }
}

impl Watcher {
    fn tell(&self, second: u64, told: &Arc<Told>, dropped: &IntCounter) {
        // Once it has lost something it gets no more, so that it comes to hear of it.
        if self.dropped.load(Ordering::Relaxed) {
            return;
        }
        let wanted = self.wants.domain.as_ref();
        if wanted.is_some_and(|domain| domain.as_str() != told.domain) {
            return;
        }
        if !self.has_room_in(second) {
            let events = u64::from(told.delivered) + u64::from(told.bounced);
            self.skipped.fetch_add(events, Ordering::Relaxed);
        } else if self.queue.try_send(Arc::clone(told)).is_err() {
            let before = self.dropped.swap(true, Ordering::Relaxed);
            dropped.inc_by(u64::from(!before));
        }
    }

    /// Whether less was sent in this second than may be.
    fn has_room_in(&self, second: u64) -> bool {
        let most = u64::from(self.wants.per_s.get());
        let taken = |window: u64| match window >> 32 >= second {
            true => (window & 0xffff_ffff < most).then_some(window + 1),
            false => Some(second << 32 | 1),
        };
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.window.fetch_update(set, fetch, taken).is_ok()
    }
}

/// One stream: takes its watcher away when it is dropped.
struct Watching {
    tail: Arc<Tail>,
    readiness: Readiness,
    watcher: Arc<Watcher>,
    waiting: mpsc::Receiver<Arc<Told>>,
    told_at: Instant,
    ended: bool,
    _open: Open,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.tail.forget(&self.watcher);
    }
}

/// What one who watches gets, until it goes, is too slow, or the server stops.
pub(super) fn watch(
    tail: Arc<Tail>,
    readiness: Readiness,
    wants: TailQuery,
    open: Open,
) -> impl Stream<Item = Bytes> + use<> {
    let (watcher, waiting) = tail.watch(wants);
    let watching = Watching {
        tail,
        readiness,
        watcher,
        waiting,
        told_at: Instant::now(),
        ended: false,
        _open: open,
    };
    stream::unfold(watching, |mut watching| async move {
        let next = watching.next().await?;
        Some((next, watching))
    })
}

impl Watching {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended || self.readiness.is_draining() {
            return None;
        }
        if self.watcher.dropped.load(Ordering::Relaxed) {
            // What waits is still sent.
            if let Ok(told) = self.waiting.try_recv() {
                return Some(event("event", &*told));
            }
            self.ended = true;
            let detail = "You read too slowly: what came meanwhile is lost to you. Connect again.";
            return Some(event("dropped", &Dropped { detail }));
        }
        let left = EVERY.saturating_sub(self.told_at.elapsed());
        if !left.is_zero()
            && let Ok(Some(told)) = timeout(left, self.waiting.recv()).await
        {
            return Some(event("event", &*told));
        }
        // Each second, so that a client that is gone is found out.
        self.told_at = Instant::now();
        let events = self.watcher.skipped.swap(0, Ordering::Relaxed);
        Some(event("skipped", &Skipped { events }))
    }
}

#[cfg(test)]
mod tests;
