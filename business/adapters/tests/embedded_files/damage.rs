//! Files that are torn, damaged, missing or another's: cut where nothing is lost, and refused otherwise.

use super::*;

#[tokio::test]
async fn a_torn_tail_before_an_unfinished_segment_is_cut() {
    let folder = store_with_records(5).await;
    let first = files(&folder, "journal")[0].clone();
    let whole = used(&first);
    let last = whole.len() - (whole.len() - 48) / 5;
    // One power cut: the last record is torn, and the next segment was just being made.
    for header in [0, 20] {
        fs::write(&first, &whole[..whole.len() - 3]).unwrap();
        let unfinished = folder.path().join(format!("journal-{:020}.log", 2));
        fs::write(&unfinished, &whole[..header]).unwrap();
        let (store, opened) = open(&folder).unwrap();
        assert_eq!(opened.torn.unwrap().offset, last as u64);
        assert_eq!(fs::read(&first).unwrap(), whole[..last]);
        goes_on(store, &folder).await;
    }
}

#[tokio::test]
async fn a_journal_that_ends_before_its_snapshot_is_refused() {
    // Until a snapshot holds what was counted while it was written.
    for _ in 0..50 {
        let folder = store_with_records(50).await;
        let (store, _) = open(&folder).unwrap();
        let store = Arc::new(store);
        let snapshot = std::thread::spawn({
            let store = Arc::clone(&store);
            move || store.snapshot().unwrap()
        });
        let mut sequence = 51;
        while !snapshot.is_finished() {
            record(&store, sequence, &format!("d{sequence}.example")).await;
            sequence += 1;
        }
        snapshot.join().unwrap();
        drop(store);
        let start = newest_snapshot_start(folder.path()).0;
        let segment = files(&folder, "journal").pop().unwrap();
        let whole = fs::read(&segment).unwrap();
        fs::write(&segment, &whole[..48]).unwrap();
        match open(&folder) {
            Err(OpenError::Corrupt { .. }) => return,
            Ok((_, opened)) => assert_eq!(opened.domains, start, "something is missing"),
            Err(other) => panic!("{other}"),
        }
    }
    panic!("no snapshot was written while groups were recorded");
}

#[tokio::test]
async fn a_missing_segment_is_refused() {
    let folder = store_with_records(3).await;
    for sequence in 4..6 {
        let (store, _) = open(&folder).unwrap();
        record(&store, sequence, "later.example").await;
    }
    let segments = files(&folder, "journal");
    assert!(segments.len() >= 3);
    fs::remove_file(&segments[1]).unwrap();
    assert!(matches!(open(&folder), Err(OpenError::Corrupt { .. })));
}

#[tokio::test]
async fn a_segment_whose_header_was_never_finished_is_thrown_away() {
    let folder = store_with_records(3).await;
    let header = fs::read(&files(&folder, "journal")[0]).unwrap()[..48].to_vec();
    for length in 0..48 {
        fs::write(
            folder.path().join(format!("journal-{:020}.log", 2)),
            &header[..length],
        )
        .unwrap();
        let (_, opened) = open(&folder).unwrap();
        assert_eq!(opened.replayed_records, 3);
        let left = not_zero(&header[..length]);
        assert_eq!(opened.torn.map_or(0, |torn| torn.bytes), left);
        fs::remove_file(folder.path().join(format!("journal-{:020}.log", 2))).unwrap();
    }
}

#[tokio::test]
async fn an_unknown_format_version_is_refused() {
    let folder = store_with_records(3).await;
    {
        let (store, _) = open(&folder).unwrap();
        store.snapshot().unwrap();
    }
    for prefix in ["snapshot", "journal"] {
        let path = files(&folder, prefix)[0].clone();
        let whole = fs::read(&path).unwrap();
        let mut newer = whole.clone();
        newer[16] = 9;
        fs::write(&path, newer).unwrap();
        match open(&folder) {
            Err(OpenError::UnknownVersion { version, .. }) => assert_eq!(version, 9),
            other => panic!("{prefix}: {:?}", other.map(|(_, opened)| opened)),
        }
        fs::write(&path, whole).unwrap();
    }
    open(&folder).unwrap();
}

#[tokio::test]
async fn a_segment_of_another_store_is_refused() {
    let folder = store_with_records(3).await;
    let other = store_with_records(3).await;
    let (store, _) = open(&folder).unwrap();
    store.snapshot().unwrap();
    record(&store, 4, "later.example").await;
    drop(store);
    let stranger = fs::read(&files(&other, "journal")[0]).unwrap();
    fs::write(files(&folder, "journal").last().unwrap(), stranger).unwrap();
    assert!(matches!(
        open(&folder),
        Err(OpenError::Corrupt { offset: 0, .. })
    ));
}

#[tokio::test]
async fn a_snapshot_replaces_the_journal_before_it_and_damage_to_it_is_refused() {
    let folder = store_with_records(100).await;
    let (store, _) = open(&folder).unwrap();
    record(&store, 101, "before.example").await;
    store.snapshot().unwrap();
    record(&store, 102, "after.example").await;
    drop(store);
    assert_eq!(files(&folder, "snapshot").len(), 1);

    let (store, opened) = open(&folder).unwrap();
    assert_eq!(
        opened,
        Opened {
            domains: 102,
            replayed_records: 1,
            newest: Some(UnixSeconds::from(1_000)),
            torn: None
        }
    );
    assert_eq!(get(&store, "before.example").await.delivered, 1);
    assert_eq!(get(&store, "after.example").await.delivered, 1);
    // The ledger is in it too: the last group of the writer is known.
    record(&store, 102, "after.example").await;
    assert_eq!(get(&store, "after.example").await.delivered, 1);
    drop(store);

    let path = files(&folder, "snapshot")[0].clone();
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(97) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        fs::write(&path, &damaged).unwrap();
        assert!(open(&folder).is_err(), "damage at byte {at}");
        fs::write(&path, &whole[..at]).unwrap();
        assert!(open(&folder).is_err(), "cut at byte {at}");
    }
}
