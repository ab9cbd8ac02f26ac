//! What the tests share.
//!
//! | file | what it is for |
//! | --- | --- |
//! | `setup` | how a server is set up |
//! | `server` | a server that runs |
//! | `client` | HTTP/1.1 by hand |
//! | `events` | what may be counted, and what should have been |
//! | `load` | many clients at once, who know what they were told |

mod client;
mod events;
mod load;
mod server;
mod setup;

use std::time::{Duration, Instant};

pub(crate) use client::{Answer, Connection};
pub(crate) use events::{Account, Kind, names};
pub(crate) use load::{Job, Load};
pub(crate) use server::Server;
pub(crate) use setup::Setup;

/// The longest that anything may take: far more than it does, so that a busy machine passes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "in vain: until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
