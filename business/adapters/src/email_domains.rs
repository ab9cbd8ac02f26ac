//! Adapters of the context `email_domains`: stores of tallies, and policies over them.

mod accounting;
mod batched;
pub mod embedded;
mod guarded;
mod ledger;
mod memory;
pub mod postgres;
mod redis_cached;
mod shadowed;
pub mod spooled;
mod tally_map;
mod traced;

pub use accounting::Accounting;
pub use batched::{Batched, BatchedOptions};
pub use embedded::Embedded;
pub use guarded::{Guarded, GuardedOptions};
pub use ledger::MarkLimits;
pub use memory::Memory;
pub use postgres::{Postgres, PostgresOptions};
pub use redis_cached::{MillisClock, RedisCached, RedisOptions, RedisSetupError};
pub use shadowed::{ShadowError, Shadowed, ShadowedOptions};
pub use spooled::{SpoolError, Spooled, SpooledOptions};
pub use traced::Traced;
