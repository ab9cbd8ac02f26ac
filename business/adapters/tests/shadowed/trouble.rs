//! What befalls the shadow and the primary.

use std::time::{Duration, Instant};

use business::{
    email_domains::ports::DomainTallies,
    kernel::ErrorKind::{Ambiguous, Invalid, Overloaded, Unavailable},
};

use super::{
    Fault, Faulty, Rig, everything, group, in_step, marked, memory, options, rig::DEADLINE, until,
};

const IN_STEP: &str = "catchall_shadow_in_step";
const DEPTH: &str = "catchall_shadow_queue_depth";
const COMPARED: &str = "catchall_shadow_compared_total";

async fn record(rig: &Rig, writer: u128, number: u64) {
    try_record(rig, writer, number).await.unwrap();
}

async fn try_record(
    rig: &Rig,
    writer: u128,
    number: u64,
) -> Result<(), business::kernel::PortError> {
    let group = group(writer, number, [marked(None, &[("a.example", 1, 0)])]);
    rig.store.record(&group).await.map(drop)
}

/// It neither slows the primary nor takes memory without end, whether it keeps its thread or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_shadow_is_out_of_step_once_the_queue_is_full() {
    for fault in [Fault::Hang, Fault::Block] {
        let (primary, shadow) = (memory(), Faulty::new(Fault::None));
        let rig = Rig::begin(primary, shadow.clone(), options(1_000, 100)).await;
        shadow.set(fault);
        for number in 1..=1_000 {
            record(&rig, 1, number).await;
        }
        assert!(in_step(&rig.registry), "there was room for all of them");
        assert_eq!(rig.metric(DEPTH), 1_000);
        for number in 1_001..=5_000 {
            record(&rig, 1, number).await;
            assert!(rig.metric(DEPTH) <= 1_000);
        }
        assert_eq!(rig.metric(IN_STEP), 0);
        until("what waited is gone", async || rig.metric(DEPTH) == 0).await;
        assert_eq!(rig.store.totals().await.unwrap().delivered, 5_000);

        // It gets nothing more when it goes on, and is not compared.
        let compared = rig.metric(COMPARED);
        shadow.set(Fault::None);
        for number in 5_001..=5_100 {
            record(&rig, 1, number).await;
        }
        let began = Instant::now();
        rig.shadowed.close().await;
        assert!(began.elapsed() < DEADLINE);
        assert!(shadow.totals().await.unwrap().delivered <= 1_000);
        assert_eq!((rig.metric(COMPARED), rig.metric(IN_STEP)), (compared, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_fails_for_a_while_is_given_the_same_again() {
    for kind in [Unavailable, Overloaded, Ambiguous] {
        let (primary, shadow) = (memory(), Faulty::new(Fault::None));
        let rig = Rig::begin(primary.clone(), shadow.clone(), options(1_000, 100)).await;
        record(&rig, 1, 1).await;
        shadow.set(Fault::Fail(kind));
        for number in 2..=50 {
            record(&rig, 1, number).await;
        }
        let calls = shadow.calls();
        until("it is tried again", async || shadow.calls() > calls + 1).await;
        // It may have counted, too.
        shadow.set(Fault::CountAndFail(kind));
        until("all is applied", async || rig.metric(DEPTH) == 0).await;
        rig.closed().await;
        assert_eq!(everything(&*primary).await, everything(&*shadow).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_refuses_or_breaks_is_out_of_step_and_the_primary_goes_on() {
    for fault in [Fault::Fail(Invalid), Fault::Panic] {
        let (primary, shadow) = (memory(), Faulty::new(fault));
        let rig = Rig::begin(primary, shadow, options(1_000, 100)).await;
        record(&rig, 1, 1).await;
        until("it is out of step", async || rig.metric(IN_STEP) == 0).await;
        record(&rig, 1, 2).await;
        assert_eq!(rig.store.totals().await.unwrap().delivered, 2);
    }
    let rig = Rig::begin(memory(), memory(), options(1_000, 100)).await;
    rig.contained.fail("its disk");
    until("it is out of step", async || rig.metric(IN_STEP) == 0).await;
}

/// As above a store whose answer was lost: the group comes again, under its id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_unknown_outcome_holds_up_the_comparing_until_it_is_settled() {
    for fault in [Fault::CountAndFail(Ambiguous), Fault::Fail(Ambiguous)] {
        let (primary, shadow) = (Faulty::new(Fault::None), memory());
        let rig = Rig::begin(primary.clone(), shadow.clone(), options(1_000, 1_000)).await;
        record(&rig, 1, 1).await;
        until("some is compared", async || rig.metric(COMPARED) > 0).await;
        primary.set(fault);
        try_record(&rig, 1, 2).await.unwrap_err();
        assert_eq!(rig.metric(IN_STEP), 0);

        // Others go on meanwhile; a try that surely did nothing settles nothing.
        primary.set(Fault::None);
        record(&rig, 2, 1).await;
        until("it is applied", async || rig.metric(DEPTH) == 0).await;
        primary.set(Fault::Fail(Unavailable));
        try_record(&rig, 1, 2).await.unwrap_err();
        assert_eq!(rig.metric(IN_STEP), 0);
        let compared = rig.metric(COMPARED);

        primary.set(Fault::None);
        record(&rig, 1, 2).await;
        assert_eq!(rig.metric(IN_STEP), 1);
        // And once more, as one who was not told.
        record(&rig, 1, 2).await;
        record(&rig, 1, 3).await;
        until("more is compared", async || rig.metric(COMPARED) > compared).await;
        rig.closed().await;
        assert_eq!(rig.metric("catchall_shadow_differences_total"), 0);
        assert_eq!(everything(&*primary).await, everything(&*shadow).await);
        assert_eq!(shadow.totals().await.unwrap().delivered, 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_whose_outcome_is_never_learnt_puts_the_shadow_out_of_step() {
    // Its writer goes on; it is refused; it has no id to come again under.
    for case in 0..3 {
        let (primary, shadow) = (Faulty::new(Fault::None), memory());
        let rig = Rig::begin(primary.clone(), shadow.clone(), options(1_000, 1_000)).await;
        record(&rig, 1, 1).await;
        primary.set(Fault::CountAndFail(Ambiguous));
        if case == 2 {
            let mut nameless = group(1, 2, [marked(None, &[("a.example", 1, 0)])]);
            nameless.id = None;
            rig.store.record(&nameless).await.unwrap_err();
        } else {
            try_record(&rig, 1, 2).await.unwrap_err();
        }
        if case == 0 {
            record(&rig, 1, 3).await;
        }
        if case == 1 {
            primary.set(Fault::Fail(Invalid));
            try_record(&rig, 1, 2).await.unwrap_err();
        }
        // Out of step for good: a settled group changes nothing.
        primary.set(Fault::None);
        record(&rig, 3, 1).await;
        let compared = rig.metric(COMPARED);
        until("what waited is gone", async || rig.metric(DEPTH) == 0).await;
        assert_eq!((rig.metric(IN_STEP), rig.metric(COMPARED)), (0, compared));
        rig.shadowed.close().await;
        assert!(shadow.totals().await.unwrap().delivered <= 1, "it got more");
    }
}

/// One that is dropped in the middle may have been counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_that_is_given_up_is_one_of_unknown_outcome() {
    let primary = Faulty::new(Fault::Late(DEADLINE));
    let rig = Rig::begin(primary.clone(), memory(), options(1_000, 1_000)).await;
    let group = group(1, 1, [marked(None, &[("a.example", 1, 0)])]);
    let given_up = tokio::time::timeout(Duration::from_millis(10), rig.store.record(&group));
    given_up.await.unwrap_err();
    assert_eq!(rig.metric(IN_STEP), 0);
    primary.set(Fault::None);
    rig.store.record(&group).await.unwrap();
    assert_eq!(rig.metric(IN_STEP), 1);
}

/// What it was is known by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_that_is_given_up_after_it_was_repeated_leaves_nothing_unknown() {
    let primary = Faulty::new(Fault::Late(DEADLINE));
    let rig = Rig::begin(primary.clone(), memory(), options(1_000, 1_000)).await;
    let group = group(1, 1, [marked(None, &[("a.example", 1, 0)])]);
    let mut late = Box::pin(rig.store.record(&group));
    let waited = tokio::time::timeout(Duration::from_millis(10), &mut late);
    waited.await.unwrap_err();
    primary.set(Fault::None);
    rig.store.record(&group).await.unwrap();
    drop(late);
    assert_eq!(rig.metric(IN_STEP), 1);
    until("it is compared", async || rig.metric(COMPARED) > 0).await;
}

/// It was sent by an earlier life, and the copy may hold it already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_from_before_the_shadow_began_puts_it_out_of_step() {
    let (primary, shadow) = (memory(), memory());
    let mut old = group(1, 7, [marked(None, &[("a.example", 1, 0)])]);
    old.formed_at = 0.into();
    primary.record(&old).await.unwrap();
    let rig = Rig::begin(primary, shadow.clone(), options(1_000, 1_000)).await;
    record(&rig, 2, 1).await;
    assert_eq!(rig.metric(IN_STEP), 1);
    rig.store.record(&old).await.unwrap();
    assert_eq!(rig.metric(IN_STEP), 0);
    rig.shadowed.close().await;
    assert!(shadow.totals().await.unwrap().delivered <= 2);
    assert_eq!(rig.metric("catchall_shadow_differences_total"), 0);
}
