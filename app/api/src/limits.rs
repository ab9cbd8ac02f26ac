//! Every bound of the HTTP layer. The defaults stand in the server's `default.toml`.

use std::{
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    time::Duration,
};

use serde::Deserialize;

/// The most threads that the server underneath takes.
pub(crate) const MAX_WORKERS: usize = 512;

/// How requests are read, answered and logged.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Threads that serve, 512 at most; 0 is one for each core.
    pub workers: usize,
    /// Connections open at a time, over all workers and rounded up to a multiple of them. More
    /// wait to be accepted.
    pub max_connections: NonZeroUsize,
    /// Connections the kernel holds until they are accepted.
    pub backlog: NonZeroU32,
    /// The longest path, without the query; a longer one is answered 414. The parser itself
    /// refuses a target of 65,535 bytes, whatever is set here.
    pub max_path_bytes: NonZeroUsize,
    /// The longest head: request line and header fields. A longer one is answered 431. The parser
    /// itself refuses 131,072 bytes and more than 96 fields, whatever is set here.
    pub max_head_bytes: NonZeroUsize,
    /// The longest body, as it is sent and decoded; a longer one is answered 413.
    pub max_body_bytes: NonZeroU64,
    /// What all bodies together may take while their requests are answered; over it, 503. At least
    /// twice the longest one, for an encoded body stands beside its decoded form for a moment. What
    /// is made of a body takes about as much again, of CloudEvents several times as much.
    pub max_bodies_bytes: NonZeroU64,
    /// How long a client may take to send each head and each body. Then 408, save for a head behind
    /// the first of its connection: that ends without an answer.
    pub read_timeout_ms: NonZeroU64,
    /// How long a client may read nothing of an answer that has to wait for it; then the connection
    /// ends.
    pub write_timeout_ms: NonZeroU64,
    /// How long a request may take to be answered once it is read; then 503.
    pub answer_timeout_ms: NonZeroU64,
    /// How long an idle connection is kept open.
    pub keep_alive_ms: NonZeroU64,
    /// How long a stopping server says that it is not ready, and still serves all that comes,
    /// before it accepts no connection any more.
    pub unready_ms: u16,
    /// How long a stopping server waits for answers that are on their way, rounded up to a whole
    /// second.
    pub drain_timeout_ms: NonZeroU64,
    /// Which requests get a line in the log.
    pub request_log: RequestLog,
}

/// Which requests get a line in the log. Those answered 5xx always do, and so do those on routes
/// that are not hot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestLog {
    /// What is logged on hot routes: events, the reads of one domain, and what is asked by probes
    /// and by Prometheus.
    pub hot_routes: HotRoutes,
    /// With `sampled`, one line for this many requests, counted by each worker and route alone.
    pub sample_every: NonZeroU32,
}

/// What is logged on hot routes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HotRoutes {
    /// Nothing.
    Off,
    /// Some requests.
    Sampled,
    /// Every request.
    All,
}

impl Settings {
    /// How many threads serve.
    pub(crate) fn worker_threads(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism()
                .map_or(1, NonZeroUsize::get)
                .min(MAX_WORKERS),
            workers => workers,
        }
    }

    pub(crate) fn unready(&self) -> Duration {
        Duration::from_millis(self.unready_ms.into())
    }

    pub(crate) fn read_timeout(&self) -> Duration {
        Duration::from_millis(self.read_timeout_ms.get())
    }

    pub(crate) fn write_timeout(&self) -> Duration {
        Duration::from_millis(self.write_timeout_ms.get())
    }

    pub(crate) fn answer_timeout(&self) -> Duration {
        Duration::from_millis(self.answer_timeout_ms.get())
    }

    pub(crate) fn keep_alive(&self) -> Duration {
        Duration::from_millis(self.keep_alive_ms.get())
    }

    /// In seconds, which is all that the server underneath can be told.
    pub(crate) fn drain_timeout_s(&self) -> u64 {
        self.drain_timeout_ms.get().div_ceil(1_000)
    }
}
