//! What the ports are plugged into, and the policies that wrap them.
//!
//! A mechanism is a noun and has one backend (`Memory`, `Embedded`, `Postgres`); a policy is a
//! past participle and wraps a port (`Batched`, `Traced`, `RedisCached`). A store is a stack of
//! them, put together in one place: the server's `wiring.rs`.

mod clock;
pub mod email_domains;

pub use clock::{SystemClock, system_millis};
