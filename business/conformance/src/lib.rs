//! What every implementer of a port must pass: one suite for every store, every policy that wraps
//! one, and the whole stack the server runs.
//!
//! A behaviour is one `async fn` named after the promise it checks. It takes a fresh store, uses
//! nothing but the port, and panics when the promise is broken. [`domain_tallies!`] turns all of
//! them into named tests.
//!
//! To run the suite over a store of your own, write a factory in a file under `tests/` and name it
//! in the macro. The crate needs `tokio` (with `macros` and `rt-multi-thread`) among its
//! dependencies.
//!
//! ```
//! use std::sync::Arc;
//!
//! use business::email_domains::ports::DomainTallies;
//! use conformance::email_domains::{POLICY, Reopenable, Subject};
//! # use business::email_domains::verdict::VerdictPolicy;
//! # struct Folder;
//! # fn new_folder() -> Folder { unimplemented!() }
//! # async fn open(_: &Folder, _: VerdictPolicy) -> Arc<dyn DomainTallies> { unimplemented!() }
//!
//! // An empty store, which judges by the suite's policy. `keep` is dropped after the store.
//! async fn fresh() -> Subject {
//!     let folder = new_folder();
//!     let store = open(&folder, POLICY).await;
//!     Subject { keep: Box::new(folder), ..Subject::new(store) }
//! }
//!
//! // For a store that outlives its process: the same, and it can be closed and opened again.
//! struct Stored { folder: Folder, subject: Option<Subject> }
//!
//! async fn stored() -> Stored {
//!     let folder = new_folder();
//!     let subject = Some(Subject::new(open(&folder, POLICY).await));
//!     Stored { folder, subject }
//! }
//!
//! impl Reopenable for Stored {
//!     fn subject(&self) -> &Subject {
//!         self.subject.as_ref().unwrap()
//!     }
//!
//!     async fn reopen(&mut self) {
//!         self.subject = None; // Closed first: nobody else holds it now.
//!         self.subject = Some(Subject::new(open(&self.folder, POLICY).await));
//!     }
//! }
//!
//! conformance::domain_tallies!(my_store, fresh, [mechanism, reopens(stored)]);
//! # fn main() {}
//! ```
//!
//! `tests/proof` holds a plain store that passes, and one that is broken in many ways, each of
//! which the suite finds.

#![allow(
    clippy::expect_used,
    reason = "a suite says by a panic that a promise is broken"
)]

use std::time::Duration;

pub mod email_domains;

/// How long one behaviour may take, the opening of its store included. Far more than any needs:
/// it is there so that a store that hangs fails its test.
const DEADLINE: Duration = Duration::from_secs(180);

/// Runs one behaviour within the deadline of all. The macros call it.
///
/// # Panics
/// When the behaviour does, or when it is not done in time.
#[doc(hidden)]
pub async fn in_time(behaviour: impl Future<Output = ()>) {
    tokio::time::timeout(DEADLINE, behaviour)
        .await
        .expect("the store has not answered in time");
}
