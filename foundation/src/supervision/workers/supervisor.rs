//! Looks after all workers: starts again those that panic or are stuck, and stops the process when that
//! does not help.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use tokio::{sync::watch, task::AbortHandle};

use super::{Heart, Life, Over, RESTING, Role, State, Worker};
use crate::{
    supervision::{Shutdown, restarts::Restarts, shutdown::Causes},
    telemetry::Metrics,
};

/// How often it is looked whether a worker is stuck.
const LOOKS_EVERY: Duration = Duration::from_millis(250);

/// So many lives of a worker may be stuck at the same time.
const MAX_LEFT_BEHIND: usize = 3;

/// All workers of a process.
#[derive(Debug)]
pub(in crate::supervision) struct Workers {
    pub(super) all: Mutex<Vec<Arc<Entry>>>,
    groups: Mutex<HashMap<&'static str, Restarts>>,
    /// Somebody looks after them.
    looked_after: AtomicBool,
    events: mpsc::Sender<Over>,
    /// Until somebody does.
    unheard: Mutex<Option<mpsc::Receiver<Over>>>,
    pub(super) metrics: OnceLock<WorkerMetrics>,
}

#[derive(Debug)]
pub(super) struct WorkerMetrics {
    pub(super) restarted: IntCounterVec,
    late: IntGaugeVec,
}

pub(super) struct Entry {
    state: Arc<State>,
    start: Box<StartAgain>,
    restarts: Mutex<Restarts>,
    task: Mutex<Option<AbortHandle>>,
}

type StartAgain = dyn Fn(Life, Heart) -> io::Result<Option<AbortHandle>> + Send + Sync;

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.state.fmt(f)
    }
}

pub(super) fn spawn(
    role: Role,
    shutdown: &Shutdown,
    start: impl Fn(Life, Heart) -> io::Result<Option<AbortHandle>> + Send + Sync + 'static,
) -> io::Result<Worker> {
    let workers = shutdown.workers();
    workers.look_after(shutdown)?;
    let state = Arc::new(State {
        role,
        began: Instant::now(),
        life: watch::Sender::new(0),
        beat: Mutex::default(),
        left_behind: Mutex::default(),
        ended: Mutex::new(false),
        ended_now: Condvar::new(),
        ended_watch: watch::Sender::new(false),
    });
    let entry = Arc::new(Entry {
        state: Arc::clone(&state),
        start: Box::new(start),
        restarts: Mutex::default(),
        task: Mutex::default(),
    });
    workers.all.lock().push(Arc::clone(&entry));
    let started = workers.begin_life(&entry);
    if started.is_err() {
        workers.forget(&state);
    }
    started.map(|()| Worker { state })
}

impl Workers {
    pub(in crate::supervision) fn new() -> Self {
        let (events, unheard) = mpsc::channel();
        Self {
            all: Mutex::default(),
            groups: Mutex::default(),
            looked_after: AtomicBool::new(false),
            events,
            unheard: Mutex::new(Some(unheard)),
            metrics: OnceLock::new(),
        }
    }

    pub(in crate::supervision) fn register(&self, metrics: &Metrics) -> prometheus::Result<()> {
        let restarted = Opts::new(
            "catchall_worker_restarts_total",
            "How often a worker in the background was started again, for it panicked or was stuck.",
        );
        let late = Opts::new(
            "catchall_worker_late",
            "1 when a worker in the background takes longer for a piece of work than it ever should.",
        );
        let restarted = IntCounterVec::new(restarted, &["worker"])?;
        let late = IntGaugeVec::new(late, &["worker"])?;
        metrics.register(restarted.clone())?;
        metrics.register(late.clone())?;
        // Registered twice, the names were taken.
        self.metrics
            .get_or_init(|| WorkerMetrics { restarted, late });
        Ok(())
    }

    /// One that has been at a piece of work for longer than it ever should.
    pub(in crate::supervision) fn late(&self) -> Option<&'static str> {
        let all = self.all.lock();
        let late = all.iter().find(|entry| entry.is_late());
        late.map(|entry| entry.state.role.name)
    }

    fn begin_life(&self, entry: &Entry) -> io::Result<()> {
        let state = &entry.state;
        state.life.send_modify(|number| *number += 1);
        let beat = Arc::new(AtomicU64::new(RESTING));
        *state.beat.lock() = Arc::clone(&beat);
        self.show(state.role.name, false, 0);
        let life = Life {
            state: Arc::clone(state),
            events: self.events.clone(),
        };
        let heart = Heart {
            state: Arc::clone(state),
            beat,
            number: *state.life.borrow(),
        };
        let task = (entry.start)(life, heart)?;
        if let Some(before) = std::mem::replace(&mut *entry.task.lock(), task) {
            before.abort();
        }
        Ok(())
    }

    fn show(&self, name: &'static str, late: bool, restarts: u64) {
        if let Some(metrics) = self.metrics.get() {
            metrics.late.with_label_values(&[name]).set(late.into());
            metrics
                .restarted
                .with_label_values(&[name])
                .inc_by(restarts);
        }
    }

    fn forget(&self, state: &Arc<State>) {
        let mut all = self.all.lock();
        let place = all
            .iter()
            .position(|entry| Arc::ptr_eq(&entry.state, state));
        let entry = place.map(|place| all.swap_remove(place));
        drop(all);
        // What it holds is gone before anybody hears that it has ended.
        drop(entry);
        state.end();
    }

    /// Starts the thread that looks after them, once.
    fn look_after(self: &Arc<Self>, shutdown: &Shutdown) -> io::Result<()> {
        if self.looked_after.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let Some(events) = self.unheard.lock().take() else {
            return Ok(());
        };
        let (workers, causes) = (Arc::downgrade(self), shutdown.causes());
        thread::Builder::new()
            .name("supervisor".into())
            .spawn(move || look_after(&workers, &causes, &events))?;
        Ok(())
    }

    fn restart(&self, entry: &Arc<Entry>, why: &str, shutdown: &Shutdown) {
        let Role { name, group, .. } = entry.state.role;
        if shutdown.is_requested() {
            shutdown.fail(format!("{name} {why} while the process stops"));
            self.forget(&entry.state);
            return;
        }
        let now = entry.state.began.elapsed();
        if !entry.restarts.lock().too_many(now) {
            tracing::error!(worker = name, "{why}: it is started again");
            return self.start_again(entry, shutdown);
        }
        if self.groups.lock().entry(group).or_default().too_many(now) {
            shutdown.fail(format!("{name} {why} again and again"));
            self.forget(&entry.state);
            return;
        }
        tracing::error!(
            worker = name,
            group,
            "{why} again and again: all of its group are started again"
        );
        let all = self.all.lock().clone();
        for entry in all.iter().filter(|entry| entry.state.role.group == group) {
            self.start_again(entry, shutdown);
        }
    }

    /// A thread that is stuck takes what it holds with it, and a process can bear only so many.
    fn replace_stuck(&self, entry: &Arc<Entry>, shutdown: &Shutdown) {
        let state = &entry.state;
        let left_behind = {
            let mut left_behind = state.left_behind.lock();
            // A task is ended.
            if entry.task.lock().is_none() {
                left_behind.push(*state.life.borrow());
            }
            left_behind.len()
        };
        if left_behind > MAX_LEFT_BEHIND {
            shutdown.fail(format!("{} is stuck again and again", state.role.name));
            return self.forget(state);
        }
        self.restart(entry, "is stuck", shutdown);
    }

    fn start_again(&self, entry: &Arc<Entry>, shutdown: &Shutdown) {
        let name = entry.state.role.name;
        self.show(name, false, 1);
        if let Err(error) = self.begin_life(entry) {
            shutdown.fail(format!("{name} cannot be started again: {error}"));
            self.forget(&entry.state);
        }
    }
}

impl Entry {
    fn is_late(&self) -> bool {
        !self.state.left_behind.lock().is_empty()
            || self.state.busy_for() > self.state.role.patience / 2
    }
}

/// Until nobody can start workers any more.
fn look_after(workers: &Weak<Workers>, causes: &Causes, events: &mpsc::Receiver<Over>) {
    loop {
        let over = match events.recv_timeout(LOOKS_EVERY) {
            Ok(over) => Some(over),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let Some(workers) = workers.upgrade() else {
            // Nobody starts them again: each has ended with the life it is in.
            let others = events.iter();
            return over
                .into_iter()
                .chain(others)
                .for_each(|over| over.state.end());
        };
        let shutdown = Shutdown::of(causes, &workers);
        if let Some(over) = over {
            // A life that was replaced before may be over at last.
            over.state
                .left_behind
                .lock()
                .retain(|left| *left != over.number);
            if *over.state.life.borrow() == over.number {
                match over.panicked {
                    None => workers.forget(&over.state),
                    Some(message) => {
                        let all = workers.all.lock().clone();
                        let entry = all
                            .iter()
                            .find(|entry| Arc::ptr_eq(&entry.state, &over.state));
                        if let Some(entry) = entry {
                            workers.restart(entry, &format!("panicked ({message})"), &shutdown);
                        }
                    }
                }
            }
        }
        let all = workers.all.lock().clone();
        for entry in &all {
            let name = entry.state.role.name;
            let late = |other: &&Arc<Entry>| other.state.role.name == name && other.is_late();
            workers.show(name, all.iter().any(|other| late(&other)), 0);
            if entry.state.busy_for() > entry.state.role.patience {
                workers.replace_stuck(entry, &shutdown);
            }
        }
    }
}
