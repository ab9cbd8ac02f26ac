//! `Guarded` around a store that fails as it is told. Time stands still unless all wait for it.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use adapters::email_domains::{Guarded, GuardedOptions};
use async_trait::async_trait;
use business::{
    email_domains::{
        model::{DomainName, Group, GroupId, MarkMemory, Tally, WriterId},
        ports::{DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, StoreId, Totals},
    },
    kernel::{ErrorKind, PortError, UnixSeconds},
};
use prometheus::Registry;
use smallvec::smallvec;
use tokio::time::Instant;

/// What a call does; once nothing is told any more, it goes well.
#[derive(Clone, Copy)]
enum Next {
    Fail(ErrorKind),
    Hang,
}

#[derive(Default)]
struct Faulty {
    next: Mutex<VecDeque<Next>>,
    /// Fails all calls, until it is `None`.
    always: Mutex<Option<ErrorKind>>,
    calls: Mutex<Vec<Option<GroupId>>>,
}

impl Faulty {
    async fn call(&self, id: Option<GroupId>) -> Result<(), PortError> {
        self.calls.lock().unwrap().push(id);
        let next = self.next.lock().unwrap().pop_front();
        let always = *self.always.lock().unwrap();
        match next.or(always.map(Next::Fail)) {
            None => Ok(()),
            Some(Next::Fail(kind)) => Err(PortError::new(kind, "test")),
            Some(Next::Hang) => std::future::pending().await,
        }
    }

    fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

#[async_trait]
impl DomainTallies for Faulty {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        self.call(group.id).await.map(|()| Recorded::default())
    }

    async fn get(&self, _: &[DomainName], _: Freshness) -> Result<Vec<Tally>, PortError> {
        self.call(None).await.map(|()| Vec::new())
    }

    async fn page(&self, _: &PageRequest) -> Result<Page, PortError> {
        self.call(None).await.map(|()| Page::default())
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        self.call(None).await.map(|()| Totals::default())
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        self.call(None).await.map(|()| Probe {
            store: StoreId(1),
            memory: MarkMemory {
                window_s: 1,
                forgotten_through: UnixSeconds::ZERO,
                forgotten_stamp: UnixSeconds::ZERO,
            },
            full: false,
        })
    }
}

fn guarded() -> (Arc<Faulty>, Guarded) {
    let store = Arc::new(Faulty::default());
    let options = GuardedOptions {
        record_within: Duration::from_secs(10),
        read_within: Duration::from_secs(5),
    };
    let guarded = Guarded::new(store.clone(), options, &Registry::new()).unwrap();
    (store, guarded)
}

fn group(sequence: u64) -> Group {
    Group {
        id: Some(GroupId {
            writer: WriterId(7),
            sequence,
        }),
        formed_at: 1.into(),
        members: smallvec![],
    }
}

/// What a call ended with, and how many there were of the store.
async fn outcome(next: &[Next], group: &Group) -> (Option<ErrorKind>, usize) {
    let (store, guarded) = guarded();
    store.next.lock().unwrap().extend(next);
    let error = guarded.record(group).await.err();
    assert!(store.calls.lock().unwrap().iter().all(|id| *id == group.id));
    (error.map(|error| error.kind()), store.calls())
}

use ErrorKind::{Ambiguous, Corrupt, Invalid, Overloaded, Unavailable, Unexpected};
use Next::{Fail, Hang};

#[tokio::test(start_paused = true)]
async fn a_group_is_recorded_again_under_its_id_and_no_other_is() {
    assert_eq!(outcome(&[Fail(Unavailable)], &group(1)).await, (None, 2));
    assert_eq!(outcome(&[Fail(Ambiguous)], &group(1)).await, (None, 2));
    let without = Group {
        id: None,
        ..group(1)
    };
    assert_eq!(outcome(&[Fail(Unavailable)], &without).await, (None, 2));
    let unknown = outcome(&[Fail(Ambiguous)], &without).await;
    assert_eq!(unknown, (Some(Ambiguous), 1));
    for kind in [Invalid, Corrupt, Unexpected, Overloaded] {
        let failed = outcome(&[Fail(kind)], &group(1)).await;
        assert_eq!(failed, (Some(kind), 1), "{kind:?}");
    }
}

/// A try that may have been applied is not forgotten over one that was not.
#[tokio::test(start_paused = true)]
async fn unknown_stays_unknown() {
    for later in [Unavailable, Overloaded, Invalid, Unexpected] {
        let next = [Fail(Ambiguous), Fail(later), Fail(later)];
        let (kind, _) = outcome(&next, &group(1)).await;
        assert_eq!(kind, Some(Ambiguous), "{later:?}");
    }
    // Nor when the breaker ends it.
    let (store, guarded) = guarded();
    *store.always.lock().unwrap() = Some(Unavailable);
    store.next.lock().unwrap().push_back(Fail(Ambiguous));
    let error = guarded.record(&group(1)).await.unwrap_err();
    assert_eq!(error.kind(), Ambiguous);
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_by_its_deadline() {
    let (store, guarded) = guarded();
    store.next.lock().unwrap().extend([Hang; 4]);
    let began = Instant::now();
    let error = guarded.record(&group(1)).await.unwrap_err();
    assert_eq!(error.kind(), Ambiguous, "it may have been applied");
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    let began = Instant::now();
    let error = guarded.totals().await.unwrap_err();
    assert_eq!(error.kind(), Unavailable);
    assert_eq!(began.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_left_alone_and_found_again_within_a_second() {
    let (store, guarded) = guarded();
    *store.always.lock().unwrap() = Some(Unavailable);
    let error = guarded.record(&group(1)).await.unwrap_err();
    assert_eq!(error.kind(), Unavailable);
    assert_eq!(store.calls(), 3, "then it is left alone");
    let began = Instant::now();
    for _ in 0..1_000 {
        let error = guarded.record(&group(1)).await.unwrap_err();
        assert_eq!(error.kind(), Unavailable);
    }
    assert_eq!((store.calls(), began.elapsed()), (3, Duration::ZERO));
    // Reads may work all the same, and probes always ask.
    *store.always.lock().unwrap() = None;
    guarded.totals().await.unwrap();
    guarded.probe().await.unwrap();

    *store.always.lock().unwrap() = Some(Unavailable);
    tokio::time::advance(Duration::from_millis(600)).await;
    let calls = store.calls();
    guarded.record(&group(1)).await.unwrap_err();
    assert_eq!(store.calls(), calls + 1, "one finds out for all");
    *store.always.lock().unwrap() = None;
    guarded.record(&group(1)).await.unwrap_err();
    tokio::time::advance(Duration::from_millis(600)).await;
    for _ in 0..10 {
        guarded.record(&group(1)).await.unwrap();
    }
}

/// Every second call fails once: more than may be made again.
#[tokio::test(start_paused = true)]
async fn a_store_in_trouble_gets_a_tenth_more_work_at_the_most() {
    let (store, guarded) = guarded();
    let mut failed = 0;
    for _ in 0..2_000 {
        store.next.lock().unwrap().push_back(Fail(Unavailable));
        failed += usize::from(guarded.totals().await.is_err());
        store.next.lock().unwrap().clear();
        guarded.totals().await.unwrap();
    }
    let calls = store.calls();
    assert!((4_190..=4_230).contains(&calls), "{calls}");
    assert!(failed > 1_700, "{failed}");
}
