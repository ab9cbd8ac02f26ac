//! A change of verdict is told once, by the group that caused it, from before the group to after.

use business::email_domains::verdict::Verdict::{CatchAll, NotCatchAll, Unknown};

use super::{
    Subject,
    driver::{Store, group, marked, member, told},
};

/// The event that reaches the threshold makes the domain a catch-all, and only that one.
pub async fn the_threshold_makes_a_catch_all(subject: Subject) {
    let store = Store::of(&subject);
    let threshold = subject.policy.threshold();
    for delivered in 1..=threshold + 3 {
        let recorded = store.count(&[("a.example", 1, 0)]).await;
        let expected = if delivered == threshold {
            vec![("a.example".to_owned(), Unknown, CatchAll)]
        } else {
            vec![]
        };
        assert_eq!(told(&recorded), expected, "after {delivered} delivered");
    }
}

/// The first bounce settles it, whatever the verdict was; nothing changes it afterwards.
pub async fn a_bounce_is_final(subject: Subject) {
    let store = Store::of(&subject);
    let enough = threshold(&subject);
    store.count(&[("catch-all.example", enough, 0)]).await;
    for (domain, from) in [
        ("unknown.example", Unknown),
        ("catch-all.example", CatchAll),
    ] {
        let recorded = store.count(&[(domain, 0, 1)]).await;
        assert_eq!(told(&recorded), [(domain.to_owned(), from, NotCatchAll)]);
        for changes in [(domain, 0, 1), (domain, enough, 0)] {
            let recorded = store.count(&[changes]).await;
            assert_eq!(told(&recorded), [], "{changes:?}");
        }
    }
}

/// What a domain was within the group is nobody's business.
pub async fn a_group_tells_where_it_began_and_ended(subject: Subject) {
    let store = Store::of(&subject);
    let enough = threshold(&subject);
    let recorded = store
        .record(&group([
            member(&[("a.example", enough, 0)]),
            member(&[("a.example", 0, 1)]),
            member(&[("a.example", enough, 0)]),
        ]))
        .await;
    let expected = [("a.example".to_owned(), Unknown, NotCatchAll)];
    assert_eq!(told(&recorded), expected);
}

/// A group tells of each domain whose verdict changed, once, and of no other.
pub async fn each_changed_domain_is_told_once(subject: Subject) {
    let store = Store::of(&subject);
    let enough = threshold(&subject);
    store
        .count(&[("bounced.example", 0, 1), ("settled.example", enough, 0)])
        .await;
    let singly = (0..enough).map(|_| member(&[("a.example", 1, 0)]));
    let rest = member(&[
        ("b.example", 0, 1),
        ("bounced.example", enough, 1),
        ("settled.example", 1, 0),
        ("too-few.example", enough - 1, 0),
        ("b.example", enough, 1),
    ]);
    let recorded = store.record(&group(singly.chain([rest]))).await;
    let expected = [
        ("a.example".to_owned(), Unknown, CatchAll),
        ("b.example".to_owned(), Unknown, NotCatchAll),
    ];
    assert_eq!(told(&recorded), expected);
}

/// What does not count changes no verdict.
pub async fn a_duplicate_changes_no_verdict(subject: Subject) {
    let store = Store::of(&subject);
    let nearly = threshold(&subject) - 1;
    let first = group([marked((1, 1), &[("a.example", nearly, 0)])]);
    assert_eq!(told(&store.record(&first).await), []);
    assert_eq!(told(&store.record(&first).await), []);
    let mismatch = group([marked((1, 2), &[("a.example", 0, 1)])]);
    assert_eq!(told(&store.record(&mismatch).await), []);
    let recorded = store.count(&[("a.example", 1, 0)]).await;
    let expected = [("a.example".to_owned(), Unknown, CatchAll)];
    assert_eq!(told(&recorded), expected);
}

fn threshold(subject: &Subject) -> u32 {
    u32::try_from(subject.policy.threshold()).expect("the suite needs a small threshold")
}
