//! Private PostgreSQL, Redis, Prometheus and OpenTelemetry servers for tests, on free ports of
//! 127.0.0.1, each with its own temporary folder. A server that already runs on the machine is never touched.
//!
//! A test may stop, kill, freeze and restart its [`Server`]. The servers and their folders are
//! gone when the test process is, however it ends, SIGKILL included.
//!
//! The folders are made in `TMPDIR`. The servers write durably, so that on a slow or busy disk
//! `TMPDIR=/dev/shm` makes starts and recoveries several times faster.
//!
//! Every call blocks for as long as it takes: about a second for a start. In an async test that
//! is mostly what is wanted; where something must go on meanwhile, use `spawn_blocking`.
//!
//! What fails here panics with the server's log: a test cannot go on without its server, and a
//! test that is skipped in silence proves nothing. Linux only, as it reads `/proc`.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `postgres`, `redis`, `prometheus`, `rotel` | how that server is set up, started and found ready |
//! | `server` | a server's folder, port and guardian |
//! | `process` | signals, and the processes below a process |
//! | `account`, `ports`, `programs` | the user to run as, free ports, where the programs are |

#![allow(
    clippy::expect_used,
    reason = "a test server that fails must fail the test"
)]

mod account;
mod ports;
mod postgres;
mod process;
mod programs;
mod prometheus;
mod redis;
mod rotel;
mod server;

pub use postgres::Postgres;
pub use prometheus::Prometheus;
pub use redis::Redis;
pub use rotel::Rotel;
pub use server::Server;
