//! A connection with the deadlines that the HTTP server underneath does not have: for every head
//! behind the first one, and for an answer that its client does not read.
//!
//! Each worker looks through its connections every [`TICK`]; what is sent and read costs a few
//! flags, and neither a timer nor a reading of a clock.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use foundation::{
    planted::planted_bug,
    telemetry::{Metrics, metrics::DURATION_SECONDS},
};
use prometheus::{Histogram, HistogramOpts, IntGauge};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::MissedTickBehavior,
};

/// How often connections are looked at. A deadline strikes up to two of these late, never early.
const TICK: Duration = Duration::from_millis(250);

/// What is shown of connections, and of the workers that serve them. Clones share it.
#[derive(Clone)]
pub(crate) struct ConnectionMetrics {
    open: IntGauge,
    worker_lag: Histogram,
}

/// A connection that ends with an error once a deadline is over.
pub(crate) struct Connection {
    stream: TcpStream,
    watched: Rc<Watched>,
    open: IntGauge,
}

/// The connections of one worker.
pub(crate) struct Watch {
    /// Ticks that a head may take.
    head: u32,
    /// Ticks that an answer may go without progress.
    write: u32,
    open: IntGauge,
    connections: RefCell<Vec<Weak<Watched>>>,
}

/// What is known of a connection.
#[derive(Default)]
pub(crate) struct Watched {
    phase: Cell<Phase>,
    /// For how many ticks it has been impossible to write any of an answer.
    unwritten: Cell<Option<u32>>,
    expired: Cell<bool>,
    /// An answer has said that it is the last one.
    ended: Cell<bool>,
    /// Of the task that serves it.
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Default)]
enum Phase {
    /// Before the first request, which the server underneath has a deadline for.
    #[default]
    New,
    /// Between two requests.
    Idle,
    /// Some of a head is there, for so many ticks.
    Head(u32),
    /// A request is being answered: it has deadlines of its own.
    Answering,
}

/// A request that is being answered, until it is dropped.
pub(crate) struct Answering(Rc<Watched>);

impl ConnectionMetrics {
    /// Registers them. So many connections may be open.
    ///
    /// # Errors
    /// When their names are taken.
    pub(crate) fn register(metrics: &Metrics, limit: usize) -> prometheus::Result<Self> {
        let open = IntGauge::new("catchall_http_connections", "Connections that are open.")?;
        let most = IntGauge::new(
            "catchall_http_connections_limit",
            "Connections that may be open; more wait to be accepted.",
        )?;
        most.set(limit.try_into().unwrap_or(i64::MAX));
        let worker_lag = Histogram::with_opts(
            HistogramOpts::new(
                "catchall_http_worker_lag_seconds",
                "How late a thread that serves came round to a timer, which itself is a millisecond \
                 or two late.",
            )
            .buckets(DURATION_SECONDS.to_vec()),
        )?;
        metrics.register(open.clone())?;
        metrics.register(most)?;
        metrics.register(worker_lag.clone())?;
        Ok(Self { open, worker_lag })
    }
}

impl Watch {
    /// Begins to look at the connections that [`Self::connection`] makes, on this thread.
    pub(crate) fn start(head: Duration, write: Duration, metrics: &ConnectionMetrics) -> Rc<Self> {
        let ticks = |timeout: Duration| {
            u32::try_from(timeout.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX)
        };
        let watch = Rc::new(Self {
            head: ticks(head),
            write: ticks(write),
            open: metrics.open.clone(),
            connections: RefCell::default(),
        });
        let watching = Rc::downgrade(&watch);
        let lag = metrics.worker_lag.clone();
        actix_web::rt::spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            // A tick that comes late must not make the next one come early.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let due = ticks.tick().await;
                lag.observe(due.elapsed().as_secs_f64());
                match watching.upgrade() {
                    Some(watch) => watch.tick(),
                    None => return,
                }
            }
        });
        watch
    }

    pub(crate) fn connection(&self, stream: TcpStream) -> Connection {
        let watched = Rc::<Watched>::default();
        self.connections.borrow_mut().push(Rc::downgrade(&watched));
        self.open.inc();
        Connection {
            stream,
            watched,
            open: self.open.clone(),
        }
    }

    fn tick(&self) {
        self.connections.borrow_mut().retain(|watched| {
            let watched = watched.upgrade();
            if let Some(watched) = &watched {
                watched.tick(self);
            }
            watched.is_some()
        });
    }
}

impl Watched {
    /// A request's head is whole.
    pub(crate) fn answer(self: &Rc<Self>) -> Answering {
        self.phase.set(Phase::Answering);
        Answering(Rc::clone(self))
    }

    fn tick(&self, watch: &Watch) {
        // The head of the next request may have to wait until an answer is read.
        let over = if let Some(ticks) = self.unwritten.get() {
            self.unwritten.set(Some(ticks + 1));
            ticks >= watch.write
        } else if let Phase::Head(ticks) = self.phase.get() {
            self.phase.set(Phase::Head(ticks + 1));
            ticks >= watch.head
        } else {
            false
        };
        if over && !self.expired.replace(true) {
            let waker = self.waker.borrow_mut().take();
            waker.inspect(Waker::wake_by_ref);
        }
    }

    fn has_read(&self) {
        if let Phase::Idle = self.phase.get()
            && !planted_bug("second-head-without-deadline")
        {
            self.phase.set(Phase::Head(0));
        }
    }

    fn has_written(&self) {
        self.unwritten.set(None);
        if let Phase::Head(_) = self.phase.get() {
            self.phase.set(Phase::Head(0));
        }
    }

    /// The task will be woken by the client, or when a deadline is over.
    fn waits(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
    }
}

impl Answering {
    /// This answer says that the connection ends.
    pub(crate) fn end(&self) {
        self.0.ended.set(true);
    }

    /// Whether an answer before this one said so. The HTTP server underneath goes on to parse what was
    /// sent behind it.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.ended.get()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.phase.set(Phase::Idle);
    }
}

impl Connection {
    /// For the requests that come over it.
    pub(crate) fn watched(&self) -> &Rc<Watched> {
        &self.watched
    }
}

impl Connection {
    /// An error once a deadline is over. What was not read is thrown away then: the system would hold
    /// on to it for a while.
    fn check(&self) -> io::Result<()> {
        if !self.watched.expired.get() {
            return Ok(());
        }
        self.stream.set_zero_linger()?;
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.dec();
        // It holds the task that holds this.
        let waker = self.watched.waker.borrow_mut().take();
        drop(waker);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        match &read {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => self.watched.has_read(),
            Poll::Ready(_) => {}
            Poll::Pending => self.watched.waits(context),
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        match &written {
            Poll::Ready(_) => self.watched.has_written(),
            Poll::Pending => {
                let since = self.watched.unwritten.get().unwrap_or(0);
                self.watched.unwritten.set(Some(since));
                self.watched.waits(context);
            }
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
