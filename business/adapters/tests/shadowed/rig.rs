//! Stores that do as they are told, and what is asked of all.

use std::{
    num::{NonZeroU16, NonZeroU32},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use adapters::email_domains::{MarkLimits, Memory, ShadowError, Shadowed, ShadowedOptions};
use async_trait::async_trait;
use business::{
    email_domains::{
        model::{Changes, DomainName, Group, GroupId, Key, Mark, Member, Tally, WriterId},
        ports::{DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, StoreId, Totals},
    },
    kernel::{Clock, ErrorKind, PortError, UnixSeconds},
};
use conformance::email_domains::{POLICY, WINDOW_S};
use foundation::supervision::Shutdown;
use prometheus::Registry;
use smallvec::SmallVec;
use tokio::time::sleep;

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) const MARKS: MarkLimits = MarkLimits {
    window_s: WINDOW_S,
    max_count: NonZeroU32::MAX,
};

pub(crate) fn memory() -> Arc<Memory> {
    Arc::new(Memory::new(POLICY, MARKS, StoreId(fastrand::u128(..))))
}

pub(crate) fn options(queue_capacity: u32, compared_per_s: u16) -> ShadowedOptions {
    ShadowedOptions {
        queue_capacity: NonZeroU32::new(queue_capacity).unwrap(),
        compared_per_s: NonZeroU16::new(compared_per_s).unwrap(),
    }
}

/// A clock that is a second later each time it is asked.
pub(crate) struct Ticks(AtomicU32);

impl Ticks {
    pub(crate) fn from(second: u32) -> Self {
        Self(AtomicU32::new(second))
    }
}

impl Clock for Ticks {
    fn now(&self) -> UnixSeconds {
        self.0.fetch_add(1, Ordering::Relaxed).into()
    }
}

/// A primary with a shadow.
pub(crate) struct Rig {
    pub(crate) store: Arc<dyn DomainTallies>,
    pub(crate) shadowed: Arc<Shadowed>,
    pub(crate) registry: Registry,
    pub(crate) contained: Shutdown,
}

impl Rig {
    pub(crate) async fn begin(
        primary: Arc<dyn DomainTallies>,
        shadow: Arc<dyn DomainTallies>,
        options: ShadowedOptions,
    ) -> Self {
        Self::try_begin(primary, shadow, options).await.unwrap()
    }

    pub(crate) async fn try_begin(
        primary: Arc<dyn DomainTallies>,
        shadow: Arc<dyn DomainTallies>,
        options: ShadowedOptions,
    ) -> Result<Self, ShadowError> {
        let (registry, contained) = (Registry::new(), Shutdown::new());
        let (clock, stop) = (Ticks::from(0), contained.clone());
        let shadowed = Shadowed::begin(primary, shadow, options, &clock, stop, &registry).await?;
        let shadowed = Arc::new(shadowed);
        Ok(Self {
            store: shadowed.clone(),
            shadowed,
            registry,
            contained,
        })
    }

    pub(crate) fn metric(&self, name: &str) -> i64 {
        metric(&self.registry, name)
    }

    /// Closed, with the shadow in step to the end.
    pub(crate) async fn closed(&self) {
        assert!(in_step(&self.registry));
        self.shadowed.close().await;
        assert_eq!(self.metric("catchall_shadow_queue_depth"), 0);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "they are whole and small")]
pub(crate) fn metric(registry: &Registry, name: &str) -> i64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name);
    let metric = &family.unwrap().get_metric()[0];
    (metric.get_counter().get_value() + metric.get_gauge().get_value()) as i64
}

pub(crate) fn in_step(registry: &Registry) -> bool {
    metric(registry, "catchall_shadow_in_step") == 1
}

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < DEADLINE, "in vain: until {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn key(hash: u128) -> Mark {
    Mark {
        key: Key {
            hash,
            stamped_at: None,
        },
        fingerprint: 7,
    }
}

pub(crate) fn marked(mark: Option<Mark>, changed: &[(&str, u32, u32)]) -> Arc<Member> {
    let mut changes = Changes::default();
    for (domain, delivered, bounced) in changed {
        let name = DomainName::parse(domain).unwrap();
        changes.push(name.borrowed(), *delivered, *bounced);
    }
    Arc::new(Member { mark, changes })
}

pub(crate) fn group(
    writer: u128,
    sequence: u64,
    members: impl IntoIterator<Item = Arc<Member>>,
) -> Group {
    Group {
        id: Some(GroupId {
            writer: WriterId(writer),
            sequence,
        }),
        formed_at: 1_800_000_000.into(),
        members: members.into_iter().collect(),
    }
}

/// All that a store tells: every tally, and the totals.
pub(crate) async fn everything(store: &dyn DomainTallies) -> (Vec<(DomainName, Tally)>, Totals) {
    let mut all = Vec::new();
    let mut request = PageRequest {
        verdict: None,
        after: None,
        limit: NonZeroU16::new(1_000).unwrap(),
    };
    loop {
        let page = store.page(&request).await.unwrap();
        all.extend(page.domains);
        request.after = page.next;
        if request.after.is_none() {
            break;
        }
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    (all, store.totals().await.unwrap())
}

/// What a store does with the next group, and all that follow unless it says `once`.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    None,
    /// Counts, and says so later.
    Late(Duration),
    /// Takes its time before it counts.
    Slow(Duration),
    OneMore,
    /// Once.
    LoseOne,
    Twice,
    /// By a second.
    Earlier,
    NoMarks,
    /// Counts nothing.
    Fail(ErrorKind),
    /// Counts, and fails all the same. Once.
    CountAndFail(ErrorKind),
    /// Never answers.
    Hang,
    /// Keeps the thread until it is told something else.
    Block,
    Panic,
}

/// A store in memory with a fault.
pub(crate) struct Faulty {
    inner: Memory,
    fault: Mutex<Fault>,
    calls: Mutex<u64>,
}

impl Faulty {
    pub(crate) fn new(fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            inner: Memory::new(POLICY, MARKS, StoreId(fastrand::u128(..))),
            fault: Mutex::new(fault),
            calls: Mutex::new(0),
        })
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    pub(crate) fn calls(&self) -> u64 {
        *self.calls.lock().unwrap()
    }

    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap()
    }
}

#[async_trait]
impl DomainTallies for Faulty {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        *self.calls.lock().unwrap() += 1;
        let inner = &self.inner;
        let without_id = Group {
            id: None,
            ..group.clone()
        };
        match self.fault() {
            Fault::None => inner.record(group).await,
            Fault::Late(by) => {
                let recorded = inner.record(group).await;
                sleep(by).await;
                recorded
            }
            Fault::Slow(by) => {
                sleep(by).await;
                inner.record(group).await
            }
            Fault::OneMore => {
                let mut more = without_id;
                more.members.truncate(1);
                inner.record(&more).await?;
                inner.record(group).await
            }
            Fault::LoseOne => {
                self.set(Fault::None);
                Ok(Recorded {
                    outcomes: counted(group),
                    verdict_changes: Vec::new(),
                })
            }
            Fault::Twice => {
                inner.record(&without_id).await?;
                inner.record(group).await
            }
            Fault::Earlier => {
                let mut earlier = group.clone();
                earlier.formed_at = (group.formed_at.get() - 1).into();
                inner.record(&earlier).await
            }
            Fault::NoMarks => {
                let mut bare = group.clone();
                for member in &mut bare.members {
                    *member = Arc::new(Member {
                        mark: None,
                        changes: member.changes.clone(),
                    });
                }
                inner.record(&bare).await
            }
            Fault::Fail(kind) => Err(PortError::new(kind, "test")),
            Fault::CountAndFail(kind) => {
                self.set(Fault::None);
                inner.record(group).await?;
                Err(PortError::new(kind, "test"))
            }
            Fault::Hang => std::future::pending().await,
            Fault::Block => {
                while matches!(self.fault(), Fault::Block) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                inner.record(group).await
            }
            Fault::Panic => panic!("as told"),
        }
    }

    async fn get(&self, domains: &[DomainName], of: Freshness) -> Result<Vec<Tally>, PortError> {
        self.inner.get(domains, of).await
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        self.inner.page(request).await
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        self.inner.totals().await
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        self.inner.probe().await
    }
}

fn counted(group: &Group) -> SmallVec<[business::email_domains::model::Outcome; 1]> {
    use business::email_domains::model::Outcome::Counted;
    group.members.iter().map(|_| Counted).collect()
}
