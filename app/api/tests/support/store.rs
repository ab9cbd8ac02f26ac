//! A store in memory that fails for certain domains, and tells how fresh it was asked to be.

use std::{
    collections::{BTreeMap, HashMap},
    future,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use business::{
    email_domains::{
        model::{DomainName, Group, MarkMemory, Outcome, Tally, fold, resolve_marks},
        ports::{
            Cursor, DomainTallies, Freshness, Page, PageRequest, PendingEvents, Probe, Recorded,
            StoreId, Totals,
        },
        verdict::Verdict,
    },
    kernel::{ErrorKind, PortError, UnixSeconds},
};
use tokio::sync::Semaphore;

/// Text that no client may ever see.
pub const SECRET: &str = "host=db.internal password=hunter2";

/// It remembers marks for an hour, or so it says.
const MEMORY: MarkMemory = MarkMemory {
    window_s: 3_600,
    forgotten_through: UnixSeconds::ZERO,
    forgotten_stamp: UnixSeconds::ZERO,
};

#[derive(Debug)]
pub struct Store {
    tallies: Mutex<BTreeMap<String, Tally>>,
    marks: Mutex<HashMap<u128, u64>>,
    /// How many members each group had.
    pub groups: Mutex<Vec<usize>>,
    /// How many reads there were of domains.
    pub reads: AtomicUsize,
    /// How fresh the last read had to be.
    pub freshness: Mutex<Option<Freshness>>,
    /// How many writes wait at `held.example`.
    pub held: AtomicUsize,
    /// One permit lets one of them go on.
    pub release: Semaphore,
    /// When what was sent to `spooled.example` was recorded.
    pub pending: Mutex<Option<UnixSeconds>>,
    /// What probes say.
    pub health: Mutex<Health>,
    /// Whether an answer was cancelled while it waited.
    pub cancelled: AtomicBool,
}

#[derive(Clone, Copy, Debug, Default)]
pub enum Health {
    #[default]
    Well,
    Full,
    Down,
    Silent,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            tallies: Mutex::default(),
            marks: Mutex::default(),
            groups: Mutex::default(),
            reads: AtomicUsize::default(),
            freshness: Mutex::default(),
            held: AtomicUsize::new(0),
            release: Semaphore::new(0),
            pending: Mutex::default(),
            health: Mutex::default(),
            cancelled: AtomicBool::new(false),
        }
    }
}

impl Store {
    /// What happens at this domain.
    async fn reach(&self, domain: &str, operation: &'static str) -> Result<(), PortError> {
        let kind = match domain {
            "unavailable.example" => ErrorKind::Unavailable,
            "overloaded.example" => ErrorKind::Overloaded,
            "ambiguous.example" => ErrorKind::Ambiguous,
            "corrupt.example" => ErrorKind::Corrupt,
            "unexpected.example" => ErrorKind::Unexpected,
            "panic.example" => panic!("{SECRET}"),
            "silent.example" => {
                let _cancelled = Cancelled(&self.cancelled);
                return future::pending().await;
            }
            "held.example" => {
                self.held.fetch_add(1, Ordering::SeqCst);
                self.release.acquire().await.unwrap().forget();
                return Ok(());
            }
            _ => return Ok(()),
        };
        Err(PortError::caused_by(kind, operation, SECRET))
    }
}

struct Cancelled<'a>(&'a AtomicBool);

impl Drop for Cancelled<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn verdict(tally: &Tally) -> Verdict {
    match tally {
        Tally { bounced: 1.., .. } => Verdict::NotCatchAll,
        Tally { delivered: 3.., .. } => Verdict::CatchAll,
        _ => Verdict::Unknown,
    }
}

impl PendingEvents for Store {
    fn oldest(&self) -> Option<UnixSeconds> {
        *self.pending.lock().unwrap()
    }
}

#[async_trait]
impl DomainTallies for Store {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        let outcomes = {
            let marks = self.marks.lock().unwrap();
            resolve_marks(&group.members, MEMORY.horizon(group.formed_at), |hash| {
                marks.get(&hash).copied()
            })
        };
        let changes = fold(&group.members, &outcomes);
        let spooled = |domain: &str| domain == "spooled.example";
        if changes.iter().any(|change| spooled(change.domain.as_str())) {
            *self.pending.lock().unwrap() = Some(group.formed_at);
            return Ok(Recorded {
                outcomes: group.members.iter().map(|_| Outcome::Spooled).collect(),
                verdict_changes: Vec::new(),
            });
        }
        for change in &changes {
            self.reach(change.domain.as_str(), "record").await?;
        }
        for (member, outcome) in group.members.iter().zip(&outcomes) {
            if let (Some(mark), Outcome::Counted) = (member.mark, outcome) {
                let mut marks = self.marks.lock().unwrap();
                marks.insert(mark.key.hash, mark.fingerprint);
            }
        }
        self.groups.lock().unwrap().push(group.members.len());
        let mut tallies = self.tallies.lock().unwrap();
        for change in changes {
            let tally = tallies
                .entry(change.domain.as_str().to_owned())
                .or_default();
            *tally = tally.plus(change.delivered, change.bounced, group.formed_at);
        }
        Ok(Recorded {
            outcomes,
            verdict_changes: Vec::new(),
        })
    }

    async fn get(
        &self,
        domains: &[DomainName],
        freshness: Freshness,
    ) -> Result<Vec<Tally>, PortError> {
        *self.freshness.lock().unwrap() = Some(freshness);
        self.reads.fetch_add(1, Ordering::SeqCst);
        for domain in domains {
            self.reach(domain.as_str(), "get").await?;
        }
        let tallies = self.tallies.lock().unwrap();
        let tally = |domain: &DomainName| tallies.get(domain.as_str()).copied();
        Ok(domains
            .iter()
            .map(|domain| tally(domain).unwrap_or_default())
            .collect())
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        let after = match &request.after {
            None => String::new(),
            Some(cursor) => std::str::from_utf8(&cursor.0)
                .ok()
                .and_then(|text| text.strip_prefix("after "))
                .ok_or_else(|| PortError::new(ErrorKind::Invalid, "page"))?
                .to_owned(),
        };
        let tallies = self.tallies.lock().unwrap();
        let wanted = |tally: &Tally| request.verdict.is_none_or(|asked| asked == verdict(tally));
        let mut found = tallies
            .iter()
            .filter(|(name, tally)| **name > after && wanted(tally));
        let domains: Vec<_> = found
            .by_ref()
            .take(request.limit.get().into())
            .map(|(name, tally)| (DomainName::parse(name).unwrap(), *tally))
            .collect();
        let next = found
            .next()
            .and(domains.last())
            .map(|(name, _)| Cursor(format!("after {name}").into_bytes().into()));
        Ok(Page { domains, next })
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        let tallies = self.tallies.lock().unwrap();
        let mut totals = Totals::default();
        for tally in tallies.values() {
            totals.domains += 1;
            totals.delivered += tally.delivered;
            totals.bounced += tally.bounced;
            match verdict(tally) {
                Verdict::CatchAll => totals.catch_all += 1,
                Verdict::NotCatchAll => totals.not_catch_all += 1,
                Verdict::Unknown => {}
            }
        }
        Ok(totals)
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        let health = *self.health.lock().unwrap();
        match health {
            Health::Well | Health::Full => Ok(Probe {
                store: StoreId(1),
                memory: MEMORY,
                full: matches!(health, Health::Full),
            }),
            Health::Down => Err(PortError::caused_by(
                ErrorKind::Unavailable,
                "probe",
                SECRET,
            )),
            Health::Silent => future::pending().await,
        }
    }
}
