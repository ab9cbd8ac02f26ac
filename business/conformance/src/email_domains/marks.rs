//! A mark counts the first time it is met: the caller may send the same request again.

use business::email_domains::model::{
    Outcome::{Counted, Duplicate, Expired, Mismatch},
    Tally,
};

use super::{
    Subject, WINDOW_S,
    driver::{NOW, Store, group, group_at, group_of, marked, member, names, stamped},
};

/// The second and third time it is a duplicate, whatever stands beside it.
pub async fn a_mark_counts_once(subject: Subject) {
    let store = Store::of(&subject);
    let request = marked((1, 10), &[("a.example", 2, 1)]);
    for (outcome, others) in [(Counted, 1), (Duplicate, 2), (Duplicate, 3)] {
        let recorded = store
            .record(&group([member(&[("b.example", 1, 0)]), request.clone()]))
            .await;
        assert_eq!(recorded.outcomes[..], [Counted, outcome]);
        assert_eq!(store.counts("a.example").await, (2, 1));
        assert_eq!(store.counts("b.example").await, (others, 0));
    }
}

/// The same key for something else is a mismatch, and neither counts nor takes over the key.
pub async fn another_payload_is_a_mismatch(subject: Subject) {
    let store = Store::of(&subject);
    let original = group([marked((1, 10), &[("a.example", 1, 0)])]);
    let other = group([marked((1, 11), &[("b.example", 1, 0)])]);
    assert_eq!(store.record(&original).await.outcomes[..], [Counted]);
    for _ in 0..2 {
        assert_eq!(store.record(&other).await.outcomes[..], [Mismatch]);
    }
    assert_eq!(store.record(&original).await.outcomes[..], [Duplicate]);
    assert_eq!(store.counts("a.example").await, (1, 0));
    assert_eq!(store.counts("b.example").await, (0, 0));
}

/// All of this holds within one group, where the earlier member wins, and against the store.
pub async fn marks_hold_within_a_group(subject: Subject) {
    let store = Store::of(&subject);
    store
        .record(&group([marked((9, 90), &[("a.example", 1, 0)])]))
        .await;
    let recorded = store
        .record(&group([
            marked((1, 10), &[("a.example", 1, 0)]),
            marked((1, 10), &[("a.example", 1, 0)]),
            marked((1, 11), &[("a.example", 0, 1)]),
            marked((2, 10), &[("a.example", 1, 0)]),
            marked((9, 90), &[("a.example", 1, 0)]),
            marked((9, 91), &[("a.example", 0, 1)]),
            member(&[("a.example", 1, 0)]),
            marked((1, 10), &[("a.example", 1, 0)]),
        ]))
        .await;
    assert_eq!(
        recorded.outcomes[..],
        [
            Counted, Duplicate, Mismatch, Counted, Duplicate, Mismatch, Counted, Duplicate
        ]
    );
    assert_eq!(store.counts("a.example").await, (4, 0));
}

/// A group in which nothing is new changes nothing at all.
pub async fn duplicates_alone_change_nothing(subject: Subject) {
    let store = Store::of(&subject);
    let changes = [("a.example", 1, 0), ("b.example", 0, 2)];
    let original = [marked((1, 10), &changes), marked((2, 20), &changes)];
    store.record(&group_at(NOW, original.clone())).await;
    let domains = names(["a.example", "b.example"]);
    let (tallies, totals) = (store.tallies(&domains).await, store.totals().await);

    let mismatch = marked((2, 21), &[("a.example", 1, 0), ("c.example", 1, 0)]);
    let again = original.into_iter().chain([mismatch]);
    let recorded = store.record(&group_at(NOW + 60, again)).await;
    assert_eq!(recorded.outcomes[..], [Duplicate, Duplicate, Mismatch]);
    assert_eq!(recorded.verdict_changes, []);
    assert_eq!(store.tallies(&domains).await, tallies);
    assert_eq!(store.totals().await, totals);
    assert_eq!(store.tally("c.example").await, Tally::ZERO);
}

/// A request that adds nothing uses its mark all the same.
pub async fn a_mark_without_changes_is_used(subject: Subject) {
    let store = Store::of(&subject);
    let empty = group([marked((1, 10), &[])]);
    let other = group([marked((1, 11), &[("a.example", 1, 0)])]);
    assert_eq!(store.record(&empty).await.outcomes[..], [Counted]);
    assert_eq!(store.record(&empty).await.outcomes[..], [Duplicate]);
    assert_eq!(store.record(&other).await.outcomes[..], [Mismatch]);
    assert_eq!(store.counts("a.example").await, (0, 0));
}

/// Keys and fingerprints are kept to the last bit.
pub async fn marks_are_kept_to_the_last_bit(subject: Subject) {
    let store = Store::of(&subject);
    let keys = [0, 1, 1 << 64, (1 << 64) + 1, 1 << 127, u128::MAX];
    let fingerprints = [0, 1, 1 << 32, 1 << 63, u64::MAX];
    // Each key gets another fingerprint than its neighbours.
    let marks = || keys.into_iter().zip(fingerprints.into_iter().cycle());
    for (key, fingerprint) in marks() {
        let request = group([marked((key, fingerprint), &[("a.example", 1, 0)])]);
        let recorded = store.record(&request).await;
        assert_eq!(recorded.outcomes[..], [Counted], "{key:x} {fingerprint:x}");
    }
    for (key, stored) in marks() {
        for fingerprint in fingerprints {
            let request = group([marked((key, fingerprint), &[("a.example", 1, 0)])]);
            let expected = if fingerprint == stored {
                Duplicate
            } else {
                Mismatch
            };
            let recorded = store.record(&request).await;
            assert_eq!(recorded.outcomes[..], [expected], "{key:x} {fingerprint:x}");
        }
    }
    assert_eq!(store.counts("a.example").await, (keys.len() as u64, 0));
}

/// A key that was made before the window may have counted and be forgotten, so it does not count.
/// One made within the window does, once.
pub async fn a_key_older_than_the_window_does_not_count(subject: Subject) {
    let store = Store::of(&subject);
    let oldest = NOW - WINDOW_S.get();
    let request = |hash, stamp| stamped(stamp, (hash, 10), &[("a.example", 1, 0)]);
    let members = || {
        [
            request(0, Some(0)),
            request(1, Some(oldest - 1)),
            request(2, Some(oldest)),
            request(3, Some(NOW + 200)),
            request(4, None),
        ]
    };
    let first = store.record(&group_at(NOW, members())).await;
    assert_eq!(
        first.outcomes[..],
        [Expired, Expired, Counted, Counted, Counted]
    );
    // Beside marks that are known.
    let again = store.record(&group_at(NOW, members())).await;
    assert_eq!(
        again.outcomes[..],
        [Expired, Expired, Duplicate, Duplicate, Duplicate]
    );
    assert_eq!(store.counts("a.example").await, (3, 0));
}

/// A mark is the caller's: who forms the groups does not matter.
pub async fn marks_hold_over_all_writers(subject: Subject) {
    let store = Store::of(&subject);
    let request = || [marked((1, 10), &[("a.example", 1, 0)])];
    for (group, outcome) in [
        (group_of(1, 1, request()), Counted),
        (group_of(2, 1, request()), Duplicate),
        (group_of(1, 2, request()), Duplicate),
        (group(request()), Duplicate),
    ] {
        let recorded = store.record(&group).await;
        assert_eq!(recorded.outcomes[..], [outcome], "{:?}", group.id);
    }
    assert_eq!(store.counts("a.example").await, (1, 0));
}
