//! How the use cases fail: one type each.

use crate::kernel::PortError;

/// Why events were not counted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecordError {
    /// The caller used a mark again for another payload. Nothing was counted.
    #[error("the idempotency key was used before, with another payload")]
    MarkMismatch,
    /// The key was made before the moment from which on the store remembers keys. Nothing was
    /// counted: it may have been before.
    #[error("the idempotency key is older than what is remembered")]
    KeyExpired,
    /// The key was made too far in the future. Nothing was counted.
    #[error("the idempotency key was made in the future")]
    KeyAhead,
    /// The store failed; its error says whether the events may have been counted.
    #[error(transparent)]
    Store(#[from] PortError),
}

/// Why a domain, a list of domains or the totals could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The cursor was not made by this store.
    #[error("the cursor is not one of this store's")]
    Cursor,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] PortError),
}
