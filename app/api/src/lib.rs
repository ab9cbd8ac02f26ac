//! HTTP in.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`server`] | binds, serves, drains |
//! | `connection` | the deadlines of a connection, beside those of a request |
//! | [`limits`] | every bound the HTTP layer keeps, as settings |
//! | `routes` | the one table of routes: what is served, by whom, and how it can fail |
//! | `middleware` | what happens to every request: its id, limits, panics, metrics, log line |
//! | `problem` | how a request fails: RFC 9457 documents |
//! | [`health`] | alive, ready, metrics |
//! | `sampled` | the metrics that are read when somebody asks for them |
//! | `openapi`, `docs` | the description of it all, and the page that shows it |
//! | `page`, `stream` | the page at `/`, and answers that go on |
//! | `email_domains` | the context: its requests, answers and handlers |
//!
//! A context gets a folder of its own, with the same files: `request` is what is read from a
//! request, `dto` what is answered, `handlers` the rest.

/// What is private and hot, for the benchmarks of this crate and for nobody else.
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench {
    pub use crate::email_domains::count_lines;
}
/// What holds for any bytes, for `fuzz/` and for nobody else.
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz {
    pub use crate::email_domains::fuzz::*;
}
mod connection;
mod docs;
mod email_domains;
pub mod health;
pub mod limits;
mod middleware;
mod openapi;
mod page;
mod problem;
mod routes;
mod sampled;
pub mod server;
mod stream;

pub use health::Readiness;
pub use limits::{HotRoutes, RequestLog, Settings};
pub use server::{App, Server, Stop};
