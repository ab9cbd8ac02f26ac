//! The ground a server stands on, whatever it serves.
//!
//! | module | what it gives |
//! | --- | --- |
//! | [`settings`] | one settings struct from defaults, a file, the environment and flags; secrets that never print |
//! | [`telemetry`] | logs to stderr, traces to an OpenTelemetry collector, metrics for Prometheus |
//! | [`supervision`] | one [`Shutdown`](supervision::Shutdown) for the process, and tasks whose panic stops it |
//! | [`limits`] | the open-file limit |
//! | [`planted`] | bugs put in on purpose, to try the tests (feature `planted-bugs`) |
//! | `testing` | private PostgreSQL and Redis servers for tests (feature `testing`) |
//!
//! Nothing here knows the program that uses it: names, defaults and prefixes are all arguments.

pub mod limits;
pub mod planted;
pub mod settings;
pub mod supervision;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
