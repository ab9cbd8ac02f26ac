use async_trait::async_trait;
use business::{
    email_domains::{
        model::{DomainName, Group, Tally, fold, resolve_marks},
        ports::{DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, StoreId, Totals},
        verdict::VerdictPolicy,
    },
    kernel::{ErrorKind, PortError},
};
use parking_lot::Mutex;

use super::{
    ledger::{Ledger, MarkLimits, Standing, new_marks},
    tally_map::TallyMap,
};

/// Tallies in memory, gone with the process. For tests, and to compare with.
///
/// "Durable" means nothing here: what is recorded is as safe as it will ever be.
pub struct Memory {
    map: TallyMap,
    ledger: Mutex<Ledger>,
    store: StoreId,
}

impl Memory {
    /// An empty store under this id.
    pub fn new(policy: VerdictPolicy, marks: MarkLimits, store: StoreId) -> Self {
        Self {
            map: TallyMap::new(seed_of(store), policy),
            ledger: Mutex::new(Ledger::new(marks)),
            store,
        }
    }
}

/// The seed of a store's map: half of its id, which is random and never shown.
pub(super) fn seed_of(store: StoreId) -> u64 {
    (store.0 >> 64) as u64
}

#[async_trait]
impl DomainTallies for Memory {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        let remembered = group.id.is_some() || group.members.iter().any(|m| m.mark.is_some());
        // Held until the counts are in the map, so that a duplicate is never answered before the
        // original shows. A group that leaves nothing to remember passes by.
        let mut ledger = remembered.then(|| self.ledger.lock());
        let standing = match &ledger {
            Some(ledger) => ledger.standing(group),
            None => Standing::New(resolve_marks(&group.members, group.formed_at, |_| None)),
        };
        let outcomes = match standing {
            Standing::New(outcomes) => outcomes,
            Standing::Repeated(outcomes) => {
                return Ok(Recorded {
                    outcomes,
                    verdict_changes: Vec::new(),
                });
            }
            Standing::Outdated => return Err(PortError::new(ErrorKind::Outdated, "record")),
        };
        let changes = fold(&group.members, &outcomes);
        let verdict_changes = self.map.apply_all(&changes, group.formed_at);
        if let Some(ledger) = &mut ledger {
            let marks = new_marks(&group.members, &outcomes);
            ledger.settle(group.id, &outcomes, marks, group.formed_at);
        }
        Ok(Recorded {
            outcomes,
            verdict_changes,
        })
    }

    async fn get(&self, domains: &[DomainName], _: Freshness) -> Result<Vec<Tally>, PortError> {
        Ok(domains
            .iter()
            .map(|domain| self.map.get(domain.borrowed()))
            .collect())
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        self.map
            .page(request)
            .ok_or_else(|| PortError::new(ErrorKind::Invalid, "page"))
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        Ok(self.map.totals())
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        Ok(Probe {
            store: self.store,
            memory: self.ledger.lock().memory(),
            full: false,
        })
    }
}
