//! Marks over restarts and snapshots.

use super::*;

/// Records marks of these numbers, half of them with stamps, in groups of a thousand; says how many
/// count.
async fn mark(store: &Embedded, numbers: std::ops::Range<u32>, formed_at: u32) -> usize {
    let mut counted = 0;
    for first in numbers.clone().step_by(1_000) {
        let members = (first..numbers.end.min(first + 1_000)).map(|number| {
            let key = Key {
                hash: u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835),
                stamped_at: (number % 2 == 0).then(|| (number / 1_000 + 1).into()),
            };
            let name = DomainName::parse("a.example").unwrap();
            Arc::new(Member {
                mark: Some(Mark {
                    key,
                    fingerprint: number.into(),
                }),
                changes: Changes::event(name, EventKind::Delivered),
            })
        });
        let group = Group {
            id: None,
            formed_at: formed_at.into(),
            members: members.collect(),
        };
        let outcomes = store.record(&group).await.unwrap().outcomes;
        counted += outcomes.iter().filter(|o| **o == Outcome::Counted).count();
    }
    counted
}

/// What is forgotten stays forgotten, in the journal and in a snapshot of several pieces, and also when
/// more is to be remembered from then on.
#[tokio::test]
async fn marks_are_forgotten_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let few = |max_count| EmbeddedOptions {
        marks: MarkLimits {
            window_s: NonZeroU32::MAX,
            max_count: NonZeroU32::new(max_count).unwrap(),
        },
        ..LARGE
    };
    let (mut store, _) = open_with(&folder, few(10_000)).unwrap();
    assert_eq!(mark(&store, 0..30_000, 100).await, 30_000);
    let memory = store.probe().await.unwrap().memory;
    assert_eq!(memory.forgotten_through, 100.into());
    // 20,480 are gone: five chunks, of which the last stamp is of 20,478.
    assert_eq!(memory.forgotten_stamp, 21.into());
    for snapshot in [false, true] {
        if snapshot {
            store.snapshot().unwrap();
        }
        drop(store);
        // From the snapshot, with room for all.
        let max_count = if snapshot { 1_000_000 } else { 10_000 };
        (store, _) = open_with(&folder, few(max_count)).unwrap();
        assert_eq!(store.probe().await.unwrap().memory, memory, "{snapshot}");
        assert_eq!(mark(&store, 22_000..30_000, 100).await, 0, "{snapshot}");
    }
    assert_eq!(get(&store, "a.example").await.delivered, 30_000);
    // With a stamp it is refused, and without one it counts again.
    assert_eq!(mark(&store, 0..1_000, 200).await, 500);
    assert_eq!(mark(&store, 0..1_000, 200).await, 0);
    drop(store);
    let (store, _) = open_with(&folder, few(5_000)).unwrap();
    assert_eq!(mark(&store, 0..1_000, 300).await, 0);
    assert_eq!(mark(&store, 29_000..30_000, 300).await, 0);
}
