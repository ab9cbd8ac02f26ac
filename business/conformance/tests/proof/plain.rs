//! A store as plain as can be that keeps all promises: one lock, and the rules of `business`.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use business::{
    email_domains::{
        model::{
            DomainName, DomainRef, Group, MarkMemory, Outcome, Outcomes, Tally, WriterId, fold,
            resolve_marks,
        },
        ports::{
            Cursor, DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, StoreId, Totals,
        },
        verdict::{Verdict, VerdictChange},
    },
    kernel::{ErrorKind, PortError, UnixSeconds},
};
use conformance::email_domains::{POLICY, Reopenable, Subject, WINDOW_S};

/// It never forgets, but says so.
pub(crate) const MEMORY: MarkMemory = MarkMemory {
    window_s: WINDOW_S.get(),
    forgotten_through: UnixSeconds::ZERO,
    forgotten_stamp: UnixSeconds::ZERO,
};

/// The data, which stays when a store is closed.
#[derive(Clone, Default)]
pub(crate) struct Data {
    pub(crate) id: u128,
    pub(crate) tallies: BTreeMap<DomainName, Tally>,
    pub(crate) marks: HashMap<u128, u64>,
    pub(crate) last: HashMap<WriterId, (u64, Outcomes)>,
}

impl Data {
    pub(crate) fn record(&mut self, group: &Group) -> Recorded {
        if let Some(id) = group.id
            && let Some((sequence, outcomes)) = self.last.get(&id.writer)
            && *sequence == id.sequence
        {
            return Recorded {
                outcomes: outcomes.clone(),
                verdict_changes: vec![],
            };
        }
        let horizon = MEMORY.horizon(group.formed_at);
        let outcomes = resolve_marks(&group.members, horizon, |hash| {
            self.marks.get(&hash).copied()
        });
        for (member, outcome) in group.members.iter().zip(&outcomes) {
            if let (Some(mark), Outcome::Counted) = (member.mark, outcome) {
                self.marks.insert(mark.key.hash, mark.fingerprint);
            }
        }
        let mut verdict_changes = Vec::new();
        for change in fold(&group.members, &outcomes) {
            let domain = change.domain.to_name();
            let tally = self.tallies.entry(domain.clone()).or_default();
            let before = *tally;
            *tally = before.plus(change.delivered, change.bounced, group.formed_at);
            if let Some((from, to)) = POLICY.change(&before, tally) {
                verdict_changes.push(VerdictChange { domain, from, to });
            }
        }
        if let Some(id) = group.id {
            self.last.insert(id.writer, (id.sequence, outcomes.clone()));
        }
        Recorded {
            outcomes,
            verdict_changes,
        }
    }
}

#[derive(Clone, Default)]
pub(crate) struct Plain {
    data: Arc<Mutex<Data>>,
}

impl Plain {
    pub(crate) fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap()
    }
}

#[async_trait]
impl DomainTallies for Plain {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        Ok(self.data().record(group))
    }

    async fn get(&self, domains: &[DomainName], _: Freshness) -> Result<Vec<Tally>, PortError> {
        let data = self.data();
        let tally = |domain| data.tallies.get(domain).copied().unwrap_or_default();
        Ok(domains.iter().map(tally).collect())
    }

    /// Looks at as many domains as are asked for, so that pages of a verdict are short and even
    /// empty while more follow.
    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        let after = match &request.after {
            None => Bound::Unbounded,
            Some(Cursor(bytes)) => {
                let text = std::str::from_utf8(bytes).ok();
                let name = text.and_then(|text| DomainRef::from_stored(text).ok());
                let name = name.ok_or_else(|| PortError::new(ErrorKind::Invalid, "page"))?;
                Bound::Excluded(name.to_name())
            }
        };
        let limit = usize::from(request.limit.get());
        let data = self.data();
        let mut looked_at = Vec::new();
        for (domain, tally) in data.tallies.range((after, Bound::Unbounded)) {
            if looked_at.len() == limit {
                break;
            }
            looked_at.push((domain.clone(), *tally));
        }
        let next = looked_at
            .last()
            .filter(|_| looked_at.len() == limit)
            .map(|(domain, _)| Cursor(domain.as_str().as_bytes().into()));
        looked_at.retain(|(_, tally)| {
            request
                .verdict
                .is_none_or(|verdict| verdict == POLICY.verdict(tally))
        });
        Ok(Page {
            domains: looked_at,
            next,
        })
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        let data = self.data();
        let mut totals = Totals::default();
        for tally in data.tallies.values() {
            let verdict = POLICY.verdict(tally);
            totals.delivered += tally.delivered;
            totals.bounced += tally.bounced;
            totals.domains += 1;
            totals.catch_all += u64::from(verdict == Verdict::CatchAll);
            totals.not_catch_all += u64::from(verdict == Verdict::NotCatchAll);
        }
        Ok(totals)
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        let store = StoreId(self.data().id);
        Ok(Probe {
            store,
            memory: MEMORY,
            full: false,
        })
    }
}

pub(crate) async fn fresh() -> Subject {
    Subject::new(Arc::new(Plain::default()))
}

/// A plain store over data that stays, with a chance to do damage to it on the way.
pub(crate) struct Stored {
    data: Plain,
    damage: fn(&mut Data),
    subject: Option<Subject>,
}

pub(crate) fn stored_with(damage: fn(&mut Data)) -> Stored {
    let data = Plain::default();
    let subject = Some(Subject::new(Arc::new(data.clone())));
    Stored {
        data,
        damage,
        subject,
    }
}

pub(crate) async fn stored() -> Stored {
    stored_with(|_| ())
}

impl Reopenable for Stored {
    fn subject(&self) -> &Subject {
        self.subject.as_ref().unwrap()
    }

    async fn reopen(&mut self) {
        let closed = self.subject.take().unwrap().tallies;
        assert_eq!(Arc::strong_count(&closed), 1, "the suite holds nothing");
        (self.damage)(&mut self.data.data());
        self.subject = Some(Subject::new(Arc::new(self.data.clone())));
    }
}
