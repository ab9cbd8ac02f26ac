//! What the context needs from outside.

use std::num::NonZeroU16;

use async_trait::async_trait;

use super::{
    model::{DomainName, Group, MarkMemory, Outcomes, Tally},
    verdict::{Verdict, VerdictChange},
};
use crate::kernel::{PortError, UnixSeconds};

/// The tallies of all domains.
///
/// Every implementer passes the suite in `business/conformance`. A policy that wraps a port keeps
/// all of these promises too, save where its own docs say otherwise.
#[async_trait]
pub trait DomainTallies: Send + Sync + 'static {
    /// Counts a group.
    ///
    /// An implementer
    /// - MUST apply the group whole or not at all, and MUST NOT return before it is as durable as
    ///   the store ever makes it;
    /// - MUST apply a group id once. A group with the id of the writer's last one is answered as
    ///   the first time, except that it causes no verdict changes; an older one is `Outdated`;
    /// - MUST skip a member whose mark is stored already or stands earlier in the group, or whose
    ///   key was made before the store's horizon
    ///   ([`resolve_marks`](super::model::resolve_marks)), and MUST commit marks and counts
    ///   together. It forgets a mark only to move its horizon behind the key's stamp;
    /// - MUST fold what is left to one change a domain ([`fold`](super::model::fold));
    /// - MUST take the time from the group, never from a clock of its own;
    /// - MUST answer with one outcome a member, and with the verdict changes the group caused.
    ///
    /// It MAY block the calling thread while it makes the group durable: it is called by
    /// committers, which have a thread of their own, and not from within a request.
    ///
    /// # Errors
    /// After `Unavailable` and `Overloaded` nothing was applied. After `Ambiguous` it may have
    /// been: the same group, under the same id, can be recorded again.
    async fn record(&self, group: &Group) -> Result<Recorded, PortError>;

    /// The tallies of these domains, in their order. A domain that was never seen is
    /// [`Tally::ZERO`], never an error.
    ///
    /// An implementer MUST NOT show what is not durable. A read that begins after `record`
    /// returned MUST show what it recorded, unless a cache is allowed and stands between.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn get(
        &self,
        domains: &[DomainName],
        freshness: Freshness,
    ) -> Result<Vec<Tally>, PortError>;

    /// Some domains, in an order of the store's own.
    ///
    /// Going from page to page, a domain that is present throughout MUST appear exactly once, also
    /// when the store is restarted in between. A page is bounded work, so that with a verdict
    /// asked for it may be short or empty while more follow.
    ///
    /// # Errors
    /// `Invalid` for a cursor that is not this store's.
    async fn page(&self, request: &PageRequest) -> Result<Page, PortError>;

    /// Sums over all domains. Its cost MUST NOT depend on how many there are.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn totals(&self) -> Result<Totals, PortError>;

    /// Whether the store can serve now, and which one it is. Cheap enough to ask every second.
    ///
    /// # Errors
    /// Why it cannot.
    async fn probe(&self) -> Result<Probe, PortError>;
}

/// Events that are acknowledged and do not count yet, for the store is away or was a moment ago.
pub trait PendingEvents: Send + Sync + 'static {
    /// When the oldest of them was recorded; `None` when there are none, and every read shows all
    /// that was acknowledged.
    fn oldest(&self) -> Option<UnixSeconds>;
}

/// The latest domains whose verdict changed, as this server recorded it.
pub trait VerdictChanges: Send + Sync + 'static {
    /// The newest first, each with the time of its group. Of bounded number: a few dozen.
    fn latest(&self) -> Vec<(UnixSeconds, VerdictChange)>;
}

/// What became of a group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recorded {
    /// One outcome a member, in their order.
    pub outcomes: Outcomes,
    /// Whose verdict is another one now.
    pub verdict_changes: Vec<VerdictChange>,
}

/// How fresh a read has to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Freshness {
    /// A cache may answer, as old as it is configured to be.
    Cached,
    /// The store itself answers.
    Latest,
}

/// Which domains to list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageRequest {
    /// Only those with this verdict.
    pub verdict: Option<Verdict>,
    /// Where the page before ended; `None` for the first one.
    pub after: Option<Cursor>,
    /// How many at the most.
    pub limit: NonZeroU16,
}

/// Where a page ended. Only the store that made it can read it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Cursor(pub Box<[u8]>);

/// Some domains.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// At most as many as were asked for, possibly none.
    pub domains: Vec<(DomainName, Tally)>,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// Sums over all domains.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Events counted as delivered.
    pub delivered: u64,
    /// Events counted as bounced.
    pub bounced: u64,
    /// Domains ever seen.
    pub domains: u64,
    /// Of these, the catch-alls.
    pub catch_all: u64,
    /// Of these, the ones that are not.
    pub not_catch_all: u64,
}

impl Totals {
    /// Domains of which too little is known.
    pub fn unknown(&self) -> u64 {
        self.domains
            .saturating_sub(self.catch_all)
            .saturating_sub(self.not_catch_all)
    }
}

/// A store that answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Which store it is: made with it, kept as long as its data.
    pub store: StoreId,
    /// What it remembers of marks.
    pub memory: MarkMemory,
    /// It has no room for more: it can be read, and records nothing.
    pub full: bool,
}

/// Tells one store's data from another's, over restarts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StoreId(pub u128);
