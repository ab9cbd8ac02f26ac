//! Goes on taking events while the store is away: they are made durable here, and counted once the
//! store is back.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `entry` | one group as bytes |
//! | `spool` | the files, with the embedded store's own journal |
//! | `drainer` | how what waits gets to the store |
//! | `metrics` | what is shown of it |

mod drainer;
mod entry;
mod metrics;
mod spool;

#[cfg(any(test, feature = "fuzz"))]
pub(super) use self::entry::fuzz;

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use business::{
    email_domains::{
        model::{DomainName, Group, GroupId, MarkMemory, Member, Outcome, Outcomes, Tally},
        ports::{
            DomainTallies, Freshness, Page, PageRequest, PendingEvents, Probe, Recorded, StoreId,
            Totals,
        },
    },
    kernel::{Clock, ErrorKind, PortError, UnixSeconds},
};
use foundation::{
    planted::planted_bug,
    supervision::{Role, Shutdown, Worker, spawn_worker_task},
};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    task::spawn_blocking,
    time::timeout,
};

use self::{metrics::Metrics, spool::Spool};
use super::{
    Accounting,
    embedded::{OpenError, disk::Disk, journal::AppendError, space::Space},
};

/// How much may wait, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct SpooledOptions {
    /// A group that the store has not taken within this goes to the spool.
    pub after: Duration,
    /// With so many bytes waiting, no more are taken.
    pub max_bytes: u64,
    /// With less room left on the disk, no more are taken. 0 is no bound.
    pub min_free_bytes: u64,
    /// With a group waiting for so many seconds, no more are taken. Keys are remembered for twice as
    /// long, so that what waits meets the marks it has to meet, if it need not wait for that long.
    pub max_age_s: u32,
}

/// Puts groups that `inner` cannot take now into a spool, and answers that they count later.
///
/// - A group keeps its id, so one that `inner` may have recorded counts once.
/// - As long as the spool is not empty, all new groups go there, behind those that wait: what a
///   writer formed is recorded in the order it was formed in.
/// - Marks are resolved by `inner` when the group gets there. Of two members under one key one
///   counts, wherever they wait; that one had another payload is only found out then: it does not
///   count, which is logged and shown as a metric.
/// - Reads are answered by `inner`. They do not show what waits; [`PendingEvents`] tells that
///   something does.
/// - A member whose key is too old is told so at once, and does not wait.
/// - A group without an id cannot wait: it fails as it does without this.
/// - What waits is given to `inner` for as long as that takes. `inner` has to give up by itself when it
///   gets no answer, as [`Guarded`](super::Guarded) does.
///
/// Opened again, a spool goes on with what it holds.
pub struct Spooled {
    shared: Arc<Shared>,
    drainer: Worker,
}

/// Each try has a deadline far below this.
const DRAINER: Role = Role {
    name: "spool-drainer",
    group: "store",
    patience: Duration::from_secs(60),
};

struct Shared {
    inner: Arc<dyn DomainTallies>,
    disk: Arc<dyn Disk>,
    store: StoreId,
    options: SpooledOptions,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
    metrics: Metrics,
    space: Space,
    /// Set while the lock of the spool is held.
    mode: watch::Sender<Mode>,
    spool: Mutex<Spool>,
    /// When the oldest group that waits was formed; [`NOTHING`] when none does.
    oldest: AtomicU64,
    /// What `inner` remembers of marks, as far as is known.
    memory: Mutex<MarkMemory>,
    /// A sync failed: nothing more is written, ever.
    failed: AtomicBool,
    closing: watch::Sender<bool>,
    /// Held by who asks for the room there is.
    asks_for_room: Arc<AsyncMutex<()>>,
}

const NOTHING: u64 = u64::MAX;

/// The longest that a probe waits for the store: then it is away.
const PROBE_WITHIN: Duration = Duration::from_millis(500);

/// Where new groups go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// To the store: nothing waits.
    Direct,
    /// To the spool.
    Spooling,
    /// Nowhere: the last of what waits is on its way, and will be there in a moment.
    Finishing,
}

/// Why a group is not in the spool.
enum NotSpooled {
    /// The spool is about to be empty: its turn comes in a moment.
    Wait,
    Failed(PortError),
}

/// Whether more groups may wait.
struct Room {
    on_disk: bool,
    /// The spool is as large, or as old, as it may get.
    spool_is_full: bool,
}

impl Spooled {
    /// Opens the spool on `disk`, or makes one there, and begins to drain it.
    ///
    /// A failed sync asks `shutdown` to stop the process. A drainer that panics is started again.
    ///
    /// # Errors
    /// When `inner` does not answer a probe, or the spool cannot be opened: it may be another
    /// store's.
    ///
    /// # Panics
    /// Outside a tokio runtime: the drainer is spawned on the present one.
    pub async fn open(
        inner: Arc<dyn DomainTallies>,
        disk: Arc<dyn Disk>,
        options: SpooledOptions,
        clock: Arc<dyn Clock>,
        shutdown: &Shutdown,
        accounting: &Accounting,
        registry: &Registry,
    ) -> Result<Self, SpoolError> {
        let Probe { store, memory, .. } = inner.probe().await?;
        let metrics =
            Metrics::register(registry, accounting, options.max_bytes).map_err(OpenError::from)?;
        let space =
            Space::register("spool", options.min_free_bytes, registry).map_err(OpenError::from)?;
        let spool = Spool::open(Arc::clone(&disk), store)?;
        // Without room what waits has to leave all the same.
        let _ = space.check(&*disk, true);
        metrics.opened(&spool);
        let mode = if spool.is_empty() {
            Mode::Direct
        } else {
            Mode::Spooling
        };
        let shared = Arc::new(Shared {
            inner,
            disk,
            store,
            options,
            clock,
            shutdown: shutdown.clone(),
            metrics,
            space,
            mode: watch::Sender::new(mode),
            oldest: AtomicU64::new(NOTHING),
            memory: Mutex::new(memory),
            failed: AtomicBool::new(false),
            closing: watch::Sender::new(false),
            spool: Mutex::new(spool),
            asks_for_room: Arc::default(),
        });
        shared.sized(&shared.spool.lock());
        let work = {
            let shared = Arc::clone(&shared);
            move |heart| drainer::run(Arc::clone(&shared), heart)
        };
        let drainer = spawn_worker_task(DRAINER, shutdown, work)
            .map_err(OpenError::io(".", "start what drains it"))?;
        Ok(Self { shared, drainer })
    }

    /// Stops draining. What waits goes on waiting, and is there when the spool is opened again.
    pub async fn close(&self) {
        self.shared.closing.send_replace(true);
        self.drainer.ended().await;
    }

    /// The room there is, unless that cannot be told. Asked beside, for the disk may be slow to answer and
    /// the spool is locked meanwhile; by one at a time, so that a disk that hangs holds up one thread.
    async fn room(&self) -> Option<Room> {
        let shared = Arc::clone(&self.shared);
        let turn = Arc::clone(&shared.asks_for_room).lock_owned().await;
        let asked = spawn_blocking(move || {
            let _turn = turn;
            // Each time, to be shown.
            let on_disk = shared.check_space().is_ok();
            let now = shared.clock.now();
            Room {
                on_disk,
                spool_is_full: shared.is_full(&shared.spool.lock(), now),
            }
        });
        asked.await.ok()
    }
}

/// Why a spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The store, whose spool it is, does not answer.
    #[error("the store does not answer")]
    Store(#[from] PortError),
    /// The files are not sound, or not to be had.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Whether a spool that nobody has open holds groups.
///
/// # Errors
/// When it cannot be read.
pub fn holds_groups(disk: &Arc<dyn Disk>) -> Result<bool, OpenError> {
    spool::holds_groups(disk)
}

impl Drop for Spooled {
    fn drop(&mut self) {
        self.shared.closing.send_replace(true);
    }
}

impl Shared {
    /// Makes a group durable here.
    fn spool(&self, id: GroupId, group: &Group) -> Result<Recorded, NotSpooled> {
        let failed = |kind, step| NotSpooled::Failed(PortError::new(kind, step));
        let mut spool = self.spool.lock();
        if *self.mode.borrow() == Mode::Finishing {
            return Err(NotSpooled::Wait);
        }
        if self.failed.load(Ordering::Acquire) {
            return Err(failed(ErrorKind::Unavailable, "spool"));
        }
        let horizon = self.memory.lock().horizon(group.formed_at);
        // The store would not count them either: they need not wait to be told so.
        let is_expired = |member: &Member| {
            let stamp = member.mark.and_then(|mark| mark.key.stamped_at);
            stamp.is_some_and(|stamp| stamp < horizon)
        };
        let outcomes: Outcomes = group
            .members
            .iter()
            .map(|member| match is_expired(member) {
                true => Outcome::Expired,
                false => Outcome::Spooled,
            })
            .collect();
        let recorded = Recorded {
            outcomes,
            verdict_changes: Vec::new(),
        };
        let mut waiting = Cow::Borrowed(group);
        if recorded.outcomes.contains(&Outcome::Expired) {
            waiting
                .to_mut()
                .members
                .retain(|member| !is_expired(member));
            if waiting.members.is_empty() {
                return Ok(recorded);
            }
        }
        if self.is_full(&spool, group.formed_at) {
            return Err(failed(ErrorKind::Overloaded, "spool"));
        }
        self.check_space().map_err(NotSpooled::Failed)?;
        if let Err(error) = spool.append(id, &waiting) {
            let kind = match error {
                AppendError::NotWritten(_) => ErrorKind::Unavailable,
                AppendError::Unknown(_) => ErrorKind::Ambiguous,
            };
            let error = PortError::caused_by(kind, "spool", self.stop_if_unknown(error));
            return Err(NotSpooled::Failed(error));
        }
        self.metrics.spooled(&waiting);
        self.sized(&spool);
        self.enter(Mode::Spooling);
        Ok(recorded)
    }

    /// Whoever calls this holds the lock of the spool.
    fn enter(&self, mode: Mode) {
        let changed = self.mode.send_if_modified(|current| {
            let changed = *current != mode;
            *current = mode;
            changed
        });
        match mode {
            Mode::Spooling if changed => {
                tracing::warn!("the store is away: events are kept in the spool until it is back");
            }
            Mode::Direct => tracing::info!("the spool is empty: the store has it all"),
            Mode::Spooling | Mode::Finishing => {}
        }
    }

    fn is_full(&self, spool: &Spool, now: UnixSeconds) -> bool {
        let oldest = spool.oldest().unwrap_or(now);
        let age_s = now.get().saturating_sub(oldest.get());
        spool.bytes() >= self.options.max_bytes || age_s > self.options.max_age_s
    }

    fn check_space(&self) -> Result<(), PortError> {
        self.space
            .check(&*self.disk, false)
            .map_err(|error| PortError::caused_by(ErrorKind::Unavailable, "free disk space", error))
    }

    fn sized(&self, spool: &Spool) {
        let oldest = spool.oldest();
        let stored = oldest.map_or(NOTHING, |oldest| oldest.get().into());
        self.oldest.store(stored, Ordering::Release);
        self.metrics.sized(spool);
    }

    /// After a failed sync nobody knows what is durable: the process has to stop and open the spool
    /// anew.
    fn stop_if_unknown(&self, error: AppendError) -> std::io::Error {
        if let AppendError::Unknown(error) = &error {
            self.failed.store(true, Ordering::Release);
            self.shutdown
                .fail(format!("the spool cannot be synced: {error}"));
        }
        error.into_io()
    }
}

#[async_trait]
impl DomainTallies for Spooled {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        let shared = &*self.shared;
        let Some(id) = group.id else {
            return shared.inner.record(group).await;
        };
        let mut modes = shared.mode.subscribe();
        // Once a try may have been applied, no later failure says that none was.
        let mut unknown = None;
        loop {
            let mut mode = *modes.borrow_and_update();
            if planted_bug("past-the-spool") {
                mode = Mode::Direct;
            }
            let spooled = match mode {
                Mode::Finishing => {
                    // An error means that nobody is left to finish.
                    let closed =
                        |error| PortError::caused_by(ErrorKind::Unavailable, "spool", error);
                    modes.changed().await.map_err(closed)?;
                    continue;
                }
                Mode::Spooling => shared.spool(id, group),
                Mode::Direct => {
                    let recorded = timeout(shared.options.after, shared.inner.record(group)).await;
                    let error = match recorded {
                        Ok(Ok(recorded)) => return Ok(recorded),
                        Ok(Err(error)) => error,
                        Err(late) => PortError::caused_by(ErrorKind::Ambiguous, "record", late),
                    };
                    match error.kind() {
                        ErrorKind::Ambiguous => {
                            unknown.get_or_insert(error);
                        }
                        ErrorKind::Unavailable | ErrorKind::Overloaded => {}
                        ErrorKind::Invalid
                        | ErrorKind::Outdated
                        | ErrorKind::Corrupt
                        | ErrorKind::Unexpected => return Err(unknown.unwrap_or(error)),
                    }
                    shared.spool(id, group)
                }
            };
            match spooled {
                Ok(recorded) => return Ok(recorded),
                Err(NotSpooled::Failed(error)) => return Err(unknown.unwrap_or(error)),
                Err(NotSpooled::Wait) => {}
            }
        }
    }

    async fn get(
        &self,
        domains: &[DomainName],
        freshness: Freshness,
    ) -> Result<Vec<Tally>, PortError> {
        self.shared.inner.get(domains, freshness).await
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        self.shared.inner.page(request).await
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        self.shared.inner.totals().await
    }

    /// A store that is away is no failure: groups are taken all the same, until the spool is full.
    async fn probe(&self) -> Result<Probe, PortError> {
        let shared = &*self.shared;
        let (probed, room) = tokio::join!(
            timeout(PROBE_WITHIN, shared.inner.probe()),
            timeout(PROBE_WITHIN, self.room()),
        );
        let probed = probed.unwrap_or_else(|late| {
            Err(PortError::caused_by(ErrorKind::Unavailable, "probe", late))
        });
        let room = room.ok().flatten().unwrap_or(Room {
            on_disk: false,
            spool_is_full: false,
        });
        if let Ok(probe) = &probed {
            *shared.memory.lock() = probe.memory;
        }
        // What goes straight to the store needs no room here.
        let needs_space = probed.is_err() || *shared.mode.borrow() != Mode::Direct;
        let full = shared.failed.load(Ordering::Acquire)
            || (needs_space && !room.on_disk)
            || room.spool_is_full;
        match probed {
            Ok(probe) => Ok(Probe {
                full: probe.full || full,
                ..probe
            }),
            Err(error) if full => Err(error),
            Err(_) => Ok(Probe {
                store: shared.store,
                memory: *shared.memory.lock(),
                full,
            }),
        }
    }
}

impl PendingEvents for Spooled {
    fn oldest(&self) -> Option<UnixSeconds> {
        match self.shared.oldest.load(Ordering::Acquire) {
            _ if planted_bug("never-behind") => None,
            NOTHING => None,
            oldest => Some(UnixSeconds::saturating_from(oldest)),
        }
    }
}
