//! The events as they are answered, for whoever watches.
//!
//! Nobody waits for who watches: each has a small queue, and whoever lets it fill up is told so and
//! dropped. While nobody watches, an event costs one look at a counter.

use std::{
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
        model::{DomainName, EventKind},
        service::Receipt,
    },
    kernel::UnixSeconds,
};
use futures_util::{Stream, stream};
use parking_lot::{Mutex, RwLock};
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

/// How many domains of one request are told of.
const DOMAINS_TOLD: usize = 100;

/// How often it is told what was skipped, and looked whether the server stops.
const EVERY: Duration = Duration::from_secs(1);

/// Those who watch.
#[derive(Default)]
pub(crate) struct Tail {
    watching: AtomicUsize,
    watchers: RwLock<Vec<Arc<Watcher>>>,
}

/// One who watches.
struct Watcher {
    wants: TailQuery,
    queue: mpsc::Sender<Arc<Told>>,
    /// The second since `began` that is counted, and what was sent in it.
    window: Mutex<(u64, u32)>,
    began: Instant,
    skipped: AtomicU64,
    dropped: AtomicBool,
}

/// What happened to one domain in one request.
#[derive(Clone, Serialize, ToSchema)]
#[schema(as = TailEvent)]
pub(crate) struct Told {
    /// When it was answered (RFC 3339).
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
#[derive(Serialize)]
struct Skipped {
    events: u64,
}

/// The last event of who is dropped.
#[derive(Serialize)]
struct Dropped {
    detail: &'static str,
}

/// What is told of one request, once it is answered.
pub(crate) struct Telling<'a> {
    tail: &'a Tail,
    changes: Vec<(DomainName, u32, u32)>,
}

impl Tail {
    /// What a single event may be told with; `None` while nobody watches.
    pub(crate) fn of_event(&self, domain: &DomainName, kind: EventKind) -> Option<Telling<'_>> {
        let (delivered, bounced) = match kind {
            EventKind::Delivered => (1, 0),
            EventKind::Bounced => (0, 1),
        };
        self.is_watched().then(|| Telling {
            tail: self,
            changes: vec![(domain.clone(), delivered, bounced)],
        })
    }

    /// The same for a bulk request: of its first domains.
    pub(crate) fn of_bulk(&self, sent: &Sent) -> Option<Telling<'_>> {
        if !self.is_watched() {
            return None;
        }
        let all: Box<dyn Iterator<Item = _>> = match sent {
            Sent::Together(changes, _) => Box::new(changes.iter()),
            Sent::Each(members) => {
                Box::new(members.iter().flat_map(|member| member.changes.iter()))
            }
        };
        let changes = all
            .take(DOMAINS_TOLD)
            .map(|change| (change.domain.to_name(), change.delivered, change.bounced));
        Some(Telling {
            tail: self,
            changes: changes.collect(),
        })
    }

    fn is_watched(&self) -> bool {
        self.watching.load(Ordering::Relaxed) > 0
    }

    fn watch(&self, wants: TailQuery) -> (Arc<Watcher>, mpsc::Receiver<Arc<Told>>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let watcher = Arc::new(Watcher {
            wants,
            queue,
            window: Mutex::default(),
            began: Instant::now(),
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
    /// Tells all who watch.
    pub(crate) fn tell(self, now: UnixSeconds, outcome: TailOutcome) {
        for (domain, delivered, bounced) in self.changes {
            let told = Arc::new(Told {
                at: Moment(now),
                domain: domain.as_str().to_owned(),
                delivered,
                bounced,
                outcome,
            });
            for watcher in self.tail.watchers.read().iter() {
                watcher.tell(&told);
            }
        }
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
    fn tell(&self, told: &Arc<Told>) {
        let wanted = self.wants.domain.as_ref();
        if wanted.is_some_and(|domain| domain.as_str() != told.domain) {
            return;
        }
        if !self.has_room_now() {
            let events = u64::from(told.delivered) + u64::from(told.bounced);
            self.skipped.fetch_add(events, Ordering::Relaxed);
        } else if self.queue.try_send(Arc::clone(told)).is_err() {
            self.dropped.store(true, Ordering::Relaxed);
        }
    }

    /// Whether less was sent in this second than may be.
    fn has_room_now(&self) -> bool {
        let second = self.began.elapsed().as_secs();
        let mut window = self.window.lock();
        if window.0 != second {
            *window = (second, 0);
        }
        window.1 += 1;
        window.1 <= u32::from(self.wants.per_s.get())
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
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt;

    use super::*;
    use crate::stream::Streams;

    fn name(text: &str) -> DomainName {
        DomainName::parse(text).unwrap()
    }

    fn wants(domain: Option<&str>, per_s: u16) -> TailQuery {
        TailQuery {
            domain: domain.map(name),
            per_s: per_s.try_into().unwrap(),
        }
    }

    fn deliver(tail: &Tail, domain: &str) {
        if let Some(telling) = tail.of_event(&name(domain), EventKind::Delivered) {
            telling.tell(1.into(), TailOutcome::Counted);
        }
    }

    fn watching(tail: &Arc<Tail>, wants: TailQuery) -> impl Stream<Item = Bytes> + use<> {
        let open = Streams::default().open().unwrap();
        watch(Arc::clone(tail), Readiness::default(), wants, open)
    }

    #[tokio::test]
    async fn who_watches_a_domain_sees_that_one_and_nobody_is_told_once_all_are_gone() {
        let tail = Arc::new(Tail::default());
        assert!(
            tail.of_event(&name("a.example"), EventKind::Bounced)
                .is_none()
        );
        let one = watching(&tail, wants(Some("b.example"), 10));
        let all = watching(&tail, wants(None, 10));
        deliver(&tail, "a.example");
        deliver(&tail, "b.example");
        let (mut one, mut all) = (Box::pin(one), Box::pin(all));
        let told = one.next().await.unwrap();
        assert_eq!(
            told,
            "event: event\ndata: {\"at\":\"1970-01-01T00:00:01Z\",\"domain\":\"b.example\",\
             \"delivered\":1,\"bounced\":0,\"outcome\":\"counted\"}\n\n"
        );
        for domain in ["a.example", "b.example"] {
            let told = all.next().await.unwrap();
            let told = std::str::from_utf8(&told).unwrap();
            assert!(told.contains(domain), "{told}");
        }
        drop((one, all));
        assert!(!tail.is_watched() && tail.watchers.read().is_empty());
    }

    #[tokio::test]
    async fn what_is_left_out_is_told() {
        let tail = Arc::new(Tail::default());
        let mut watched = pin!(watching(&tail, wants(None, 1)));
        // Whichever second each falls in.
        for _ in 0..5 {
            deliver(&tail, "a.example");
        }
        let mut told = String::new();
        while !told.contains("skipped") {
            told += std::str::from_utf8(&watched.next().await.unwrap()).unwrap();
        }
        let shown = told.matches("event: event").count();
        let skipped = 5 - shown;
        assert!((1..=2).contains(&shown), "{told}");
        assert!(
            told.contains(&format!("{{\"events\":{skipped}}}")),
            "{told}"
        );
    }

    #[tokio::test]
    async fn who_reads_nothing_gets_what_waits_is_told_so_and_dropped() {
        let tail = Arc::new(Tail::default());
        let mut watched = pin!(watching(&tail, wants(None, 1_000)));
        let watcher = Arc::clone(&tail.watchers.read()[0]);
        let began = Instant::now();
        while !watcher.dropped.load(Ordering::Relaxed) {
            assert!(began.elapsed() < Duration::from_secs(60));
            deliver(&tail, "a.example");
        }
        let mut events = 0;
        let last = loop {
            let told = watched.next().await.unwrap();
            if !told.starts_with(b"event: event\n") {
                break told;
            }
            events += 1;
        };
        assert_eq!(events, QUEUE);
        assert!(last.starts_with(b"event: dropped\n"), "{last:?}");
        assert_eq!(watched.next().await, None);
    }

    #[tokio::test]
    async fn a_server_that_stops_ends_it() {
        let tail = Arc::new(Tail::default());
        let readiness = Readiness::default();
        let open = Streams::default().open().unwrap();
        let mut watched = pin!(watch(
            Arc::clone(&tail),
            readiness.clone(),
            wants(None, 1),
            open
        ));
        readiness.drain();
        assert_eq!(watched.next().await, None);
    }
}
