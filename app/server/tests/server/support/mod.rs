//! What the tests share, besides the server and the client that they share with the fault harness
//! (`torture`).
//!
//! | file | what it is for |
//! | --- | --- |
//! | `setup` | how a server is set up |
//! | `events` | what may be counted, and what should have been |
//! | `load` | many clients at once, who know what they were told |

mod events;
mod load;
mod setup;

use std::time::{Duration, Instant};

pub(crate) use events::{Account, names};
pub(crate) use load::{Job, Load};
pub(crate) use setup::Setup;
pub(crate) use torture::{
    DEADLINE,
    history::Kind,
    http::{Answer, Connection},
    server::Server,
};

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "in vain: until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
