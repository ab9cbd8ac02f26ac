//! The use cases.

use std::sync::Arc;

use smallvec::smallvec;

use super::{
    error::{ReadError, RecordError},
    model::{
        Changes, DomainName, EventKind, Group, Key, MAX_AHEAD_S, Mark, Member, Outcome, Tally,
    },
    ports::{
        DomainTallies, Freshness, Page, PageRequest, PendingEvents, Probe, Totals, VerdictChanges,
    },
    verdict::{Verdict, VerdictChange, VerdictPolicy},
};
use crate::kernel::{Clock, ErrorKind, PortError, UnixSeconds};

/// Counts events and gives verdicts. Cheap to clone.
#[derive(Clone)]
pub struct EmailDomains {
    tallies: Arc<dyn DomainTallies>,
    policy: VerdictPolicy,
    clock: Arc<dyn Clock>,
    pending: Option<Arc<dyn PendingEvents>>,
    verdict_changes: Option<Arc<dyn VerdictChanges>>,
}

/// A domain's tally, and what follows from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// What was counted.
    pub tally: Tally,
    /// The verdict.
    pub verdict: Verdict,
}

/// What became of the events of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Receipt {
    /// Those that count now.
    pub counted: Events,
    /// Those that had been counted before, under the same mark.
    pub duplicates: Events,
    /// Those that are durable, and count once the store is back.
    pub spooled: Events,
}

/// So many events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Events {
    /// Deliveries.
    pub delivered: u64,
    /// Bounces.
    pub bounced: u64,
}

impl Events {
    /// How many there are.
    pub fn sum(&self) -> u64 {
        self.delivered + self.bounced
    }

    fn add(&mut self, (delivered, bounced): (u64, u64)) {
        self.delivered += delivered;
        self.bounced += bounced;
    }
}

/// What became of one event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counted {
    /// It counts now.
    Now,
    /// It had been counted, under the same key.
    Before,
    /// It is durable, and counts once the store is back.
    Later,
}

/// A page of domains with their verdicts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandingsPage {
    /// At most as many as were asked for, possibly none.
    pub domains: Vec<(DomainName, Standing)>,
    /// Where to go on; `None` at the end.
    pub next: Option<super::ports::Cursor>,
}

/// Sums over all domains, and when they held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// The sums.
    pub totals: Totals,
    /// Whatever counted from this moment on is remembered by its key.
    pub keys_from: UnixSeconds,
    /// When.
    pub as_of: UnixSeconds,
}

impl EmailDomains {
    /// The context over this store, judging by this policy.
    pub fn new(
        tallies: Arc<dyn DomainTallies>,
        policy: VerdictPolicy,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            tallies,
            policy,
            clock,
            pending: None,
            verdict_changes: None,
        }
    }

    /// The same, with events that may be acknowledged before they count.
    #[must_use]
    pub fn with_pending(mut self, pending: Arc<dyn PendingEvents>) -> Self {
        self.pending = Some(pending);
        self
    }

    /// The same, remembering the latest changes of verdicts.
    #[must_use]
    pub fn with_verdict_changes(mut self, changes: Arc<dyn VerdictChanges>) -> Self {
        self.verdict_changes = Some(changes);
        self
    }

    /// Counts one event, under its key only once. It is durable when this returns, and counted
    /// unless that is to follow ([`Counted::Later`]).
    ///
    /// # Errors
    /// What is wrong with the key, or the store's own, which says whether the event may have been
    /// counted.
    pub async fn record(
        &self,
        domain: DomainName,
        kind: EventKind,
        key: Option<Key>,
    ) -> Result<Counted, RecordError> {
        let formed_at = self.clock.now();
        let changes = Changes::event(domain, kind);
        let mark = key.map(|key| mark(key, &changes, formed_at)).transpose()?;
        let group = Group {
            id: None,
            formed_at,
            members: smallvec![Arc::new(Member { mark, changes })],
        };
        let recorded = self.tallies.record(&group).await?;
        match recorded.outcomes.first() {
            Some(Outcome::Counted) => Ok(Counted::Now),
            Some(Outcome::Duplicate) => Ok(Counted::Before),
            Some(Outcome::Mismatch) => Err(RecordError::MarkMismatch),
            Some(Outcome::Expired) => Err(RecordError::KeyExpired),
            Some(Outcome::Spooled) => Ok(Counted::Later),
            None => Err(PortError::new(ErrorKind::Unexpected, "record").into()),
        }
    }

    /// Counts what one caller sent together under one key, if it has any: whole or not at all, and
    /// under that key only once. It is durable when this returns.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub async fn record_together(
        &self,
        changes: Changes,
        key: Option<Key>,
    ) -> Result<Receipt, RecordError> {
        let mark = key
            .map(|key| mark(key, &changes, self.clock.now()))
            .transpose()?;
        self.record_all(vec![Member { mark, changes }]).await
    }

    /// Counts members of one caller, each under its own mark only once, if it has one. All are
    /// durable when this returns.
    ///
    /// # Errors
    /// [`RecordError::MarkMismatch`] or [`RecordError::KeyExpired`] when that is so of any mark, the
    /// others being counted; the store's own, which says whether the events may have been counted.
    pub async fn record_all(&self, members: Vec<Member>) -> Result<Receipt, RecordError> {
        let group = Group {
            id: None,
            formed_at: self.clock.now(),
            members: members.into_iter().map(Arc::new).collect(),
        };
        let outcomes = self.tallies.record(&group).await?.outcomes;
        if outcomes.len() != group.members.len() {
            return Err(PortError::new(ErrorKind::Unexpected, "record").into());
        }
        let mut receipt = Receipt::default();
        for (member, outcome) in group.members.iter().zip(outcomes) {
            let sums = member.changes.sums();
            match outcome {
                Outcome::Counted => receipt.counted.add(sums),
                Outcome::Duplicate => receipt.duplicates.add(sums),
                Outcome::Mismatch => return Err(RecordError::MarkMismatch),
                Outcome::Expired => return Err(RecordError::KeyExpired),
                Outcome::Spooled => receipt.spooled.add(sums),
            }
        }
        Ok(receipt)
    }

    /// What is known of these domains, in their order.
    ///
    /// # Errors
    /// The store's own.
    pub async fn standings(
        &self,
        domains: Vec<DomainName>,
        freshness: Freshness,
    ) -> Result<Vec<(DomainName, Standing)>, ReadError> {
        let tallies = self.tallies.get(&domains, freshness).await?;
        if tallies.len() != domains.len() {
            return Err(PortError::new(ErrorKind::Unexpected, "get").into());
        }
        let judged = tallies.into_iter().map(|tally| self.judge(tally));
        Ok(domains.into_iter().zip(judged).collect())
    }

    /// What is known of one domain.
    ///
    /// # Errors
    /// The store's own.
    pub async fn standing(
        &self,
        domain: DomainName,
        freshness: Freshness,
    ) -> Result<(DomainName, Standing), ReadError> {
        let domains = [domain];
        let tallies = self.tallies.get(&domains, freshness).await?;
        let tally = *tallies
            .first()
            .ok_or_else(|| PortError::new(ErrorKind::Unexpected, "get"))?;
        let [domain] = domains;
        Ok((domain, self.judge(tally)))
    }

    /// Some domains, in the store's own order.
    ///
    /// # Errors
    /// [`ReadError::Cursor`] for a cursor that is not the store's, else the store's own.
    pub async fn page(&self, request: &PageRequest) -> Result<StandingsPage, ReadError> {
        let Page { domains, next } = match self.tallies.page(request).await {
            Err(error) if error.kind() == ErrorKind::Invalid => return Err(ReadError::Cursor),
            other => other?,
        };
        let domains = domains
            .into_iter()
            .map(|(name, tally)| (name, self.judge(tally)))
            .collect();
        Ok(StandingsPage { domains, next })
    }

    /// Sums over all domains.
    ///
    /// # Errors
    /// The store's own.
    pub async fn summary(&self) -> Result<Summary, ReadError> {
        Ok(Summary {
            totals: self.totals().await?,
            keys_from: self.keys_from().await?,
            as_of: self.clock.now(),
        })
    }

    /// The sums alone.
    ///
    /// # Errors
    /// The store's own.
    pub async fn totals(&self) -> Result<Totals, PortError> {
        self.tallies.totals().await
    }

    /// Whatever counted from this moment on is remembered by its key.
    ///
    /// # Errors
    /// As [`Self::probe`].
    pub async fn keys_from(&self) -> Result<UnixSeconds, PortError> {
        let memory = self.probe().await?.memory;
        Ok(memory.remembered_from(self.clock.now()))
    }

    /// For how many seconds events have been acknowledged that a read from now on may not show;
    /// `None` when it shows them all.
    pub fn behind_s(&self) -> Option<u32> {
        let oldest = self.pending.as_ref()?.oldest()?;
        Some(self.clock.now().get().saturating_sub(oldest.get()))
    }

    /// The latest domains whose verdict changed, the newest first, as this server recorded it.
    pub fn verdict_changes(&self) -> Vec<(UnixSeconds, VerdictChange)> {
        let changes = self.verdict_changes.as_ref();
        changes.map_or_else(Vec::new, |changes| changes.latest())
    }

    /// The time that events are recorded at now.
    pub fn now(&self) -> UnixSeconds {
        self.clock.now()
    }

    /// Whether the store can serve.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn probe(&self) -> Result<Probe, PortError> {
        self.tallies.probe().await
    }

    /// The rule in force.
    pub fn policy(&self) -> VerdictPolicy {
        self.policy
    }

    fn judge(&self, tally: Tally) -> Standing {
        Standing {
            tally,
            verdict: self.policy.verdict(&tally),
        }
    }
}

/// The mark of what is sent under a key.
fn mark(key: Key, changes: &Changes, now: UnixSeconds) -> Result<Mark, RecordError> {
    let latest = now.get().saturating_add(MAX_AHEAD_S);
    match key.stamped_at {
        Some(stamp) if stamp.get() > latest => Err(RecordError::KeyAhead),
        _ => Ok(Mark {
            key,
            fingerprint: changes.fingerprint(),
        }),
    }
}
