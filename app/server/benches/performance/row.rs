//! What is measured: one row is one subject under one load.

use std::fmt;

use crate::{client::Requests, keys::Keys};

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Bare,
    Reference,
    Memory,
    Embedded {
        /// Added to every sync.
        delay_us: u32,
    },
    /// Embedded, with a shadow in a PostgreSQL that was frozen once the server was up.
    Shadowed {
        /// `store.shadow.queue_capacity`.
        queue: u32,
    },
    /// Embedded, and watched as production may be.
    Watched(Watched),
    Postgres,
    RawUpsert,
    LogAndMap,
}

pub(crate) const EMBEDDED: Subject = Subject::Embedded { delay_us: 0 };

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bare => "bare",
            Self::Reference => "reference",
            Self::Memory => "memory",
            Self::Embedded { delay_us: 0 } => "embedded",
            Self::Embedded { delay_us } => return write!(f, "embedded+{}ms", delay_us / 1_000),
            Self::Shadowed { queue } => return write!(f, "embedded+frozen-shadow-{queue}"),
            Self::Watched(Watched::Off) => "off",
            Self::Watched(Watched::Metrics) => "metrics",
            Self::Watched(Watched::MetricsAndTraces) => "metrics-and-1%-of-traces",
            Self::Postgres => "postgres",
            Self::RawUpsert => "raw-upsert",
            Self::LogAndMap => "log-and-map",
        })
    }
}

/// How closely.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Watched {
    /// Built so that no metric counts, and without spans.
    Off,
    /// As it comes: with metrics, and nobody who asks for them.
    Metrics,
    /// Scraped, and a hundredth of the requests traced.
    MetricsAndTraces,
}

impl Subject {
    /// Whether each run has a process and a folder of its own: two that are alike differ by up to a
    /// tenth for as long as they live, which is more than what is looked for here.
    pub(crate) fn is_begun_anew(self) -> bool {
        matches!(self, Self::Watched(_))
    }
}

/// What it is sent, as fast as it answers.
#[derive(Clone, Copy)]
pub(crate) enum Load {
    /// A PUT an event, from `create-events`.
    Puts { connections: u32 },
    /// The same, each under a key of its own.
    KeyedPuts { connections: u32 },
    /// So many events a request, from `create-events`.
    Bulk { batch: u32, connections: u32 },
    /// From the bench's own client.
    Requests(Requests),
}

impl Load {
    /// What is under way at once; a run is many times that.
    pub(crate) fn unit(self) -> u64 {
        match self {
            Self::Puts { connections } | Self::KeyedPuts { connections } => connections.into(),
            Self::Bulk { batch, connections } => u64::from(batch) * u64::from(connections),
            Self::Requests(requests) => (requests.connections * requests.depth).into(),
        }
    }
}

/// One line of a table.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) subject: Subject,
    pub(crate) keys: Keys,
    pub(crate) load: Load,
    /// The ids of its controls: rows of the same group.
    pub(crate) against: Vec<String>,
}

/// Rows that are measured in turn, round after round, so that what else the machine does meets
/// all of them alike.
pub(crate) type Group = Vec<Row>;

/// One table.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) about: String,
    pub(crate) groups: Vec<Group>,
}
