//! How a shadow begins: as a copy, to the event and to the second.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use adapters::email_domains::{
    Embedded, Memory, Postgres, PostgresOptions, ShadowError,
    embedded::{EmbeddedOptions, disk::Directory},
    postgres,
};
use async_trait::async_trait;
use business::{
    email_domains::{
        model::{DomainName, Group, Seen, Tally},
        ports::{DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, Totals},
    },
    kernel::PortError,
};
use conformance::email_domains::POLICY;
use foundation::{supervision::Shutdown, testing};
use prometheus::Registry;
use tempfile::TempDir;

use super::{
    Rig, everything, group, in_step, marked, memory, options,
    rig::{DEADLINE, MARKS},
};

pub(crate) fn embedded(folder: &TempDir) -> Arc<dyn DomainTallies> {
    let options = EmbeddedOptions {
        segment_bytes: 65_536,
        snapshot_after_bytes: 262_144,
        marks: MARKS,
        min_free_bytes: 0,
    };
    let disk = Arc::new(Directory::new(folder.path()).unwrap());
    let (store, _) =
        Embedded::open(disk, options, POLICY, &Shutdown::new(), &Registry::new()).unwrap();
    Arc::new(store)
}

pub(crate) async fn migrated() -> String {
    let url = testing::Postgres::shared().create_database();
    postgres::migrate(&url.as_str().into(), POLICY, DEADLINE)
        .await
        .unwrap();
    url
}

pub(crate) async fn connected(url: &str) -> Arc<dyn DomainTallies> {
    let options = PostgresOptions {
        url: url.into(),
        max_read_connections: 2.try_into().unwrap(),
        // Room for the suite's 64 writers to meet.
        max_write_connections: 8.try_into().unwrap(),
        connect_timeout: DEADLINE,
        read_timeout: DEADLINE,
        write_timeout: DEADLINE,
        lock_timeout: DEADLINE,
        marks: MARKS,
    };
    Arc::new(Postgres::connect(options, POLICY).await.unwrap())
}

/// Domains of all verdicts, seen at once and over years, one of them more often than 32 bits hold.
async fn fill(store: &dyn DomainTallies) {
    let mut number = 0;
    let mut count = async |second: u32, changed: &[(&str, u32, u32)]| {
        number += 1;
        let mut group = group(1, number, [marked(None, changed)]);
        group.formed_at = second.into();
        store.record(&group).await.unwrap();
    };
    count(1_000, &[("big.example", u32::MAX, u32::MAX); 3]).await;
    count(2_000_000_000, &[("big.example", 17, 0)]).await;
    count(5, &[("once.example", 1, 0)]).await;
    count(0, &[("ends.example", 4, 0)]).await;
    count(u32::MAX, &[("ends.example", 1, 0)]).await;
    for n in 0..3_000_u32 {
        let domain = format!("d{}.example", n % 1_000);
        count(
            10_000 + n * 7 % 1_009,
            &[(&domain, n % 4, u32::from(n % 5 == 0))],
        )
        .await;
    }
}

async fn is_copied_to(shadow: Arc<dyn DomainTallies>) {
    let primary = memory();
    fill(&*primary).await;
    let rig = Rig::begin(primary.clone(), shadow.clone(), options(1_000, 100)).await;
    let (all, totals) = everything(&*primary).await;
    assert_eq!((all.len(), totals.domains), (1_003, 1_003));
    let big = all.iter().find(|(name, _)| name.as_str() == "big.example");
    let expected = Tally {
        delivered: 3 * u64::from(u32::MAX) + 17,
        bounced: 3 * u64::from(u32::MAX),
        seen: Some(Seen {
            first: 1_000.into(),
            last: 2_000_000_000.into(),
        }),
    };
    assert_eq!(big.unwrap().1, expected);
    assert_eq!((all, totals), everything(&*shadow).await);

    // It goes on from there.
    let more = group(2, 1, [marked(None, &[("once.example", 0, 1)])]);
    rig.store.record(&more).await.unwrap();
    rig.closed().await;
    assert_eq!(everything(&*primary).await, everything(&*shadow).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_begins_as_a_copy() {
    is_copied_to(memory()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_begins_as_a_copy() {
    let folder = tempfile::tempdir().unwrap();
    is_copied_to(embedded(&folder)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_begins_as_a_copy() {
    is_copied_to(connected(&migrated().await).await).await;
}

/// As after a crash, in which what waited for the shadow was lost, or a copy that was broken off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_is_behind_is_caught_up() {
    let (primary, shadow) = (memory(), memory());
    fill(&*primary).await;
    let rig = Rig::begin(primary.clone(), shadow.clone(), options(1_000, 100)).await;
    rig.closed().await;
    // Without the policy: counts, a first time, a last time, and a domain that is new.
    for (number, second, domain) in [
        (1, 1_000, "once.example"),
        (2, 1, "d1.example"),
        (3, 3_000_000, "d2.example"),
        (4, 10_500, "d3.example"),
        (5, 77, "new.example"),
    ] {
        let mut missed = group(5, number, [marked(None, &[(domain, 2, 1)])]);
        missed.formed_at = second.into();
        primary.record(&missed).await.unwrap();
    }
    assert_ne!(everything(&*primary).await, everything(&*shadow).await);
    let rig = Rig::begin(primary.clone(), shadow.clone(), options(1_000, 100)).await;
    assert_eq!(everything(&*primary).await, everything(&*shadow).await);
    assert!(in_step(&rig.registry));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_is_no_copy_is_refused_and_left_as_it_is() {
    let other = |second: u32, domain: &str, delivered, bounced| {
        let mut group = group(5, 1, [marked(None, &[(domain, delivered, bounced)])]);
        group.formed_at = second.into();
        group
    };
    for (group, named) in [
        (other(1_800_000_000, "a.example", 3, 0), "more of a.example"),
        (other(1_800_000_000, "a.example", 0, 1), "more of a.example"),
        (other(1_799_999_999, "a.example", 1, 0), "more of a.example"),
        (other(1_800_000_001, "a.example", 1, 0), "more of a.example"),
        (other(1_800_000_000, "b.example", 1, 0), "does not"),
    ] {
        let (primary, shadow) = (memory(), memory());
        let one = super::group(1, 1, [marked(None, &[("a.example", 2, 0)])]);
        primary.record(&one).await.unwrap();
        shadow.record(&group).await.unwrap();
        let refused = Rig::try_begin(primary, shadow, options(1_000, 100)).await;
        let reason = refused.err().unwrap().to_string();
        assert!(
            reason.contains(named) && reason.contains("empty it"),
            "{reason}"
        );
    }
}

/// Somebody else records in it, each time before the totals are told, so many times; but not before
/// the first.
struct Shared {
    inner: Arc<Memory>,
    asked: AtomicU32,
    times: u32,
}

impl Shared {
    fn new(times: u32) -> Arc<Self> {
        Arc::new(Self {
            inner: memory(),
            asked: AtomicU32::new(0),
            times,
        })
    }
}

#[async_trait]
impl DomainTallies for Shared {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        self.inner.record(group).await
    }

    async fn get(&self, domains: &[DomainName], of: Freshness) -> Result<Vec<Tally>, PortError> {
        self.inner.get(domains, of).await
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        self.inner.page(request).await
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if (1..=self.times).contains(&asked) {
            let others = group(1, asked.into(), [marked(None, &[("a.example", 1, 0)])]);
            self.inner.record(&others).await?;
        }
        self.inner.totals().await
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        self.inner.probe().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_another_server_writes_to_is_refused() {
    let refused = Rig::try_begin(Shared::new(u32::MAX), memory(), options(1_000, 100)).await;
    let error = refused.err().unwrap();
    assert!(matches!(error, ShadowError::Moving), "{error}");
}

/// As what a killed server had under way in a database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_while_it_is_copied_is_copied_too() {
    let (primary, shadow) = (Shared::new(1), memory());
    let rig = Rig::begin(primary.clone(), shadow.clone(), options(1_000, 100)).await;
    assert!(in_step(&rig.registry));
    assert_eq!(shadow.totals().await.unwrap().delivered, 1);
    assert_eq!(everything(&*primary).await, everything(&*shadow).await);
}
