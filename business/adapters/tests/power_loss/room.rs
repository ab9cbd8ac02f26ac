//! A disk that is full, or nearly so.

use super::*;

#[tokio::test]
async fn on_a_full_disk_nothing_is_acknowledged_and_half_a_snapshot_takes_no_room() {
    let disk = SimulatedDisk::default();
    let shutdown = Shutdown::new();
    let store = open_with(GROWING, &disk, &shutdown).unwrap();
    store.record(&long_group(1)).await.unwrap();

    // Less than a snapshot takes, more than a group does.
    disk.leave_room_for(3_000);
    store.snapshot().unwrap_err();
    assert!(
        !disk
            .list()
            .unwrap()
            .iter()
            .any(|name| name.ends_with(".tmp"))
    );
    store.record(&long_group(2)).await.unwrap();

    disk.leave_room_for(0);
    let before = contents(&store).await;
    let third = long_group(3);
    assert_eq!(
        store.record(&third).await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    assert_eq!(contents(&store).await, before);
    assert!(!shutdown.is_requested());

    disk.leave_room_for(3_000);
    store.record(&third).await.unwrap();
    let after = contents(&store).await;
    assert_ne!(after, before);
    drop(store);
    assert_eq!(contents(&open(&disk, &shutdown).unwrap()).await, after);
}

#[tokio::test]
async fn a_full_disk_does_not_stop_groups_that_have_room_in_the_journal() {
    let disk = SimulatedDisk::default();
    let store = open(&disk, &Shutdown::new()).unwrap();
    disk.leave_room_for(0);
    for sequence in 1..100 {
        store.record(&long_group(sequence)).await.unwrap();
    }
    assert_eq!(contents(&store).await["d7.example"], (99, 0));
}

#[tokio::test]
async fn snapshots_that_fail_do_not_fill_the_disk_with_space_for_the_journal() {
    let disk = SimulatedDisk::default();
    let store = open(&disk, &Shutdown::new()).unwrap();
    store.record(&long_group(1)).await.unwrap();
    // One segment more, but no snapshot.
    disk.leave_room_for(65_536 + 3_000);
    for sequence in 2..22 {
        store.snapshot().unwrap_err();
        store.record(&long_group(sequence)).await.unwrap();
    }
    assert_eq!(disk.room_left(), 3_000);
}

/// With a bound that leaves room for this many bytes.
const LEAST: usize = 10_000;

#[tokio::test]
async fn with_too_little_room_nothing_is_recorded_until_there_is_more() {
    for options in [BY_HAND, GROWING] {
        let options = EmbeddedOptions {
            min_free_bytes: LEAST as u64,
            ..options
        };
        let disk = SimulatedDisk::default();
        let shutdown = Shutdown::new();
        let store = open_with(options, &disk, &shutdown).unwrap();
        // With it comes the next segment, so that the keeper makes none while the room goes.
        store.snapshot().unwrap();
        store.record(&long_group(1)).await.unwrap();
        disk.leave_room_for(LEAST - 1);
        let deadline = Instant::now() + Duration::from_secs(20);
        // The last look at the disk may have been a moment ago.
        let mut counted = 1;
        let error = loop {
            assert!(Instant::now() < deadline);
            match store.record(&long_group(counted + 1)).await {
                Ok(_) => counted += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(disk.room_left(), LEAST - 1, "it took what was to be left");
        assert!(store.snapshot().is_err());
        assert_eq!(disk.room_left(), LEAST - 1);

        // What is there is read, and told again.
        assert!(store.probe().await.unwrap().full);
        let found = contents(&store).await;
        assert_eq!(found["d0.example"], (counted, 0));
        store.record(&long_group(counted)).await.unwrap();
        assert_eq!(contents(&store).await, found);

        disk.leave_room_for(LEAST * 10);
        store.record(&long_group(counted + 1)).await.unwrap();
        assert!(!store.probe().await.unwrap().full);
        drop(store);

        disk.leave_room_for(LEAST - 1);
        let refused = open_with(options, &disk, &shutdown).err();
        assert!(matches!(refused, Some(OpenError::Full(_))), "{refused:?}");
        disk.leave_room_for(LEAST * 10);
        let store = open_with(options, &disk, &shutdown).unwrap();
        assert_eq!(contents(&store).await["d0.example"], (counted + 1, 0));
    }
}

#[tokio::test]
async fn a_journal_that_grows_stops_before_the_room_is_used_up() {
    let options = EmbeddedOptions {
        min_free_bytes: LEAST as u64,
        ..GROWING
    };
    let disk = SimulatedDisk::default();
    let store = open_with(options, &disk, &Shutdown::new()).unwrap();
    disk.leave_room_for(LEAST + 5_000);
    let mut sequence = 1;
    while store.record(&long_group(sequence)).await.is_ok() {
        sequence += 1;
    }
    assert!(disk.room_left() > LEAST - 2 * LONG_RECORD);
    assert!(sequence > 10, "{sequence}");
}

/// The marks of a snapshot are a part of it.
#[tokio::test]
async fn a_snapshot_whose_marks_do_not_fit_is_not_written() {
    let options = EmbeddedOptions {
        min_free_bytes: LEAST as u64,
        ..BY_HAND
    };
    let disk = SimulatedDisk::default();
    let store = open_with(options, &disk, &Shutdown::new()).unwrap();
    // 21,600 bytes of them.
    let members = (1..=900).map(|number| {
        let key = Key {
            hash: number,
            stamped_at: None,
        };
        Arc::new(Member {
            mark: Some(Mark {
                key,
                fingerprint: 1,
            }),
            changes: Changes::default(),
        })
    });
    let marked = Group {
        members: members.collect(),
        ..long_group(1)
    };
    store.record(&marked).await.unwrap();
    // For the next segment and the tallies, but not for the marks.
    let segment = usize::try_from(options.segment_bytes).unwrap();
    disk.leave_room_for(segment + LEAST + 20_000);
    assert!(store.snapshot().is_err());
    assert!(disk.room_left() >= LEAST);
    disk.leave_room_for(LEAST + 100_000);
    store.snapshot().unwrap();
}
