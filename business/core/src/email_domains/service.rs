//! The use cases.

use std::sync::Arc;

use smallvec::smallvec;

use super::{
    error::{ReadError, RecordError},
    model::{Changes, DomainName, EventKind, Group, Member, Outcome, Tally},
    ports::{DomainTallies, Freshness, Page, PageRequest, Probe, Totals},
    verdict::{Verdict, VerdictPolicy},
};
use crate::kernel::{Clock, ErrorKind, PortError, UnixSeconds};

/// Counts events and gives verdicts. Cheap to clone.
#[derive(Clone)]
pub struct EmailDomains {
    tallies: Arc<dyn DomainTallies>,
    policy: VerdictPolicy,
    clock: Arc<dyn Clock>,
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
    /// Deliveries that count.
    pub delivered: u64,
    /// Bounces that count.
    pub bounced: u64,
    /// Events that had been counted before, under the same mark.
    pub duplicates: u64,
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
        }
    }

    /// Counts one event. It is durable when this returns.
    ///
    /// # Errors
    /// The store's own; it says whether the event may have been counted.
    pub async fn record(&self, domain: DomainName, kind: EventKind) -> Result<(), RecordError> {
        let member = Member {
            mark: None,
            changes: Changes::event(domain, kind),
        };
        let group = Group {
            id: None,
            formed_at: self.clock.now(),
            members: smallvec![Arc::new(member)],
        };
        let recorded = self.tallies.record(&group).await?;
        match recorded.outcomes.first() {
            Some(Outcome::Counted | Outcome::Duplicate) => Ok(()),
            Some(Outcome::Mismatch) => Err(RecordError::MarkMismatch),
            None => Err(PortError::new(ErrorKind::Unexpected, "record").into()),
        }
    }

    /// Counts what one caller sent together: whole or not at all. It is durable when this returns.
    ///
    /// # Errors
    /// [`RecordError::MarkMismatch`] when a mark was used before for something else; the store's
    /// own, which says whether the events may have been counted.
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
            let (delivered, bounced) = member.changes.sums();
            match outcome {
                Outcome::Counted => {
                    receipt.delivered += delivered;
                    receipt.bounced += bounced;
                }
                Outcome::Duplicate => receipt.duplicates += delivered + bounced,
                Outcome::Mismatch => return Err(RecordError::MarkMismatch),
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
        let totals = self.tallies.totals().await?;
        Ok(Summary {
            totals,
            as_of: self.clock.now(),
        })
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
