//! `Spooled` before a store that goes away and comes back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

#[path = "spooled/chance.rs"]
mod chance;
#[path = "spooled/rig.rs"]
mod rig;

use std::{
    fs,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use adapters::email_domains::{
    SpoolError, SpooledOptions,
    embedded::{OpenError, disk::SimulatedDisk},
};
use business::{
    email_domains::{
        model::{
            Mark,
            Outcome::{Counted, Duplicate, Expired, Mismatch, Spooled},
        },
        ports::{DomainTallies, PendingEvents},
    },
    kernel::ErrorKind,
};
use conformance::email_domains::WINDOW_S;
use prometheus::Registry;

use self::rig::{
    NOW, OPTIONS, Store, Weather, drained, event, eventually, group, is, mark, open, open_on,
    open_with,
};

const DOWN: Weather = Weather::Down(ErrorKind::Unavailable);

#[tokio::test]
async fn what_comes_while_the_store_is_away_counts_when_it_is_back() {
    for away in [
        DOWN,
        Weather::Down(ErrorKind::Overloaded),
        Weather::Down(ErrorKind::Ambiguous),
        Weather::Silent,
        Weather::Frozen,
    ] {
        let (store, folder) = (Store::new(1), tempfile::tempdir().unwrap());
        let spooled = open(&store, &folder).await;
        let record = |sequence, domain| {
            let group = group(7, sequence, [event(domain, None)]);
            let spooled = &spooled;
            async move { spooled.record(&group).await }
        };
        assert!(is(&record(1, "a.example").await, Counted));
        assert_eq!(spooled.oldest(), None);
        store.set(away);
        for sequence in 2..=4 {
            let recorded = record(sequence, "a.example").await;
            assert!(is(&recorded, Spooled), "{away:?}: {recorded:?}");
            assert_eq!(spooled.oldest().unwrap().get(), NOW);
        }
        store.set(Weather::Up);
        drained(&spooled).await;
        assert_eq!(store.counts("a.example").await, (4, 0), "{away:?}");
        let after = record(5, "a.example").await;
        assert!(is(&after, Counted), "{away:?}: {after:?}");
        assert_eq!(store.counts("a.example").await, (5, 0));
        spooled.close().await;
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_group_is_not_spooled() {
    let (store, folder) = (Store::new(1), tempfile::tempdir().unwrap());
    let spooled = open(&store, &folder).await;
    for kind in [
        ErrorKind::Invalid,
        ErrorKind::Corrupt,
        ErrorKind::Unexpected,
    ] {
        store.set(Weather::Down(kind));
        let result = spooled
            .record(&group(7, 1, [event("a.example", None)]))
            .await;
        assert_eq!(result.unwrap_err().kind(), kind);
    }
    assert_eq!(spooled.oldest(), None);
}

#[tokio::test]
async fn a_spool_is_found_again_by_the_next_life() {
    let (store, folder) = (Store::new(1), tempfile::tempdir().unwrap());
    for life in 0..3_u64 {
        let spooled = open(&store, &folder).await;
        // Recorded, and not told so: of each life the first.
        store.set(Weather::Silent);
        for sequence in 1..=3 {
            let group = group(u128::from(life), sequence, [event("a.example", None)]);
            assert!(is(&spooled.record(&group).await, Spooled));
            store.set(DOWN);
        }
        spooled.close().await;
        drop(spooled);
        // It opens only over a store that answers, and does not have to record at once.
        store.set(Weather::Up);
    }
    let spooled = open(&store, &folder).await;
    drained(&spooled).await;
    assert_eq!(store.counts("a.example").await, (9, 0));
}

/// What a life sent last may come to the store after what the next life sends.
#[tokio::test]
async fn what_is_late_counts_once() {
    let (store, folder) = (Store::new(1), tempfile::tempdir().unwrap());
    let record = |sequence| group(1, sequence, [event("a.example", None)]);
    let first = open(&store, &folder).await;
    store.set(DOWN);
    for sequence in 1..=3 {
        assert!(is(&first.record(&record(sequence)).await, Spooled));
    }
    first.close().await;
    drop(first);
    // The same writer goes on in another segment.
    store.set(Weather::LateAfter(0));
    let second = open(&store, &folder).await;
    for sequence in 4..=6 {
        assert!(is(&second.record(&record(sequence)).await, Spooled));
    }
    // The first segment is settled, and of the second something is on its way when this life ends.
    store.set(Weather::LateAfter(2));
    eventually("the second is on its way", || store.latest_late() >= 4).await;
    second.close().await;
    drop(second);
    let before = store.recorded.load(Ordering::Relaxed);
    store.set(Weather::LateAfter(before + 1));
    let third = open(&store, &folder).await;
    eventually("the rest is on its way", || store.latest_late() >= 6).await;
    store.deliver().await;
    store.set(Weather::Up);
    drained(&third).await;
    assert_eq!(store.counts("a.example").await, (6, 0));
}

#[tokio::test]
async fn what_was_settled_and_comes_back_counts_once() {
    let (store, folder) = (Store::new(1), tempfile::tempdir().unwrap());
    let spooled = open(&store, &folder).await;
    store.set(DOWN);
    for sequence in 1..=20 {
        for writer in [1, 2] {
            let group = group(writer, sequence, [event("a.example", None)]);
            assert!(is(&spooled.record(&group).await, Spooled));
        }
    }
    // As if the power went before the removal of the segment was durable.
    let kept = tempfile::tempdir().unwrap();
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        for file in fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    };
    copy(folder.path(), kept.path());
    store.set(Weather::Up);
    drained(&spooled).await;
    spooled.close().await;
    drop(spooled);
    assert_eq!(store.counts("a.example").await, (40, 0));

    let spooled = open(&store, &kept).await;
    drained(&spooled).await;
    assert_eq!(store.counts("a.example").await, (40, 0));
}

#[tokio::test]
async fn groups_of_one_writer_and_second_are_settled_together() {
    let (store, folder) = (Store::new(1), tempfile::tempdir().unwrap());
    let spooled = open(&store, &folder).await;
    store.set(DOWN);
    for sequence in 1..=1_000 {
        let group = group(1, sequence, [event("a.example", None)]);
        assert!(is(&spooled.record(&group).await, Spooled));
    }
    store.set(Weather::Up);
    drained(&spooled).await;
    assert_eq!(store.counts("a.example").await, (1_000, 0));
    // The first goes alone, and what came while it did may too.
    let calls = store.recorded.load(Ordering::Relaxed);
    assert!(calls < 20, "{calls}");
}

// The writers never rest: each has a thread, and the drainer one more.
#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn a_spool_gets_empty_though_groups_keep_coming() {
    // The last groups may take as long to get there, however busy the machine is.
    let options = SpooledOptions {
        after: Duration::from_secs(2),
        ..OPTIONS
    };
    let (store, folder) = (Store::new(1), tempfile::tempdir().unwrap());
    let spooled = open_with(&store, &folder, options).await.unwrap();
    let spooled = Arc::new(spooled);
    store.set(DOWN);
    let first = group(99, 1, [event("a.example", None)]);
    assert!(is(&spooled.record(&first).await, Spooled));
    store.set(Weather::Up);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let spooled = Arc::clone(&spooled);
            tokio::spawn(async move {
                for sequence in 1.. {
                    let group = group(writer, sequence, [event("a.example", None)]);
                    let recorded = spooled.record(&group).await;
                    if is(&recorded, Counted) {
                        return sequence;
                    }
                    assert!(is(&recorded, Spooled), "{recorded:?}");
                }
                unreachable!()
            })
        })
        .collect();
    let mut sent = 1;
    for writer in writers {
        sent += tokio::time::timeout(Duration::from_secs(30), writer)
            .await
            .expect("the spool never got empty")
            .unwrap();
    }
    drained(&spooled).await;
    assert_eq!(store.counts("a.example").await, (sent, 0));
}

#[tokio::test]
async fn marks_are_resolved_when_the_store_is_back() {
    let (store, folder) = (Store::new(1), tempfile::tempdir().unwrap());
    let spooled = open(&store, &folder).await;
    let record = |sequence, mark| {
        let group = group(7, sequence, [event("a.example", mark)]);
        let spooled = &spooled;
        async move { spooled.record(&group).await }
    };
    assert!(is(&record(1, mark(1, None)).await, Counted));
    store.set(DOWN);
    let other_payload = Mark {
        fingerprint: 2,
        ..mark(1, None).unwrap()
    };
    for (sequence, mark) in [
        (2, mark(1, None)),
        (3, mark(2, None)),
        (4, mark(2, None)),
        (5, mark(3, Some(NOW))),
        (6, Some(other_payload)),
    ] {
        assert!(is(&record(sequence, mark).await, Spooled));
    }
    // The store would not take it either: that is known at once.
    let old = mark(4, Some(NOW - WINDOW_S.get() - 1));
    assert!(is(&record(7, old).await, Expired));
    store.set(Weather::Up);
    drained(&spooled).await;
    assert_eq!(store.counts("a.example").await, (3, 0));
    assert!(is(&record(8, mark(3, Some(NOW))).await, Duplicate));
    assert!(is(&record(9, Some(other_payload)).await, Mismatch));
}

#[tokio::test]
async fn a_spool_has_a_bound_and_an_age() {
    let bytes = SpooledOptions {
        max_bytes: 500,
        ..OPTIONS
    };
    let (store, folder) = (Store::new(1), tempfile::tempdir().unwrap());
    let spooled = open_with(&store, &folder, bytes).await.unwrap();
    store.set(DOWN);
    let mut taken = 0;
    let refusal = loop {
        let group = group(7, taken + 1, [event("a.example", None)]);
        match spooled.record(&group).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refusal.kind(), ErrorKind::Overloaded);
    assert!((3..20).contains(&taken), "{taken}");
    assert!(spooled.probe().await.is_err(), "it takes nothing");
    store.set(Weather::Up);
    drained(&spooled).await;
    assert_eq!(store.counts("a.example").await, (taken, 0));
    assert!(!spooled.probe().await.unwrap().full);

    store.set(DOWN);
    let mut later = group(8, 1, [event("a.example", None)]);
    assert!(is(&spooled.record(&later).await, Spooled));
    let probe = spooled.probe().await.expect("it takes groups");
    assert_eq!(probe.memory.window_s, WINDOW_S.get());
    later.id.as_mut().unwrap().sequence = 2;
    later.formed_at = (NOW + OPTIONS.max_age_s + 1).into();
    let refusal = spooled.record(&later).await.unwrap_err();
    assert_eq!(refusal.kind(), ErrorKind::Overloaded);
}

#[tokio::test]
async fn with_too_little_room_on_its_disk_nothing_more_waits_until_there_is_more() {
    // Far more than is written between two looks at the disk.
    const LEAST: usize = 1 << 30;
    let options = SpooledOptions {
        min_free_bytes: LEAST as u64,
        ..OPTIONS
    };
    let (store, disk) = (Store::new(1), SimulatedDisk::default());
    let registry = Registry::new();
    let on_disk = || Arc::new(disk.clone());
    let spooled = open_on(&store, on_disk(), options, &registry)
        .await
        .unwrap();
    let group = |sequence| group(7, sequence, [event("a.example", None)]);
    store.set(DOWN);
    assert!(is(&spooled.record(&group(1)).await, Spooled));
    let mut taken = 1;
    // The last look at the disk may have been a moment ago.
    let deadline = Instant::now() + Duration::from_secs(20);
    disk.leave_room_for(LEAST - 1);
    let refusal = loop {
        assert!(Instant::now() < deadline);
        match spooled.record(&group(taken + 1)).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refusal.kind(), ErrorKind::Unavailable);
    assert!(spooled.probe().await.is_err(), "it takes nothing");
    let gathered = registry.gather();
    let free = gathered
        .iter()
        .find(|family| family.name() == "catchall_disk_free_bytes")
        .unwrap();
    let [free] = free.get_metric() else {
        panic!("{free:?}");
    };
    assert_eq!(free.get_label()[0].value(), "spool");
    assert!(free.get_gauge().get_value() < LEAST as f64);
    disk.leave_room_for(2 * LEAST);
    assert!(is(&spooled.record(&group(taken + 1)).await, Spooled));
    taken += 1;
    spooled.close().await;
    drop(spooled);

    // Opened on a full disk it drains, and then it needs no room.
    disk.leave_room_for(0);
    store.set(Weather::Up);
    let spooled = open_on(&store, on_disk(), options, &Registry::new())
        .await
        .unwrap();
    drained(&spooled).await;
    assert_eq!(store.counts("a.example").await, (taken, 0));
    assert!(!spooled.probe().await.unwrap().full);
    assert!(is(&spooled.record(&group(taken + 1)).await, Counted));
    store.set(DOWN);
    assert!(spooled.record(&group(taken + 2)).await.is_err());
    disk.leave_room_for(2 * LEAST);
    assert!(is(&spooled.record(&group(taken + 3)).await, Spooled));
}

/// Found out now, and not at the first outage.
#[tokio::test]
async fn a_spool_that_cannot_be_written_is_not_opened() {
    let (store, disk) = (Store::new(1), SimulatedDisk::default());
    let open = async || open_on(&store, Arc::new(disk.clone()), OPTIONS, &Registry::new()).await;
    disk.fail_write_after_bytes(0);
    let refused = open().await.err().unwrap();
    assert!(
        matches!(refused, SpoolError::Open(OpenError::Io { .. })),
        "{refused}"
    );
    drop(open().await.unwrap());
}

#[tokio::test]
async fn a_spool_belongs_to_one_store_and_one_process() {
    let (store, folder) = (Store::new(1), tempfile::tempdir().unwrap());
    let spooled = open(&store, &folder).await;
    let second = open_with(&store, &folder, OPTIONS).await;
    assert!(matches!(second, Err(SpoolError::Open(OpenError::Locked))));
    store.set(DOWN);
    let group = group(7, 1, [event("a.example", None)]);
    assert!(is(&spooled.record(&group).await, Spooled));
    spooled.close().await;
    drop(spooled);
    let refused = open_with(&Store::new(2), &folder, OPTIONS)
        .await
        .err()
        .unwrap();
    assert!(refused.to_string().contains("another store"), "{refused}");
    // And a store that does not answer is not known.
    let away = open_with(&store, &folder, OPTIONS).await.err().unwrap();
    assert!(matches!(away, SpoolError::Store(_)), "{away}");
}

#[tokio::test]
async fn damage_is_no_end_of_the_spool() {
    let (store, folder) = (Store::new(1), tempfile::tempdir().unwrap());
    let spooled = open(&store, &folder).await;
    store.set(DOWN);
    for sequence in 1..=3 {
        let group = group(7, sequence, [event("a.example", None)]);
        assert!(is(&spooled.record(&group).await, Spooled));
    }
    // The drainer may have sealed what it could not settle.
    spooled.close().await;
    drop(spooled);
    store.set(Weather::Up);
    let first = fs::read_dir(folder.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .min()
        .unwrap();
    let mut bytes = fs::read(&first).unwrap();
    bytes[80] ^= 1;
    fs::write(&first, &bytes).unwrap();
    let refused = open_with(&store, &folder, OPTIONS).await.err().unwrap();
    assert!(
        matches!(refused, SpoolError::Open(OpenError::Corrupt { .. })),
        "{refused}"
    );
    bytes[80] ^= 1;
    fs::write(&first, &bytes).unwrap();
    let spooled = open(&store, &folder).await;
    drained(&spooled).await;
    eventually("all is counted", || {
        store.recorded.load(Ordering::Relaxed) > 0
    })
    .await;
    assert_eq!(store.counts("a.example").await, (3, 0));
}
