mod supervisor;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

use std::{
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tokio::{runtime::Handle, sync::watch};

pub(super) use self::supervisor::Workers;
use self::supervisor::spawn;
use super::Shutdown;

/// What a worker is.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// Its name, in logs and as a metric label.
    pub name: &'static str,
    /// Workers of one group share what may be broken: when starting one again does not help, all are.
    pub group: &'static str,
    /// How long one piece of work may take. At half of it the worker is late; behind it, stuck.
    pub patience: Duration,
}

/// Starts a thread that is to work until it returns by itself.
///
/// One that panics, or is at one piece of work for longer than its patience, is started again. More
/// than 3 times within 60 s, and its whole group is; more than 3 of that, and the process is told to
/// stop, for whoever started it to start it anew. So it is, too, when a worker panics while the
/// process stops.
///
/// A thread cannot be ended from outside. A stuck one is left behind, and has to end when it finds
/// that another has its place ([`Heart::is_replaced`]). With more than 3 of a worker left behind, the
/// process is told to stop.
///
/// # Errors
/// When the system gives no thread.
pub fn spawn_worker(
    role: Role,
    shutdown: &Shutdown,
    work: impl Fn(&Heart) + Send + Sync + 'static,
) -> io::Result<Worker> {
    let work = Arc::new(work);
    spawn(role, shutdown, move |life, heart| {
        let work = Arc::clone(&work);
        let thread = thread::Builder::new().name(role.name.into());
        thread.spawn(move || {
            let worked = catch_unwind(AssertUnwindSafe(|| work(&heart)));
            // What the work holds is gone before anybody hears that it has ended.
            drop(work);
            life.over(heart.number, worked.err().map(|panic| message_of(&*panic)));
        })?;
        Ok(None)
    })
}

/// The same for a task on the present runtime. A stuck one is ended where it waits.
///
/// # Errors
/// When the system gives no thread to look after it.
///
/// # Panics
/// Outside a tokio runtime.
pub fn spawn_worker_task<F: Future<Output = ()> + Send + 'static>(
    role: Role,
    shutdown: &Shutdown,
    work: impl Fn(Heart) -> F + Send + Sync + 'static,
) -> io::Result<Worker> {
    let runtime = Handle::current();
    spawn(role, shutdown, move |life, heart| {
        let number = heart.number;
        let working = catch_unwind(AssertUnwindSafe(|| work(heart)));
        let working = working.map_err(|panic| io::Error::other(message_of(&*panic)))?;
        let mut working: Pin<Box<F>> = Box::pin(working);
        let task = runtime.spawn(async move {
            // After a panic the future is only dropped, so it cannot be seen half changed.
            let worked = std::future::poll_fn(|context| {
                match catch_unwind(AssertUnwindSafe(|| working.as_mut().poll(context))) {
                    Ok(poll) => poll.map(|()| None),
                    Err(panic) => std::task::Poll::Ready(Some(message_of(&*panic))),
                }
            })
            .await;
            drop(working);
            life.over(number, worked);
        });
        Ok(Some(task.abort_handle()))
    })
}

/// A worker that was started. Dropping it changes nothing.
#[derive(Debug)]
pub struct Worker {
    state: Arc<State>,
}

impl Worker {
    /// Waits until it has come to its end by itself. One that is started again has not.
    pub async fn ended(&self) {
        let mut ended = self.state.ended_watch.subscribe();
        // Cannot fail: the state holds the sender.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// The same for who is not async.
    pub fn wait(&self) {
        let mut ended = self.state.ended.lock();
        while !*ended {
            self.state.ended_now.wait(&mut ended);
        }
    }
}

/// What a worker shows that it lives by.
#[derive(Clone, Debug)]
pub struct Heart {
    state: Arc<State>,
    beat: Arc<AtomicU64>,
    number: u64,
}

impl Heart {
    /// A piece of work begins, or goes on: its time counts from now.
    pub fn beats(&self) {
        self.beat.store(self.state.now_ms(), Ordering::Relaxed);
    }

    /// It waits for work, for however long.
    pub fn rests(&self) {
        self.beat.store(RESTING, Ordering::Relaxed);
    }

    /// Whether another has its place: it has to end.
    pub fn is_replaced(&self) -> bool {
        *self.state.life.borrow() != self.number
    }

    /// Waits until another has its place.
    pub async fn replaced(&self) {
        let mut life = self.state.life.subscribe();
        // Cannot fail: the state holds the sender.
        let _ = life.wait_for(|number| *number != self.number).await;
    }
}

/// What is known of a worker. Its lives are numbered.
#[derive(Debug)]
struct State {
    role: Role,
    began: Instant,
    life: watch::Sender<u64>,
    /// Since when the present life is at a piece of work, in milliseconds since the first began.
    beat: Mutex<Arc<AtomicU64>>,
    /// Lives that were stuck, and are not over.
    left_behind: Mutex<Vec<u64>>,
    ended: Mutex<bool>,
    ended_now: Condvar,
    ended_watch: watch::Sender<bool>,
}

/// It waits for work.
const RESTING: u64 = u64::MAX;

impl State {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(RESTING - 1)
    }

    fn busy_for(&self) -> Duration {
        match self.beat.lock().load(Ordering::Relaxed) {
            RESTING => Duration::ZERO,
            since => Duration::from_millis(self.now_ms().saturating_sub(since)),
        }
    }

    fn end(&self) {
        *self.ended.lock() = true;
        self.ended_now.notify_all();
        self.ended_watch.send_replace(true);
    }
}

/// A life of a worker is over.
#[derive(Debug)]
struct Over {
    state: Arc<State>,
    number: u64,
    /// By a panic, with its message.
    panicked: Option<String>,
}

/// Where a life tells its end.
struct Life {
    state: Arc<State>,
    events: mpsc::Sender<Over>,
}

impl Life {
    fn over(self, number: u64, panicked: Option<String>) {
        let Self { state, events } = self;
        let over = Over {
            state,
            number,
            panicked,
        };
        // Nobody looks after it any more: then nobody starts it again.
        if let Err(unheard) = events.send(over) {
            unheard.0.state.end();
        }
    }
}

pub(super) fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    message.unwrap_or("no message").to_owned()
}
