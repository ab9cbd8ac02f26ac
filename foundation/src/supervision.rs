//! Who may stop the process, and what happens when a part of it breaks.
//!
//! There is one [`Shutdown`] for the process: everybody may ask it to stop, and everybody who waits
//! hears of it. What works in the background as long as the process does is a worker
//! ([`spawn_worker`], [`spawn_worker_task`]): one that panics or is stuck is started again, and when
//! that does not help, the process is told to stop, for half a server is worse than none. What
//! cannot be started again has one life ([`spawn_thread`], [`spawn_named`]).

mod once;
mod restarts;
mod shutdown;
mod workers;

pub use self::{
    once::{spawn_named, spawn_thread},
    shutdown::{Cause, Shutdown},
    workers::{Heart, Role, Worker, spawn_worker, spawn_worker_task},
};
