use std::{error::Error, fmt, sync::Arc};

/// Why a port could not do what it was asked. One error serves every port, so that one policy
/// (deadlines, retries, a breaker) can wrap any of them.
///
/// Cloning is cheap: a group that fails answers all of its callers with the same error.
#[derive(Clone, Debug)]
pub struct PortError {
    kind: ErrorKind,
    operation: &'static str,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What kind of failure it was; says whether trying again is safe ([`ErrorKind::retry`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorKind {
    /// The backend cannot be reached or is stopping. Nothing was applied.
    Unavailable,
    /// A bound is reached: a queue is full. Nothing was applied.
    Overloaded,
    /// The outcome is unknown: it may have been applied. The connection was lost during COMMIT,
    /// or a sync failed.
    Ambiguous,
    /// What was asked makes no sense to this store, such as a cursor that is not its own.
    Invalid,
    /// It is over: whoever asks has gone on to something later since, and the store with it.
    Outdated,
    /// Stored data contradicts itself.
    Corrupt,
    /// Anything else: a defect, here or in the backend.
    Unexpected,
}

/// Whether the same call may be made again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Retry {
    /// Trying again cannot help.
    Never,
    /// Nothing happened; any call may be made again.
    Safe,
    /// It may have happened; only a call that counts once however often it is made.
    IfIdempotent,
}

impl ErrorKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Unavailable,
        Self::Overloaded,
        Self::Ambiguous,
        Self::Invalid,
        Self::Outdated,
        Self::Corrupt,
        Self::Unexpected,
    ];

    /// Whether a call that failed this way may be made again.
    pub fn retry(self) -> Retry {
        match self {
            Self::Unavailable | Self::Overloaded => Retry::Safe,
            Self::Ambiguous => Retry::IfIdempotent,
            Self::Invalid | Self::Outdated | Self::Corrupt | Self::Unexpected => Retry::Never,
        }
    }

    /// The name used in logs and as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
            Self::Ambiguous => "ambiguous",
            Self::Invalid => "invalid",
            Self::Outdated => "outdated",
            Self::Corrupt => "corrupt",
            Self::Unexpected => "unexpected",
        }
    }
}

impl PortError {
    /// A failure of `operation` (the port's method, or the step of it) that nothing else caused.
    pub fn new(kind: ErrorKind, operation: &'static str) -> Self {
        Self {
            kind,
            operation,
            source: None,
        }
    }

    /// The same, with what caused it.
    pub fn caused_by(
        kind: ErrorKind,
        operation: &'static str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self {
            kind,
            operation,
            source: Some(Arc::from(source.into())),
        }
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What was being done.
    pub fn operation(&self) -> &'static str {
        self.operation
    }
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.kind.as_str())
    }
}

impl Error for PortError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}
