//! Events add up: within a member, over the members of a group, over groups.

use std::{collections::BTreeMap, sync::Arc};

use business::{
    email_domains::model::{Member, Outcome, Seen},
    kernel::UnixSeconds,
};

use super::{
    Subject,
    driver::{NOW, Store, group, group_at, marked, member, name},
};

/// A domain that stands twice in a member counts twice.
pub async fn a_domain_named_twice_in_a_member_adds_up(subject: Subject) {
    let store = Store::of(&subject);
    store
        .count(&[
            ("a.example", 2, 0),
            ("b.example", 1, 0),
            ("a.example", 1, 3),
        ])
        .await;
    assert_eq!(store.counts("a.example").await, (3, 3));
    assert_eq!(store.counts("b.example").await, (1, 0));
}

/// So does one that stands in two members.
pub async fn the_members_of_a_group_add_up(subject: Subject) {
    let store = Store::of(&subject);
    let group = group([
        member(&[("a.example", 1, 0), ("b.example", 0, 1)]),
        member(&[("b.example", 2, 0)]),
        member(&[("c.example", 0, 1), ("a.example", 1, 1)]),
    ]);
    let recorded = store.record(&group).await;
    assert_eq!(recorded.outcomes[..], [Outcome::Counted; 3]);
    assert_eq!(store.counts("a.example").await, (2, 1));
    assert_eq!(store.counts("b.example").await, (2, 1));
    assert_eq!(store.counts("c.example").await, (0, 1));
}

/// And one that stands in two groups.
pub async fn groups_add_up(subject: Subject) {
    let store = Store::of(&subject);
    for _ in 0..3 {
        store
            .count(&[("a.example", 1, 0), ("b.example", 2, 1)])
            .await;
    }
    store.count(&[("b.example", 0, 1)]).await;
    assert_eq!(store.counts("a.example").await, (3, 0));
    assert_eq!(store.counts("b.example").await, (6, 4));
    let totals = store.totals().await;
    assert_eq!((totals.delivered, totals.bounced), (9, 4));
}

/// Counts are 64 bits wide, in a group and in the store.
pub async fn counts_pass_32_bits(subject: Subject) {
    let store = Store::of(&subject);
    let most = u32::MAX;
    let large = group([
        member(&[("a.example", most, most), ("a.example", most, 0)]),
        member(&[("a.example", most, most)]),
    ]);
    store.record(&large).await;
    store.record(&large).await;
    let most = u64::from(most);
    assert_eq!(store.counts("a.example").await, (6 * most, 4 * most));
    let totals = store.totals().await;
    assert_eq!((totals.delivered, totals.bounced), (6 * most, 4 * most));
}

/// A group without members is recorded, and changes nothing.
pub async fn a_group_without_members_is_fine(subject: Subject) {
    let store = Store::of(&subject);
    store.count(&[("a.example", 1, 0)]).await;
    let before = store.tally("a.example").await;
    let recorded = store.record(&group([])).await;
    assert!(recorded.outcomes.is_empty() && recorded.verdict_changes.is_empty());
    assert_eq!(store.tally("a.example").await, before);
}

/// A member without changes counts, and changes nothing; its neighbours count too.
pub async fn a_member_without_changes_is_fine(subject: Subject) {
    let store = Store::of(&subject);
    let recorded = store.record(&group([member(&[])])).await;
    assert_eq!(recorded.outcomes[..], [Outcome::Counted]);
    assert_eq!(store.totals().await.domains, 0);

    let group = group([member(&[]), member(&[("a.example", 1, 0)]), member(&[])]);
    let recorded = store.record(&group).await;
    assert_eq!(recorded.outcomes[..], [Outcome::Counted; 3]);
    assert_eq!(store.counts("a.example").await, (1, 0));
}

/// 10,000 members with 50,000 changes of 7,000 domains, one member in three with a mark.
pub async fn a_large_group_is_applied_whole(subject: Subject) {
    const MEMBERS: u32 = 10_000;
    const CHANGES: u32 = 5;
    const DOMAINS: u32 = 7_000;

    let mut expected: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let members: Vec<Arc<Member>> = (0..MEMBERS)
        .map(|number| {
            let changes: Vec<_> = (0..CHANGES)
                .map(|change| {
                    let domain = (number * CHANGES + change) * 31 % DOMAINS;
                    let bounced = u32::from(domain.is_multiple_of(10));
                    (format!("d{domain}.example"), 1 + number % 3, bounced)
                })
                .collect();
            for (domain, delivered, bounced) in &changes {
                let sums = expected.entry(domain.clone()).or_default();
                sums.0 += u64::from(*delivered);
                sums.1 += u64::from(*bounced);
            }
            let borrowed: Vec<_> = changes
                .iter()
                .map(|(domain, delivered, bounced)| (domain.as_str(), *delivered, *bounced))
                .collect();
            if number.is_multiple_of(3) {
                marked((number.into(), 7), &borrowed)
            } else {
                member(&borrowed)
            }
        })
        .collect();

    let store = Store::of(&subject);
    let recorded = store.record(&group(members)).await;
    assert!(
        recorded
            .outcomes
            .iter()
            .all(|outcome| *outcome == Outcome::Counted)
    );

    let domains: Vec<_> = expected.keys().map(|domain| name(domain)).collect();
    let found: Vec<_> = store
        .tallies(&domains)
        .await
        .iter()
        .map(|tally| (tally.delivered, tally.bounced))
        .collect();
    let sums: Vec<_> = expected.into_values().collect();
    assert!(
        found == sums,
        "some of a large group is missing or too much"
    );

    let totals = store.totals().await;
    assert_eq!(totals.domains, u64::from(DOMAINS));
    assert_eq!(totals.delivered, sums.iter().map(|sum| sum.0).sum::<u64>());
    assert_eq!(totals.bounced, sums.iter().map(|sum| sum.1).sum::<u64>());
}

/// First and last seen are the earliest and the latest time of the groups, in whatever order
/// these come.
pub async fn first_and_last_seen_come_from_the_group(subject: Subject) {
    let store = Store::of(&subject);
    for (time, first, last) in [
        (NOW, NOW, NOW),
        (NOW + 50, NOW, NOW + 50),
        (NOW + 20, NOW, NOW + 50),
        (NOW - 30, NOW - 30, NOW + 50),
        (NOW, NOW - 30, NOW + 50),
    ] {
        let group = group_at(
            time,
            [
                member(&[("a.example", 1, 0)]),
                member(&[("a.example", 0, 1)]),
            ],
        );
        store.record(&group).await;
        let seen = store.tally("a.example").await.seen;
        let expected = Seen {
            first: UnixSeconds::from(first),
            last: UnixSeconds::from(last),
        };
        assert_eq!(seen, Some(expected), "after a group of {time}");
    }
    // Only what is in the group is seen.
    store
        .record(&group_at(NOW + 90, [member(&[("b.example", 1, 0)])]))
        .await;
    let seen = store.tally("b.example").await.seen;
    assert_eq!(seen, Some(Seen::at(UnixSeconds::from(NOW + 90))));
    let seen = store.tally("a.example").await.seen.expect("it was seen");
    assert_eq!(seen.last, UnixSeconds::from(NOW + 50));
}

/// The first and the last moment there are: neither of them means "never".
pub async fn the_ends_of_time_are_kept(subject: Subject) {
    let store = Store::of(&subject);
    for (domain, time) in [("first.example", 0), ("last.example", u32::MAX)] {
        store
            .record(&group_at(time, [member(&[(domain, 1, 0)])]))
            .await;
        let seen = store.tally(domain).await.seen;
        assert_eq!(seen, Some(Seen::at(UnixSeconds::from(time))), "{domain}");
    }
}
