//! The embedded store: tallies in memory, made durable by a journal. Needs no other service.
//!
//! Every group is one record, appended to the journal and synced once before it is applied to the
//! map and acknowledged; so at most one record is ever unsynced, and nobody reads what is not
//! durable. Now and then all tallies are written to a snapshot and the journal before it goes.
//! Opening the store loads the snapshot and replays the rest.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `appliers` | the threads that apply what is replayed |
//! | [`disk`] | the seam to the file system |
//! | `format` | names, headers and numbers of files |
//! | `record` | one group as bytes |
//! | `journal` | segments, appending, replaying |
//! | `writer` | the end of the journal, and which files are behind it |
//! | `snapshot` | writing and loading one |
//! | `space` | whether the disk has room for more |
//! | `self_test` | what is tried before it serves |
//! | `keeper` | the thread that makes segments and snapshots ahead of need |

mod appliers;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
pub mod disk;
mod error;
pub(in crate::email_domains) mod format;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub(in crate::email_domains) mod journal;
mod keeper;
mod metrics;
pub(in crate::email_domains) mod record;
mod self_test;
mod snapshot;
pub(in crate::email_domains) mod space;
#[cfg(feature = "testing")]
pub mod testing;
mod writer;

use std::{
    any::Any,
    io,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Instant,
};

use async_trait::async_trait;
use business::{
    email_domains::{
        model::{DomainName, Group, Outcome, Outcomes, Tally, fold},
        ports::{DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, StoreId, Totals},
        verdict::VerdictPolicy,
    },
    kernel::{ErrorKind, PortError, UnixSeconds},
};
use foundation::{
    planted::{kill_point, planted_bug},
    supervision::{Shutdown, Worker},
};
use parking_lot::Mutex;
use uuid::Uuid;

use self::{
    appliers::Appliers,
    disk::Disk,
    format::{FileKind, Header},
    journal::{AppendError, Segment},
    keeper::Keeper,
    metrics::Metrics,
    record::Record,
    space::Space,
    writer::Writer,
};
pub use self::{error::OpenError, journal::TornTail};
use super::{
    ledger::{Ledger, MarkLimits, Standing, new_marks},
    memory::seed_of,
    tally_map::{TallyMap, shard_of},
};

/// How large the files of a store grow.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddedOptions {
    /// The journal is allocated in segments of this many bytes.
    pub segment_bytes: u64,
    /// A journal that has reached this many bytes, and the size of the last snapshot, is replaced
    /// by a new snapshot: so it takes no more room than the tallies do, and a snapshot is written
    /// only when as much was journalled.
    pub snapshot_after_bytes: u64,
    /// For how long marks are remembered: in memory, in the journal and in snapshots.
    pub marks: MarkLimits,
    /// With less room than this on the disk, nothing is written: nothing is recorded until there is
    /// more, and the store does not open. 0 is no bound.
    pub min_free_bytes: u64,
}

/// What is allocated when a store opens, who waits for it: the keeper makes a whole segment once
/// half of this is used.
const FIRST_SEGMENT_BYTES: u64 = 64 << 10;

/// More threads than this do not open a store faster: one reads for all.
const MAX_THREADS: usize = 8;

/// What was found when a store was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// How many domains there are.
    pub domains: u64,
    /// How many records were replayed.
    pub replayed_records: u64,
    /// When the last of these was formed.
    pub newest: Option<UnixSeconds>,
    /// What a crash left unfinished, if it did.
    pub torn: Option<TornTail>,
}

/// Durable tallies in a folder of this machine. See the module's docs.
pub struct Embedded {
    shared: Arc<Shared>,
    wake_keeper: Option<mpsc::SyncSender<()>>,
    keeper: Worker,
}

/// What the callers and the keeper share. Locks are taken in the order `keeper`, `writer`,
/// `applied`.
struct Shared {
    disk: Arc<dyn Disk>,
    store: StoreId,
    options: EmbeddedOptions,
    shutdown: Shutdown,
    metrics: Metrics,
    space: Space,
    map: TallyMap,
    keeper: Mutex<Keeper>,
    writer: Mutex<Writer>,
    applied: Mutex<Applied>,
    /// A sync failed: nothing more is written, ever.
    failed: AtomicBool,
    /// Keeps other processes out.
    _lock: Box<dyn Any + Send + Sync>,
}

/// What the map holds. Its lock is held while a group is applied, so that whoever has it sees the
/// map between two groups.
struct Applied {
    /// The number of the last record in the map.
    sequence: u64,
    ledger: Ledger,
}

impl Embedded {
    /// Opens the store on `disk`, or makes one there.
    ///
    /// A failed sync asks `shutdown` to stop the process: only opening the store anew tells what is
    /// durable. Sizes and durations go to `registry`.
    ///
    /// # Errors
    /// When another process has it, the disk fails, or the files are not sound.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: EmbeddedOptions,
        policy: VerdictPolicy,
        shutdown: &Shutdown,
        registry: &prometheus::Registry,
    ) -> Result<(Self, Opened), OpenError> {
        let lock = disk.lock().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::Locked,
            _ => OpenError::io(".", "lock it")(error),
        })?;
        let snapshots = journal::list(&disk, FileKind::Snapshot)?;
        let newest = snapshots.last().copied();
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = threads.min(MAX_THREADS);
        let (loaded, map) = match newest {
            Some(number) => {
                let map = |store| TallyMap::new(seed_of(store), policy);
                snapshot::load(&disk, number, threads, options.marks, map)?
            }
            None => {
                let store = journal::store_of_first(&disk, FileKind::Journal)?
                    .unwrap_or_else(|| StoreId(Uuid::new_v4().as_u128()));
                (
                    snapshot::Loaded::nothing(store, options.marks),
                    TallyMap::new(seed_of(store), policy),
                )
            }
        };
        let (store, first) = (loaded.store, newest.unwrap_or(1));
        let snapshot_holds = newest.map(|_| loaded.holds());
        let mut ledger = loaded.ledger;
        let mut newest_record = None;
        let replayed = thread::scope(|scope| {
            let mut appliers = Appliers::start(scope, &map, threads)
                .map_err(OpenError::io(".", "start a thread to replay it"))?;
            let replayed = journal::replay(
                &disk,
                (FileKind::Journal, store),
                first,
                snapshot_holds,
                loaded.sequence,
                |sequence, bytes| {
                    let record = Record::decode(bytes)?;
                    newest_record = Some(record.formed_at);
                    for change in &record.changes {
                        let hash = map.hash_of(change.domain);
                        if sequence > loaded.shards[shard_of(hash)] || planted_bug("replay-twice") {
                            appliers.add(change, hash, record.formed_at);
                        }
                    }
                    if sequence > loaded.ledger_sequence {
                        let marks = record.marks.iter().copied();
                        ledger.settle(record.id, &record.outcomes, marks, record.formed_at);
                    }
                    Some(())
                },
            )?;
            appliers.finish();
            Ok::<_, OpenError>(replayed)
        })?;
        keeper::remove_before(&*disk, first, 0)
            .map_err(AppendError::into_io)
            .map_err(OpenError::io(".", "remove old files"))?;
        let metrics = Metrics::register(registry)?;
        let space = Space::register("store", options.min_free_bytes, registry)?;
        space.check(&*disk, true).map_err(OpenError::Full)?;
        self_test::write_and_read(&*disk)?;

        let bytes = options.segment_bytes.min(FIRST_SEGMENT_BYTES);
        let (number, segment) = match replayed.empty {
            Some((number, length)) => {
                let kind = FileKind::Journal;
                let segment = Segment::reopen(&*disk, kind, number, length, bytes);
                (number, segment)
            }
            None => {
                let header = Header {
                    kind: FileKind::Journal,
                    store,
                    number: replayed.last_number + 1,
                };
                let segment = Segment::create(&*disk, header, bytes);
                (header.number, segment)
            }
        };
        let segment = segment
            .map_err(AppendError::into_io)
            .map_err(OpenError::io(
                &FileKind::Journal.file_name(number),
                "make it ready",
            ))?;
        let opened = Opened {
            domains: map.totals().domains,
            replayed_records: replayed.records,
            newest: newest_record,
            torn: replayed.torn,
        };
        let shared = Arc::new(Shared {
            store,
            options,
            shutdown: shutdown.clone(),
            metrics,
            space,
            map,
            keeper: Mutex::new(Keeper {
                next_number: number.max(replayed.last_number) + 1,
                began_segment: false,
            }),
            writer: Mutex::new(Writer {
                segment,
                prepared: None,
                full: replayed.segments,
                snapshot_bytes: loaded.length,
                sequence: replayed.sequence,
                before_segment: replayed.sequence,
                buffer: Vec::new(),
            }),
            applied: Mutex::new(Applied {
                sequence: replayed.sequence,
                ledger,
            }),
            failed: AtomicBool::new(false),
            _lock: lock,
            disk,
        });
        let (wake_keeper, wakes) = mpsc::sync_channel(1);
        let keeper = keeper::start(Arc::clone(&shared), wakes)
            .map_err(OpenError::io(".", "start the keeper's thread"))?;
        let embedded = Self {
            shared,
            wake_keeper: Some(wake_keeper),
            keeper,
        };
        // The keeper sleeps until something is recorded: who opened the store may yet find that it must
        // not be used, and then it has to stay as it is.
        Ok((embedded, opened))
    }

    /// Writes a snapshot now and removes the journal before it. The keeper does so by itself when
    /// the journal is long enough.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn snapshot(&self) -> io::Result<()> {
        self.shared.snapshot(|| {})
    }

    fn wake_keeper(&self) {
        if let Some(keeper) = &self.wake_keeper {
            // Full: it is awake already.
            let _ = keeper.try_send(());
        }
    }

    fn record_blocking(&self, group: &Group) -> Result<Recorded, PortError> {
        let shared = &*self.shared;
        let mut writer = shared.writer.lock();
        if shared.failed.load(Ordering::Acquire) {
            return Err(PortError::new(ErrorKind::Unavailable, "record"));
        }
        let outcomes = match shared.applied.lock().ledger.standing(group) {
            Standing::New(outcomes) => outcomes,
            Standing::Repeated(outcomes) => {
                return Ok(Recorded {
                    outcomes,
                    verdict_changes: Vec::new(),
                });
            }
            Standing::Outdated => return Err(PortError::new(ErrorKind::Outdated, "record")),
        };
        let _consistent = Consistent(shared);
        let counting = match planted_bug("fold-before-marks") {
            true => &Outcomes::from_elem(Outcome::Counted, outcomes.len()),
            false => &outcomes,
        };
        let record = Record {
            id: group.id,
            formed_at: group.formed_at,
            marks: new_marks(&group.members, &outcomes).collect(),
            changes: fold(&group.members, counting),
            outcomes,
        };
        if planted_bug("duplicate-acknowledged-early") {
            let marks = record.marks.iter().copied();
            let mut applied = shared.applied.lock();
            applied
                .ledger
                .settle(None, &record.outcomes, marks, record.formed_at);
        }
        let early = planted_bug("shown-before-sync")
            .then(|| shared.map.apply_all(&record.changes, record.formed_at));
        // A group that counts nothing new says nothing that a second look at it would not.
        if !record.changes.is_empty() || !record.marks.is_empty() {
            self.append(&mut writer, &record)?;
        }
        let mut applied = shared.applied.lock();
        let verdict_changes =
            early.unwrap_or_else(|| shared.map.apply_all(&record.changes, record.formed_at));
        applied
            .ledger
            .settle(record.id, &record.outcomes, record.marks, record.formed_at);
        applied.sequence = writer.sequence;
        kill_point("before-answer");
        Ok(Recorded {
            outcomes: record.outcomes,
            verdict_changes,
        })
    }

    fn append(&self, writer: &mut Writer, record: &Record<'_>) -> Result<(), PortError> {
        let shared = &*self.shared;
        if planted_bug("drop-last-group-on-sigterm") && shared.shutdown.is_requested() {
            return Ok(());
        }
        writer.encode(record)?;
        let rolled = !writer.segment.has_room_for(writer.buffer.len()) && writer.roll();
        if rolled && !planted_bug("stale-record-after-roll") {
            writer.encode(record)?;
        }
        let grows = !writer.segment.has_room_for(writer.buffer.len());
        shared.check_space(grows)?;
        let started = Instant::now();
        match writer.segment.append(&writer.buffer) {
            Ok(()) => {}
            Err(AppendError::NotWritten(error)) => {
                return Err(PortError::caused_by(
                    ErrorKind::Unavailable,
                    "append",
                    error,
                ));
            }
            Err(AppendError::Unknown(error)) => {
                shared.fail(&error);
                return Err(PortError::caused_by(ErrorKind::Ambiguous, "sync", error));
            }
        }
        shared
            .metrics
            .appended(writer.buffer.len(), started.elapsed());
        writer.sequence += 1;
        if writer.wants_keeper(&shared.options) {
            self.wake_keeper();
        }
        shared.metrics.sized(writer);
        Ok(())
    }
}

impl Shared {
    fn check_space(&self, sure: bool) -> Result<(), PortError> {
        self.space
            .check(&*self.disk, sure)
            .map_err(|error| PortError::caused_by(ErrorKind::Unavailable, "free disk space", error))
    }

    /// After a failed sync nobody knows what is durable: the process has to stop and open the
    /// store anew.
    fn fail(&self, error: &io::Error) {
        self.failed.store(true, Ordering::Release);
        self.shutdown
            .fail(format!("the store cannot be synced: {error}"));
    }
}

/// Held while the journal and the map change. After a panic in between they may differ: only opening
/// the store anew makes them the same.
struct Consistent<'a>(&'a Shared);

impl Drop for Consistent<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed.store(true, Ordering::Release);
            self.0
                .shutdown
                .fail("the store panicked while it recorded a group");
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        drop(self.wake_keeper.take());
        self.keeper.wait();
    }
}

#[async_trait]
impl DomainTallies for Embedded {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        self.record_blocking(group)
    }

    async fn get(&self, domains: &[DomainName], _: Freshness) -> Result<Vec<Tally>, PortError> {
        Ok(domains
            .iter()
            .map(|domain| self.shared.map.get(domain.borrowed()))
            .collect())
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        self.shared
            .map
            .page(request)
            .ok_or_else(|| PortError::new(ErrorKind::Invalid, "page"))
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        Ok(self.shared.map.totals())
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        if self.shared.failed.load(Ordering::Acquire) {
            return Err(PortError::new(ErrorKind::Unavailable, "probe"));
        }
        Ok(Probe {
            store: self.shared.store,
            memory: self.shared.applied.lock().ledger.memory(),
            full: self.shared.check_space(true).is_err(),
        })
    }
}
