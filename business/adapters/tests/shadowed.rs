//! `Shadowed`: what the shadow gets, what is found, and that the primary never waits.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "shadowed/begin.rs"]
mod begin;
#[path = "shadowed/rig.rs"]
mod rig;
#[path = "shadowed/suite.rs"]
mod suite;
#[path = "shadowed/trouble.rs"]
mod trouble;

use std::{sync::Arc, time::Duration};

use business::email_domains::{model::Outcome, ports::DomainTallies};
use tokio::task::JoinSet;

use self::rig::{
    Fault, Faulty, Rig, everything, group, in_step, key, marked, memory, metric, options, until,
};

/// Several writers at once, on few domains, with keys that are sent again.
async fn load(store: &Arc<dyn DomainTallies>, writers: u32, groups: u64) {
    let mut tasks = JoinSet::new();
    for _ in 0..writers {
        let writer = fastrand::u128(..);
        let store = Arc::clone(store);
        tasks.spawn(async move {
            for number in 1..=groups {
                let domain = format!("d{}.example", fastrand::u8(..20));
                let mark = (number % 3 == 0).then(|| key(fastrand::u128(..200)));
                let group = group(writer, number, [marked(mark, &[(&domain, 1, 1)])]);
                store.record(&group).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
}

/// The primary shows a group long before it says so, and the shadow takes its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_count_the_same_do_not_differ() {
    let primary = Faulty::new(Fault::Late(Duration::from_millis(4)));
    let shadow = Faulty::new(Fault::Slow(Duration::from_millis(4)));
    let rig = Rig::begin(primary.clone(), shadow.clone(), options(1_000_000, 1_000)).await;
    until("many are compared", async || {
        load(&rig.store, 4, 20).await;
        metric(&rig.registry, "catchall_shadow_compared_total") > 200
    })
    .await;
    assert_eq!(rig.metric("catchall_shadow_differences_total"), 0);
    assert!(in_step(&rig.registry));
    rig.closed().await;
    assert_eq!(everything(&*primary).await, everything(&*shadow).await);
}

async fn is_found(fault: Fault) {
    let (primary, shadow) = (memory(), Faulty::new(Fault::None));
    let rig = Rig::begin(primary, shadow.clone(), options(1_000_000, 1_000)).await;
    load(&rig.store, 4, 10).await;
    until("some are compared", async || {
        rig.metric("catchall_shadow_compared_total") > 0
    })
    .await;
    assert_eq!(rig.metric("catchall_shadow_differences_total"), 0);
    // The fault is to befall what comes now.
    until("it has caught up", async || {
        rig.metric("catchall_shadow_queue_depth") == 0
    })
    .await;
    shadow.set(fault);
    let mut number = 100;
    until("the difference is found", async || {
        number += 1;
        for domain in ["d1.example", "d2.example"] {
            number += 1;
            let group = group(9, number, [marked(None, &[(domain, 1, 0)])]);
            rig.store.record(&group).await.unwrap();
        }
        rig.metric("catchall_shadow_differences_total") > 0
    })
    .await;
    // A difference is told; it is not a reason to stop.
    assert!(in_step(&rig.registry));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_counts_one_too_many_is_found() {
    is_found(Fault::OneMore).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_loses_one_group_is_found() {
    is_found(Fault::LoseOne).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_counts_a_group_twice_is_found() {
    is_found(Fault::Twice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_dates_events_wrongly_is_found() {
    is_found(Fault::Earlier).await;
}

/// The shadow knows the keys of what was counted since it is kept; and where it knows more keys than
/// the primary does, it counts what the primary counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_decides_what_counts_and_the_shadow_learns_the_keys() {
    let (primary, shadow) = (Faulty::new(Fault::None), memory());
    let rig = Rig::begin(primary.clone(), shadow.clone(), options(1_000, 100)).await;
    let one = marked(Some(key(1)), &[("a.example", 1, 0)]);
    rig.store
        .record(&group(1, 1, [one.clone(), one.clone()]))
        .await
        .unwrap();
    primary.set(Fault::NoMarks);
    rig.store.record(&group(1, 2, [one.clone()])).await.unwrap();
    rig.closed().await;
    assert_eq!(everything(&*primary).await, everything(&*shadow).await);
    assert_eq!(shadow.totals().await.unwrap().delivered, 2);
    let recorded = shadow.record(&group(7, 1, [one])).await.unwrap();
    assert_eq!(recorded.outcomes[..], [Outcome::Duplicate]);
}

/// What closes, gives the shadow all first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_leaves_nothing_behind() {
    let shadow = Faulty::new(Fault::None);
    let primary = memory();
    let rig = Rig::begin(primary.clone(), shadow.clone(), options(1_000_000, 10)).await;
    shadow.set(Fault::Block);
    for number in 1..=500 {
        let mut group = group(1, number, [marked(None, &[("a.example", 1, 0)])]);
        // Each of another second, so that they are not recorded together.
        group.formed_at = u32::try_from(number).unwrap().into();
        rig.store.record(&group).await.unwrap();
    }
    assert!(rig.metric("catchall_shadow_queue_depth") > 400);
    tokio::join!(rig.closed(), async { shadow.set(Fault::None) });
    assert_eq!(everything(&*primary).await, everything(&*shadow).await);
}
