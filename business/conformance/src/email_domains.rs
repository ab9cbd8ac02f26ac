//! The promises of [`DomainTallies`].
//!
//! | file | what it asks |
//! | --- | --- |
//! | [`record`] | do events add up? |
//! | [`names`] | is every name a domain of its own? |
//! | [`verdicts`] | is a change of verdict told, once? |
//! | [`marks`] | does a marked request count once? |
//! | [`group_ids`] | does a group that is recorded again count once? |
//! | [`reads`] | does a read show what was recorded? |
//! | [`paging`] | do the pages hold every domain once? |
//! | [`concurrency`] | does all that hold when many do it at once? |
//! | [`model_check`] | does a random run agree with a plain model? |
//! | [`reopened`] | does it hold when the store is closed and opened again? |
//!
//! Which of them run is decided by what the store is, in `suite.rs`:
//! - a `mechanism` is a store, or a policy beneath the one that forms groups (`Batched`). It takes
//!   a group's id and time from the caller.
//! - a `front` is `Batched`, or a stack with it on top. It forms groups of its own, so the
//!   caller's id and time mean nothing to it, and a change of verdict may be told to several
//!   callers whose requests were put in one group. All the other promises are the same.

use std::{
    any::Any,
    num::{NonZeroU32, NonZeroU64},
    sync::Arc,
};

use business::email_domains::{ports::DomainTallies, verdict::VerdictPolicy};

pub mod concurrency;
mod driver;
pub mod group_ids;
pub mod marks;
mod model;
pub mod model_check;
pub mod names;
pub mod paging;
pub mod reads;
pub mod record;
pub mod reopened;
mod suite;
pub mod verdicts;

/// The policy a store under test judges by: 5 delivered, so that verdicts change often.
pub const POLICY: VerdictPolicy = VerdictPolicy::new(NonZeroU64::MIN.saturating_add(4));

/// For how many seconds a store under test remembers marks: a day.
pub const WINDOW_S: NonZeroU32 = NonZeroU32::MIN.saturating_add(86_399);

/// A store under test: fresh and empty.
pub struct Subject {
    /// The store.
    pub tallies: Arc<dyn DomainTallies>,
    /// What it judges by: [`POLICY`], or another with a threshold from 2 to 100.
    pub policy: VerdictPolicy,
    /// What must live as long as the store and is dropped after it, such as its folder.
    pub keep: Box<dyn Any + Send>,
}

impl Subject {
    /// A store that judges by [`POLICY`] and needs nothing kept.
    pub fn new(tallies: Arc<dyn DomainTallies>) -> Self {
        Self {
            tallies,
            policy: POLICY,
            keep: Box::new(()),
        }
    }
}

/// A store under test that outlives its process: it can be closed and opened again.
pub trait Reopenable: Send {
    /// The store as it is open now.
    fn subject(&self) -> &Subject;

    /// Closes the store and opens it again over the same data. The suite holds nothing of it
    /// while it calls this.
    fn reopen(&mut self) -> impl Future<Output = ()> + Send;
}
