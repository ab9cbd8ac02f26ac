//! The main context: which domains accept mail for any address at all.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`model`] | names, events, tallies, and the group in which they are recorded |
//! | [`verdict`] | the rule |
//! | [`ports`] | what the rule needs from a store |
//! | [`service`] | the use cases the server offers |
//! | [`error`] | how they fail |

pub mod error;
pub mod model;
pub mod ports;
pub mod service;
pub mod verdict;
