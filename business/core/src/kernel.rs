//! What every context shares: time and the error of a port. Kept small on purpose.

mod clock;
mod error;

pub use clock::{Clock, UnixSeconds};
pub use error::{ErrorKind, PortError, Retry};
