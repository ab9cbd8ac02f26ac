//! What the embedded store makes of its files: sound ones, damaged ones, other people's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "embedded_files/damage.rs"]
mod damage;
#[path = "embedded_files/marks.rs"]
mod marks;

use std::{
    fs,
    num::{NonZeroU16, NonZeroU32},
    path::{Path, PathBuf},
    sync::Arc,
};

use adapters::email_domains::{
    Embedded, MarkLimits,
    embedded::{EmbeddedOptions, OpenError, Opened, disk::Directory},
};
use business::{
    email_domains::{
        model::{
            Changes, DomainName, EventKind, Group, GroupId, Key, Mark, Member, Outcome, Tally,
            WriterId,
        },
        ports::{Cursor, DomainTallies, Freshness, Page, PageRequest},
        verdict::VerdictPolicy,
    },
    kernel::UnixSeconds,
};
use foundation::supervision::Shutdown;
use prometheus::Registry;
use tempfile::TempDir;

const MARKS: MarkLimits = MarkLimits {
    window_s: NonZeroU32::MAX,
    max_count: NonZeroU32::MAX,
};

const LARGE: EmbeddedOptions = EmbeddedOptions {
    segment_bytes: 1 << 20,
    snapshot_after_bytes: 1 << 30,
    marks: MARKS,
    min_free_bytes: 0,
};

fn open_with(folder: &TempDir, options: EmbeddedOptions) -> Result<(Embedded, Opened), OpenError> {
    let disk = Arc::new(Directory::new(folder.path()).unwrap());
    Embedded::open(
        disk,
        options,
        VerdictPolicy::default(),
        &Shutdown::new(),
        &Registry::new(),
    )
}

fn open(folder: &TempDir) -> Result<(Embedded, Opened), OpenError> {
    open_with(folder, LARGE)
}

async fn record(store: &Embedded, sequence: u64, name: &str) {
    let changes = Changes::event(DomainName::parse(name).unwrap(), EventKind::Delivered);
    store.record(&group(sequence, changes)).await.unwrap();
}

fn group(sequence: u64, changes: Changes) -> Group {
    let member = Member {
        mark: None,
        changes,
    };
    Group {
        id: Some(GroupId {
            writer: WriterId(1),
            sequence,
        }),
        formed_at: UnixSeconds::from(1_000),
        members: [Arc::new(member)].into_iter().collect(),
    }
}

async fn get(store: &Embedded, name: &str) -> Tally {
    store
        .get(&[DomainName::parse(name).unwrap()], Freshness::Latest)
        .await
        .unwrap()[0]
}

/// The files whose names begin so, in order.
fn files(folder: &TempDir, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with(prefix)
        })
        .collect();
    found.sort();
    found
}

/// The header and the records of a segment, without the space behind them.
fn used(segment: &Path) -> Vec<u8> {
    let mut bytes = fs::read(segment).unwrap();
    let mut end = 48;
    while let Some(length) = bytes[end..].first_chunk().copied().map(u32::from_le_bytes)
        && length > 0
    {
        end += 16 + length as usize;
    }
    bytes.truncate(end);
    bytes
}

/// How many bytes there are up to the last that is not zero.
fn not_zero(bytes: &[u8]) -> u64 {
    let last = bytes.iter().rposition(|byte| *byte != 0);
    last.map_or(0, |last| last as u64 + 1)
}

async fn store_with_records(count: u64) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (store, opened) = open(&folder).unwrap();
    assert_eq!(
        opened,
        Opened {
            domains: 0,
            replayed_records: 0,
            newest: None,
            torn: None
        }
    );
    for sequence in 1..=count {
        record(&store, sequence, &format!("d{sequence}.example")).await;
    }
    folder
}

/// What is recorded behind four records and a cut is there when the store is opened again. Takes
/// away the segments that this made.
async fn goes_on(store: Embedded, folder: &TempDir) {
    record(&store, 5, "again.example").await;
    drop(store);
    let (store, opened) = open(folder).unwrap();
    assert_eq!((opened.replayed_records, opened.torn), (5, None));
    assert_eq!(get(&store, "again.example").await.delivered, 1);
    drop(store);
    for later in files(folder, "journal").split_off(1) {
        fs::remove_file(later).unwrap();
    }
}

#[tokio::test]
async fn only_one_process_at_a_time_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let (first, _) = open(&folder).unwrap();
    assert!(matches!(open(&folder), Err(OpenError::Locked)));
    drop(first);
    open(&folder).unwrap();
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_is_cut_and_reported() {
    let folder = store_with_records(5).await;
    let path = &files(&folder, "journal")[0];
    let whole = used(path);
    // All records have the same length.
    let length = (whole.len() - 48) / 5;
    let last = whole.len() - length;
    // The file may end there, or go on with space that was allocated and never written to.
    for (cut, space) in (last..whole.len()).flat_map(|cut| [(cut, 0), (cut, 9_000)]) {
        let mut found = whole[..cut].to_vec();
        found.resize(cut + space, 0);
        if found.starts_with(&whole) {
            // What was cut off is as zero as the space.
            continue;
        }
        fs::write(path, &found).unwrap();
        let (store, opened) = open(&folder).unwrap();
        assert_eq!((opened.replayed_records, opened.domains), (4, 4));
        if cut == last {
            assert_eq!(opened.torn, None);
        } else {
            let torn = opened.torn.unwrap();
            let left = not_zero(&found[last..]);
            assert_eq!((torn.offset, torn.bytes), (last as u64, left));
        }
        assert_eq!(get(&store, "d5.example").await, Tally::ZERO);
        goes_on(store, &folder).await;
    }
}

#[tokio::test]
async fn of_a_torn_record_any_page_may_be_missing() {
    let folder = store_with_records(1).await;
    let (store, _) = open(&folder).unwrap();
    let mut changes = Changes::default();
    for number in 0..1_500 {
        let name = DomainName::parse(&format!("d{number}.example")).unwrap();
        changes.push(name.borrowed(), 1, 0);
    }
    store.record(&group(2, changes)).await.unwrap();
    drop(store);
    let path = files(&folder, "journal").pop().unwrap();
    let (whole, allocated) = (used(&path), fs::read(&path).unwrap());
    assert!(whole.len() > 4 * 4_096 && allocated.len() > whole.len());
    for missing in 1u32..1 << whole.len().div_ceil(4_096) {
        let mut found = allocated.clone();
        for (page, bytes) in found.chunks_mut(4_096).enumerate() {
            if missing & (1 << page.min(31)) != 0 {
                // The header was durable before.
                let from = if page == 0 { 48 } else { 0 };
                bytes[from..].fill(0);
            }
        }
        fs::write(&path, &found).unwrap();
        let (store, opened) = open(&folder).unwrap();
        assert_eq!((opened.replayed_records, opened.domains), (1, 1));
        let left = not_zero(&found[48..]);
        assert_eq!(opened.torn.map_or(0, |torn| torn.bytes), left);
        drop(store);
        for later in files(&folder, "journal").split_off(2) {
            fs::remove_file(later).unwrap();
        }
    }
}

#[tokio::test]
async fn space_that_was_not_used_is_given_back_when_the_store_opens() {
    let folder = store_with_records(3).await;
    let path = files(&folder, "journal")[0].clone();
    let whole = used(&path);
    assert!(fs::metadata(&path).unwrap().len() >= 64 << 10);
    // Opened over and over, nothing is left behind but the segment in use.
    for _ in 0..3 {
        let (_, opened) = open(&folder).unwrap();
        assert_eq!((opened.replayed_records, opened.torn), (3, None));
        assert_eq!(fs::read(&path).unwrap(), whole);
        assert_eq!(files(&folder, "journal").len(), 2);
    }
}

/// Segments had no space ahead once: the file ends with the last record, or behind the header.
#[tokio::test]
async fn a_journal_without_space_is_read() {
    let folder = store_with_records(3).await;
    let (store, _) = open(&folder).unwrap();
    drop(store);
    let segments = files(&folder, "journal");
    assert_eq!(segments.len(), 2);
    for segment in &segments {
        fs::write(segment, used(segment)).unwrap();
    }
    let (store, opened) = open(&folder).unwrap();
    assert_eq!((opened.replayed_records, opened.torn), (3, None));
    record(&store, 4, "later.example").await;
    drop(store);
    let (store, opened) = open(&folder).unwrap();
    assert_eq!((opened.replayed_records, opened.torn), (4, None));
    assert_eq!(get(&store, "later.example").await.delivered, 1);
}

#[tokio::test]
async fn anything_but_zeros_behind_the_records_is_a_torn_tail() {
    let folder = store_with_records(3).await;
    let path = files(&folder, "journal")[0].clone();
    let (whole, allocated) = (used(&path), fs::read(&path).unwrap());
    for at in [whole.len(), whole.len() + 1, 5_000, allocated.len() - 1] {
        let mut found = allocated.clone();
        found[at] = 1;
        fs::write(&path, &found).unwrap();
        let (_, opened) = open(&folder).unwrap();
        let torn = opened.torn.unwrap();
        let begin = whole.len();
        let left = at + 1 - begin;
        assert_eq!((torn.offset, torn.bytes), (begin as u64, left as u64));
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
    // A sound record behind zeros: what stood between them is lost.
    let last = (whole.len() - 48) / 3;
    let mut found = allocated.clone();
    found[whole.len() - 2 * last..whole.len() - last].fill(0);
    fs::write(&path, &found).unwrap();
    assert!(matches!(open(&folder), Err(OpenError::Corrupt { .. })));
    assert_eq!(fs::read(&path).unwrap(), found);
}

#[tokio::test]
async fn damage_before_sound_records_is_refused_with_file_and_offset() {
    let folder = store_with_records(5).await;
    let path = files(&folder, "journal")[0].clone();
    let whole = used(&path);
    let length = (whole.len() - 48) / 5;
    let sound = fs::read(&path).unwrap();
    for at in 48..48 + 4 * length {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x40;
        fs::write(&path, &damaged).unwrap();
        let begin = 48 + (at - 48) / length * length;
        match open(&folder) {
            Err(OpenError::Corrupt { file, offset, .. }) => {
                assert_eq!(file, path.file_name().unwrap().to_str().unwrap());
                assert_eq!(offset, begin as u64, "damage at byte {at}");
            }
            other => panic!("damage at byte {at}: {:?}", other.map(|(_, opened)| opened)),
        }
        assert_eq!(
            fs::read(&path).unwrap(),
            damaged,
            "a refused store is left as it is"
        );
    }
    fs::write(&path, &sound).unwrap();
    open(&folder).unwrap();
}

#[tokio::test]
async fn a_damaged_last_record_before_a_later_segment_with_records_is_refused_and_left_alone() {
    let folder = store_with_records(3).await;
    let (store, _) = open(&folder).unwrap();
    record(&store, 4, "later.example").await;
    drop(store);
    let segments = files(&folder, "journal");
    let whole = used(&segments[0]);
    let last = whole.len() - (whole.len() - 48) / 3;
    fs::write(&segments[0], &whole[..whole.len() - 1]).unwrap();
    for _ in 0..2 {
        match open(&folder) {
            Err(OpenError::Corrupt { file, offset, .. }) => {
                assert_eq!(file, segments[0].file_name().unwrap().to_str().unwrap());
                assert_eq!(offset, last as u64);
            }
            other => panic!("{:?}", other.map(|(_, opened)| opened)),
        }
    }
    assert_eq!(fs::read(&segments[0]).unwrap(), whole[..whole.len() - 1]);
}

#[tokio::test]
async fn a_damaged_header_before_sound_records_is_refused() {
    // Enough records that their numbers are far from those of a first segment.
    let folder = store_with_records(300).await;
    let (store, _) = open(&folder).unwrap();
    record(&store, 301, "later.example").await;
    drop(store);
    let last = files(&folder, "journal").pop().unwrap();
    let mut damaged = fs::read(&last).unwrap();
    damaged[40] ^= 1;
    fs::write(&last, &damaged).unwrap();
    assert!(matches!(
        open(&folder),
        Err(OpenError::Corrupt { offset: 0, .. })
    ));
    assert_eq!(fs::read(&last).unwrap(), damaged);
}

#[tokio::test]
async fn a_snapshot_without_its_first_segment_is_refused() {
    let folder = store_with_records(3).await;
    let (store, _) = open(&folder).unwrap();
    record(&store, 4, "before.example").await;
    store.snapshot().unwrap();
    record(&store, 5, "after.example").await;
    drop(store);
    for segment in files(&folder, "journal") {
        fs::remove_file(segment).unwrap();
    }
    assert!(matches!(
        open(&folder),
        Err(OpenError::Corrupt { offset: 0, .. })
    ));
}

#[tokio::test]
async fn segments_may_fill_while_a_snapshot_begins() {
    let folder = tempfile::tempdir().unwrap();
    let small = EmbeddedOptions {
        segment_bytes: 512,
        snapshot_after_bytes: u64::MAX,
        ..LARGE
    };
    let (store, _) = open_with(&folder, small).unwrap();
    let store = Arc::new(store);
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let snapshots = std::thread::spawn({
        let (store, done, folder) = (
            Arc::clone(&store),
            Arc::clone(&done),
            folder.path().to_owned(),
        );
        move || {
            // Every snapshot has to fit the segment behind it; only the last one would show when
            // the store is opened, so look at the files of each.
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                store.snapshot().unwrap();
                check_newest_snapshot(&folder);
            }
        }
    });
    for sequence in 1..=30_000 {
        record(&store, sequence, &format!("d{}.example", sequence % 50)).await;
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    snapshots.join().unwrap();
    drop(store);
    let (store, _) = open_with(&folder, small).unwrap();
    assert_eq!(store.totals().await.unwrap().delivered, 30_000);
}

/// The snapshot says behind which record its first segment begins; the record that stands there
/// first has to be the next one.
fn check_newest_snapshot(folder: &Path) {
    let (start, segment) = newest_snapshot_start(folder);
    // A frame: length (4), checksum (4), number (8).
    if let Some(record) = fs::read(segment).unwrap().get(48..64)
        && number(&record[8..]) > 0
    {
        assert_eq!(number(&record[8..]), start + 1);
    }
}

/// The number of the last record before the newest snapshot's first segment, and that segment.
fn newest_snapshot_start(folder: &Path) -> (u64, PathBuf) {
    let snapshot = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("snapshot-"))
        .max()
        .unwrap();
    let bytes = fs::read(folder.join(&snapshot)).unwrap();
    let segment = snapshot
        .replace("snapshot", "journal")
        .replace(".bin", ".log");
    // Behind the header (48 bytes) and the head of the first block (13).
    (number(&bytes[61..]), folder.join(segment))
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().unwrap())
}

async fn page(store: &Embedded, after: Option<Cursor>) -> Page {
    let request = PageRequest {
        verdict: None,
        after,
        limit: NonZeroU16::new(900).unwrap(),
    };
    store.page(&request).await.unwrap()
}

#[tokio::test]
async fn a_cursor_leads_on_after_a_replay_and_after_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&folder).unwrap();
    for sequence in 1..=40u64 {
        let mut changes = Changes::default();
        for number in 0..500 {
            let name = format!("d{}.example", (sequence * 300 + number) * 7_919 % 100_000);
            changes.push(DomainName::parse(&name).unwrap().borrowed(), 1, 0);
        }
        store.record(&group(sequence, changes)).await.unwrap();
    }
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let expected = page(&store, after.clone()).await;
        if all.len() == 2 {
            store.snapshot().unwrap();
        }
        drop(store);
        store = open(&folder).unwrap().0;
        assert_eq!(page(&store, after).await, expected);
        all.push(expected.domains);
        after = expected.next;
        if after.is_none() {
            break;
        }
    }
    let mut names: Vec<_> = all.concat().into_iter().map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    assert!(all.len() > 5);
    assert_eq!(names.len() as u64, store.totals().await.unwrap().domains);
}

#[tokio::test]
async fn the_journal_stays_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let small = EmbeddedOptions {
        segment_bytes: 2_048,
        snapshot_after_bytes: 8_192,
        ..LARGE
    };
    let (store, _) = open_with(&folder, small).unwrap();
    let mut sequence = 0;
    // The keeper works beside; go on until it has replaced the first segment by a snapshot.
    let first = folder.path().join(format!("journal-{:020}.log", 1));
    while first.exists() {
        sequence += 1;
        assert!(sequence < 1_000_000, "no snapshot was taken");
        record(&store, sequence, &format!("d{}.example", sequence % 50)).await;
    }
    drop(store);
    let (store, opened) = open_with(&folder, small).unwrap();
    assert_eq!(opened.domains, sequence.min(50));
    assert_eq!(store.totals().await.unwrap().delivered, sequence);
}

#[tokio::test]
async fn opening_tells_when_the_last_record_was_formed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(&folder).unwrap();
    // A clock that ran ahead for a while, and was set right.
    for (sequence, formed_at) in [(1, 5_000), (2, 9_000), (3, 7_000)] {
        let group = Group {
            formed_at: UnixSeconds::from(formed_at),
            ..group(
                sequence,
                Changes::event(DomainName::parse("a.example").unwrap(), EventKind::Bounced),
            )
        };
        store.record(&group).await.unwrap();
    }
    drop(store);
    let (_, opened) = open(&folder).unwrap();
    assert_eq!(opened.newest, Some(UnixSeconds::from(7_000)));
}
