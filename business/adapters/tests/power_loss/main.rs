//! The embedded store against writes and syncs that fail, and a disk that is full.
//!
//! The disk is simulated: it loses what was not synced and tears the last writes. Power cuts at any
//! operation, by the thousand, are the fault harness's (`torture/src/power_loss.rs`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod room;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use adapters::email_domains::{
    Embedded,
    embedded::{
        EmbeddedOptions, OpenError,
        disk::{Disk, SimulatedDisk},
        testing::{self, BY_HAND, GROWING},
    },
};
use business::{
    email_domains::{
        model::{Changes, DomainName, Group, GroupId, Key, Mark, Member, Tally, WriterId},
        ports::{DomainTallies, Freshness},
    },
    kernel::{ErrorKind, UnixSeconds},
};
use fastrand::Rng;
use foundation::supervision::{Cause, Shutdown};

fn open(disk: &SimulatedDisk, shutdown: &Shutdown) -> Result<Embedded, OpenError> {
    open_with(BY_HAND, disk, shutdown)
}

fn open_with(
    options: EmbeddedOptions,
    disk: &SimulatedDisk,
    shutdown: &Shutdown,
) -> Result<Embedded, OpenError> {
    testing::open(options, disk, shutdown).map(|(store, _)| store)
}

/// Domain by domain: delivered, bounced.
async fn contents(store: &Embedded) -> BTreeMap<String, (u64, u64)> {
    let names: Vec<_> = (0..20)
        .map(|d| DomainName::parse(&format!("d{d}.example")).unwrap())
        .collect();
    let tallies = store.get(&names, Freshness::Latest).await.unwrap();
    let found = names
        .iter()
        .zip(tallies)
        .filter(|(_, tally)| *tally != Tally::ZERO);
    found
        .map(|(name, tally)| (name.to_string(), (tally.delivered, tally.bounced)))
        .collect()
}

/// The length of a record of a [`long_group`].
const LONG_RECORD: usize = 319;

fn long_group(sequence: u64) -> Group {
    let mut changes = Changes::default();
    for number in 0..20 {
        let name = DomainName::parse(&format!("d{number}.example")).unwrap();
        changes.push(name.borrowed(), 1, 0);
    }
    group_of(sequence, changes)
}

fn group_of(sequence: u64, changes: Changes) -> Group {
    let writer = WriterId(1);
    let member = Member {
        mark: None,
        changes,
    };
    Group {
        id: Some(GroupId { writer, sequence }),
        formed_at: UnixSeconds::from(1_000),
        members: [Arc::new(member)].into_iter().collect(),
    }
}

#[tokio::test]
async fn what_a_failed_write_left_is_never_read() {
    for options in [BY_HAND, GROWING] {
        // To its very end: a record may end in zeros, and be whole without them.
        for bytes in 0..LONG_RECORD {
            let disk = SimulatedDisk::default();
            let shutdown = Shutdown::new();
            let store = open_with(options, &disk, &shutdown).unwrap();
            // With it comes the next segment, so that the keeper has nothing to write.
            store.snapshot().unwrap();
            store.record(&long_group(1)).await.unwrap();
            disk.fail_write_after_bytes(bytes);
            let error = store.record(&long_group(2)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(!shutdown.is_requested());
            // Shorter than what was written of the long one.
            let mut short = Changes::default();
            let name = DomainName::parse("d0.example").unwrap();
            short.push(name.borrowed(), 1, 1);
            store.record(&group_of(3, short)).await.unwrap();
            let found = contents(&store).await;
            assert_eq!((found["d0.example"], found["d1.example"]), ((2, 1), (1, 0)));
            drop(store);
            for seed in 0..4 {
                let disk = disk.after_power_loss(&mut Rng::with_seed(seed));
                let store = open_with(options, &disk, &shutdown).unwrap();
                assert_eq!(contents(&store).await, found, "{bytes}, seed {seed}");
            }
            let (store, opened) = testing::open(options, &disk, &shutdown).unwrap();
            assert_eq!((opened.replayed_records, opened.torn), (2, None), "{bytes}");
            assert_eq!(contents(&store).await, found, "{bytes}");
        }
    }
}

#[tokio::test]
async fn a_failed_sync_is_ambiguous_stops_the_process_and_is_never_tried_again() {
    let disk = SimulatedDisk::default();
    let shutdown = Shutdown::new();
    let store = open(&disk, &shutdown).unwrap();
    store.record(&long_group(1)).await.unwrap();
    let before = contents(&store).await;
    assert!(!shutdown.is_requested());

    disk.fail_sync_after(0);
    let error = store.record(&long_group(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Ambiguous);
    assert!(matches!(shutdown.cause(), Some(Cause::Fatal(_))));
    assert_eq!(
        contents(&store).await,
        before,
        "nobody reads what may not be durable"
    );

    let error = store.record(&long_group(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        store.probe().await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    assert_eq!(disk.syncs_after_failure(), 1);
}

/// The kernel calls pages clean that it could not write: they are read, and no sync writes them.
#[tokio::test]
async fn what_a_failed_sync_left_in_memory_is_written_again_when_the_store_opens() {
    let shutdown = Shutdown::new();
    for options in [BY_HAND, GROWING] {
        let disk = SimulatedDisk::default();
        let store = open_with(options, &disk, &shutdown).unwrap();
        // With it comes the next segment: the sync that fails must not be one of the keeper's.
        store.snapshot().unwrap();
        store.record(&long_group(1)).await.unwrap();
        disk.fail_sync_after(0);
        let error = store.record(&long_group(2)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Ambiguous);
        drop(store);
        let disk = disk.after_process_death();
        let store = open_with(options, &disk, &shutdown).unwrap();
        // Nobody reads what is not durable.
        assert_eq!(contents(&store).await["d1.example"], (2, 0));
        store.record(&long_group(3)).await.unwrap();
        drop(store);
        for seed in 0..20 {
            let disk = disk.after_power_loss(&mut Rng::with_seed(seed));
            let store = open_with(options, &disk, &shutdown).unwrap();
            assert_eq!(contents(&store).await["d1.example"], (3, 0), "seed {seed}");
        }
    }
}

#[tokio::test]
async fn a_disk_that_cannot_sync_is_found_out_before_the_store_serves() {
    let shutdown = Shutdown::new();
    let mut tried = Vec::new();
    for syncs in 0.. {
        let disk = SimulatedDisk::default();
        disk.fail_sync_after(syncs);
        match open(&disk, &shutdown) {
            Ok(_) => break,
            Err(OpenError::Io { file, .. }) => tried.push(file),
            Err(other) => panic!("{other}"),
        }
        // Nothing of it is left, whatever the disk kept.
        for seed in 0..20 {
            let disk = disk.after_power_loss(&mut Rng::with_seed(seed));
            drop(open(&disk, &shutdown).unwrap());
            let files = disk.list().unwrap();
            assert!(
                !files.iter().any(|name| name.contains("probe")),
                "{files:?}"
            );
        }
    }
    assert!(tried.iter().any(|file| file == "probe.tmp"), "{tried:?}");
}
