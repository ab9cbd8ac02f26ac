use std::fmt;
use std::io;
use std::process;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::workers::Workers;
use crate::telemetry::Metrics;

/// Why the process stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It was asked to, with the reason (`SIGTERM`): finish what is under way and exit with 0.
    Requested(String),
    /// Something broke, with the reason: it must exit with a code other than 0.
    Fatal(String),
}

impl Cause {
    /// Whether the exit code must tell of a failure.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Fatal(_))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested(reason) => write!(f, "requested: {reason}"),
            Self::Fatal(reason) => write!(f, "fatal: {reason}"),
        }
    }
}

/// The one place that knows whether the process is to stop. Clones share it.
///
/// The first cause stays, except that a fatal one replaces an orderly one: a server that breaks
/// while it drains must not exit as if all were well. Ask [`cause`](Self::cause) at the very end.
#[derive(Debug, Clone)]
pub struct Shutdown {
    cause: watch::Sender<Option<Cause>>,
    workers: Arc<Workers>,
    part: Option<&'static str>,
}

/// What of it can be held without keeping the workers alive.
pub(super) struct Causes {
    cause: watch::Sender<Option<Cause>>,
    part: Option<&'static str>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A handle that nothing but its clones can trigger.
    #[must_use]
    pub fn new() -> Self {
        Self {
            cause: watch::Sender::new(None),
            workers: Arc::new(Workers::new()),
            part: None,
        }
    }

    /// A handle for a part of the process that may stop while the rest goes on.
    #[must_use]
    pub fn of_part(part: &'static str) -> Self {
        Self {
            part: Some(part),
            ..Self::new()
        }
    }

    /// The whole again.
    pub(super) fn of(causes: &Causes, workers: &Arc<Workers>) -> Self {
        Self {
            cause: causes.cause.clone(),
            workers: Arc::clone(workers),
            part: causes.part,
        }
    }

    pub(super) fn causes(&self) -> Causes {
        Causes {
            cause: self.cause.clone(),
            part: self.part,
        }
    }

    pub(super) fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    /// Registers the metrics of the workers.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(&self, metrics: &Metrics) -> prometheus::Result<()> {
        self.workers.register(metrics)
    }

    /// A worker that has been at one piece of work for longer than it ever should, if there is one.
    #[must_use]
    pub fn late_worker(&self) -> Option<&'static str> {
        self.workers.late()
    }

    /// A handle that SIGTERM and SIGINT trigger. A second signal of either kind ends the process
    /// at once, with the code a shell would show for it (143 or 130).
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(listen(shutdown.clone(), terminate, interrupt));
        Ok(shutdown)
    }

    /// Asks for an orderly stop. Callable from any thread.
    pub fn request(&self, reason: impl Into<String>) {
        let cause = Cause::Requested(reason.into());
        tracing::info!(%cause, "stopping");
        self.cause.send_if_modified(|current| {
            let first = current.is_none();
            current.get_or_insert(cause);
            first
        });
    }

    /// Says that something broke beyond repair, logs it, and stops the process, or the part. Callable from any
    /// thread.
    pub fn fail(&self, reason: impl Into<String>) {
        let cause = Cause::Fatal(reason.into());
        match self.part {
            None => tracing::error!(%cause, "stopping"),
            Some(part) => tracing::error!(%cause, part, "a part stops, the rest goes on"),
        }
        self.cause.send_if_modified(|current| {
            let news = !current.as_ref().is_some_and(Cause::is_fatal);
            if news {
                *current = Some(cause);
            }
            news
        });
    }

    /// Waits until the process is to stop; returns at once when it already is.
    pub async fn requested(&self) -> Cause {
        let mut causes = self.cause.subscribe();
        loop {
            if let Some(cause) = causes.borrow_and_update().clone() {
                return cause;
            }
            // Cannot fail: this handle holds a sender.
            let _ = causes.changed().await;
        }
    }

    /// Why the process stops, or `None` while it is not to.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        self.cause.borrow().clone()
    }

    /// Whether the process is to stop.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.cause.borrow().is_some()
    }
}

async fn listen(shutdown: Shutdown, mut terminate: Signal, mut interrupt: Signal) {
    let (name, _) = next_signal(&mut terminate, &mut interrupt).await;
    shutdown.request(name);
    let (name, code) = next_signal(&mut terminate, &mut interrupt).await;
    tracing::warn!("{name} again: leaving at once");
    process::exit(code);
}

/// The name of the next signal, and the exit code of a process that it ended.
async fn next_signal(terminate: &mut Signal, interrupt: &mut Signal) -> (&'static str, i32) {
    tokio::select! {
        _ = terminate.recv() => ("SIGTERM", 128 + 15),
        _ = interrupt.recv() => ("SIGINT", 128 + 2),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn the_first_cause_wins() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_requested());
        shutdown.request("SIGTERM");
        shutdown.request("SIGINT");
        assert!(shutdown.is_requested());
        assert_eq!(
            shutdown.requested().await,
            Cause::Requested("SIGTERM".into())
        );
    }

    #[tokio::test]
    async fn a_fatal_cause_replaces_an_orderly_one_and_stays() {
        let shutdown = Shutdown::new();
        shutdown.request("SIGTERM");
        shutdown.fail("disk full");
        shutdown.fail("and more");
        shutdown.request("SIGINT");
        assert_eq!(shutdown.cause(), Some(Cause::Fatal("disk full".into())));
    }

    #[tokio::test]
    async fn a_plain_thread_wakes_every_waiter() {
        let shutdown = Shutdown::new();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let shutdown = shutdown.clone();
                tokio::spawn(async move { shutdown.requested().await })
            })
            .collect();
        let failing = shutdown.clone();
        thread::spawn(move || failing.fail("fsync")).join().unwrap();
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), Cause::Fatal("fsync".into()));
        }
    }

    #[tokio::test]
    async fn a_signal_is_an_orderly_cause() {
        let shutdown = Shutdown::on_signals().unwrap();
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::TERM).unwrap();
        assert_eq!(
            shutdown.requested().await,
            Cause::Requested("SIGTERM".into())
        );
    }
}
