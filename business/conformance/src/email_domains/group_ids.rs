//! A group that is recorded again under its id counts once, and is answered as the first time.

use business::email_domains::{
    model::Outcome::{Counted, Duplicate, Mismatch},
    verdict::Verdict::{NotCatchAll, Unknown},
};

use super::{
    Subject,
    driver::{Store, group, group_of, marked, member, told},
};

/// However often it is recorded.
pub async fn a_repeated_id_counts_once(subject: Subject) {
    let store = Store::of(&subject);
    let group = group_of(
        7,
        1,
        [
            member(&[("a.example", 2, 1)]),
            member(&[("b.example", 1, 0)]),
        ],
    );
    for _ in 0..3 {
        let recorded = store.record(&group).await;
        assert_eq!(recorded.outcomes[..], [Counted; 2]);
        assert_eq!(store.counts("a.example").await, (2, 1));
        assert_eq!(store.counts("b.example").await, (1, 0));
    }
    assert_eq!(store.totals().await.delivered, 3);
}

/// A member that counted the first time has not become a duplicate of itself; one that was a
/// duplicate or a mismatch still is.
pub async fn a_repeat_is_answered_as_the_first_time(subject: Subject) {
    let store = Store::of(&subject);
    store
        .record(&group([
            marked((1, 10), &[("a.example", 1, 0)]),
            marked((2, 20), &[("a.example", 1, 0)]),
        ]))
        .await;
    let group = group_of(
        7,
        1,
        [
            marked((3, 30), &[("a.example", 1, 0)]),
            marked((1, 10), &[("a.example", 1, 0)]),
            marked((2, 21), &[("a.example", 1, 0)]),
            member(&[("a.example", 1, 0)]),
            marked((3, 30), &[("a.example", 1, 0)]),
            marked((3, 31), &[("a.example", 1, 0)]),
        ],
    );
    let expected = [Counted, Duplicate, Mismatch, Counted, Duplicate, Mismatch];
    for _ in 0..3 {
        assert_eq!(store.record(&group).await.outcomes[..], expected);
        assert_eq!(store.counts("a.example").await, (4, 0));
    }
    // Under another id it is another group, and its marks are used.
    let recorded = store
        .record(&group_of(7, 2, group.members.iter().cloned()))
        .await;
    assert_eq!(
        recorded.outcomes[..],
        [Duplicate, Duplicate, Mismatch, Counted, Duplicate, Mismatch]
    );
}

/// A repeat causes no change of verdict, and moves neither tallies nor totals.
pub async fn a_repeat_changes_nothing(subject: Subject) {
    let store = Store::of(&subject);
    let first = group_of(7, 1, [member(&[("a.example", 0, 1)])]);
    let recorded = store.record(&first).await;
    let expected = [("a.example".to_owned(), Unknown, NotCatchAll)];
    assert_eq!(told(&recorded), expected);
    let (tally, totals) = (store.tally("a.example").await, store.totals().await);
    for _ in 0..2 {
        assert_eq!(told(&store.record(&first).await), []);
        assert_eq!(store.tally("a.example").await, tally);
        assert_eq!(store.totals().await, totals);
    }
}

/// A writer's numbers begin anywhere, zero included, and may leave some out.
pub async fn the_next_number_counts(subject: Subject) {
    let store = Store::of(&subject);
    let numbers = [0, 1, 2, 10, 11, 1 << 40];
    for (count, number) in (1..).zip(numbers) {
        let group = group_of(7, number, [member(&[("a.example", 1, 0)])]);
        for _ in 0..2 {
            let recorded = store.record(&group).await;
            assert_eq!(recorded.outcomes[..], [Counted], "number {number}");
            assert_eq!(store.counts("a.example").await, (count, 0), "{number}");
        }
    }
}

/// The same number of two writers names two groups, and each writer's last one is remembered
/// while the others go on.
pub async fn writers_have_numbers_of_their_own(subject: Subject) {
    let store = Store::of(&subject);
    let writers = [0, 1, 1 << 64, u128::MAX];
    let groups =
        |number| writers.map(|writer| group_of(writer, number, [member(&[("a.example", 1, 0)])]));
    for number in [1, 2] {
        for _ in 0..2 {
            for group in groups(number) {
                store.record(&group).await;
            }
        }
        let expected = writers.len() as u64 * number;
        assert_eq!(store.counts("a.example").await, (expected, 0));
    }
}

/// What has no id is never a repeat, also when it looks like one.
pub async fn groups_without_an_id_always_count(subject: Subject) {
    let store = Store::of(&subject);
    let anonymous = group([member(&[("a.example", 1, 0)])]);
    let named = group_of(7, 1, [member(&[("a.example", 1, 0)])]);
    for group in [
        &anonymous, &anonymous, &named, &anonymous, &named, &anonymous,
    ] {
        store.record(group).await;
    }
    assert_eq!(store.counts("a.example").await, (5, 0));
}

/// An id is used up by a group that adds nothing, too.
pub async fn groups_that_add_nothing_have_ids_too(subject: Subject) {
    let store = Store::of(&subject);
    store
        .record(&group([marked((1, 10), &[("a.example", 1, 0)])]))
        .await;
    let empty = group_of(7, 1, []);
    let duplicates = group_of(7, 2, [marked((1, 10), &[("a.example", 1, 0)])]);
    let real = group_of(7, 3, [member(&[("a.example", 1, 0)])]);
    for _ in 0..2 {
        assert!(store.record(&empty).await.outcomes.is_empty());
    }
    for _ in 0..2 {
        assert_eq!(store.record(&duplicates).await.outcomes[..], [Duplicate]);
    }
    for _ in 0..2 {
        assert_eq!(store.record(&real).await.outcomes[..], [Counted]);
    }
    assert_eq!(store.counts("a.example").await, (2, 0));
}
