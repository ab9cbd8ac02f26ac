//! The fault harness: harms a server in every way there is, and holds what it says against what its
//! clients know. Never shipped.
//!
//! | module | what it gives |
//! | --- | --- |
//! | [`rows`] | the faults |
//! | [`planted`] | the bugs that have to be caught |
//! | [`power_loss`] | thousands of power cuts in memory |
//! | [`fleet`] | clients who write down what they did and were told |
//! | [`history`], [`checker`] | what they wrote down, and what must hold of it |
//! | [`ledger`] | whether a server's metrics account for every event |
//! | [`journal`] | a second opinion on what a data folder holds |
//! | [`setup`], [`server`], [`http`] | a server as a process, and a client that does as it is told |
//! | [`small_disk`], [`proxy`] | a disk that can be filled, a network that can be cut |
//! | [`report`] | lines, and a page of the documentation |

use std::time::Duration;

pub mod checker;
pub mod cli;
pub mod fleet;
pub mod history;
pub mod http;
pub mod journal;
pub mod ledger;
pub mod planted;
pub mod power_loss;
pub mod proxy;
pub mod report;
pub mod rows;
pub mod server;
pub mod setup;
pub mod small_disk;

/// The longest that anything may take: far more than it does, so that a busy machine passes.
pub const DEADLINE: Duration = Duration::from_secs(60);
