//! A read shows what was recorded, and nothing else.

use std::collections::BTreeMap;

use business::email_domains::{
    model::Tally,
    ports::{Freshness, Page, Totals},
    verdict::{Verdict, VerdictPolicy},
};

use super::{
    Subject,
    driver::{Store, group, marked, member, name, names},
};

/// Nothing recorded: every domain is zero, the totals are, and the list is empty.
pub async fn an_empty_store_is_zero_everywhere(subject: Subject) {
    let store = Store::of(&subject);
    for freshness in [Freshness::Latest, Freshness::Cached] {
        for count in [0, 1, 300] {
            let domains: Vec<_> = (0..count).map(|n| name(&format!("d{n}.example"))).collect();
            let tallies = store.get(&domains, freshness).await;
            assert!(tallies.iter().all(|tally| *tally == Tally::ZERO));
        }
    }
    assert_eq!(store.totals().await, Totals::default());
    for verdict in [None].into_iter().chain(Verdict::ALL.map(Some)) {
        assert_eq!(store.page(verdict, None, 10).await, Page::default());
    }
}

/// To ask for a domain does not make it one that was seen.
pub async fn asking_leaves_no_trace(subject: Subject) {
    let store = Store::of(&subject);
    store.tally("a.example").await;
    assert_eq!(store.totals().await, Totals::default());
    assert_eq!(store.list(None, 10).await, []);
}

/// The answers stand in the order of the questions, repeats and unseen domains included.
pub async fn answers_keep_the_order_of_the_questions(subject: Subject) {
    let store = Store::of(&subject);
    store
        .count(&[
            ("a.example", 1, 0),
            ("b.example", 2, 0),
            ("c.example", 3, 0),
        ])
        .await;
    for (questions, answers) in [
        (vec![], vec![]),
        (vec!["b.example"], vec![2]),
        (vec!["c.example", "a.example", "b.example"], vec![3, 1, 2]),
        (
            vec![
                "b.example",
                "unseen.example",
                "a.example",
                "b.example",
                "b.example",
            ],
            vec![2, 0, 1, 2, 2],
        ),
        (vec!["unseen.example", "unseen.example"], vec![0, 0]),
    ] {
        let tallies = store.tallies(&names(questions.iter().copied())).await;
        let delivered: Vec<_> = tallies.iter().map(|tally| tally.delivered).collect();
        assert_eq!(delivered, answers, "{questions:?}");
    }
}

/// One read of 5,000 domains, of which every second was seen.
pub async fn many_domains_are_read_at_once(subject: Subject) {
    let store = Store::of(&subject);
    let all: Vec<_> = (0..5_000).map(|n| format!("d{n}.example")).collect();
    let seen: Vec<_> = (0..)
        .zip(&all)
        .filter(|(n, _)| n % 2 == 1)
        .map(|(n, domain)| (domain.as_str(), n, 0))
        .collect();
    store.count(&seen).await;
    let tallies = store.tallies(&names(all.iter().map(String::as_str))).await;
    for (n, tally) in (0..).zip(tallies) {
        let expected = if n % 2 == 1 { n } else { 0 };
        assert_eq!(tally.delivered, expected, "d{n}.example");
    }
}

/// What `record` has returned from is there for everyone who asks next, by every way to ask.
pub async fn a_read_shows_what_was_recorded(subject: Subject) {
    let store = Store::of(&subject);
    for count in 1..=100 {
        store.count(&[("a.example", 1, 0)]).await;
        let reader = store.clone();
        let (tally, totals, page) = tokio::spawn(async move {
            (
                reader.tally("a.example").await,
                reader.totals().await,
                reader.page(None, None, 10).await,
            )
        })
        .await
        .expect("the reader finishes");
        assert_eq!(tally.delivered, count);
        assert_eq!(totals.delivered, count);
        let listed: Vec<_> = page
            .domains
            .iter()
            .map(|(_, tally)| tally.delivered)
            .collect();
        assert_eq!(listed, [count]);
    }
}

/// A cache may be behind, but it does not fail, and shows nothing that was never so.
pub async fn a_cached_read_may_only_be_behind(subject: Subject) {
    let store = Store::of(&subject);
    let domains = names(["unseen.example", "a.example", "a.example"]);
    for count in 1..=20 {
        store.count(&[("a.example", 1, 0)]).await;
        let tallies = store.get(&domains, Freshness::Cached).await;
        for (domain, tally) in domains.iter().zip(tallies) {
            let most = if domain.as_str() == "a.example" {
                count
            } else {
                0
            };
            assert!(tally.delivered <= most, "{domain}: {tally:?}");
            assert_eq!(tally.bounced, 0, "{domain}");
            assert_eq!(tally.seen.is_some(), tally.delivered > 0, "{domain}");
        }
    }
}

/// The totals are the sums over the pages, by verdict too: after verdicts that went from one to
/// the next, after duplicates, after groups that changed nothing.
pub async fn the_totals_agree_with_the_pages(subject: Subject) {
    let store = Store::of(&subject);
    let policy = subject.policy;
    let enough = u32::try_from(policy.threshold()).expect("the suite needs a small threshold");
    let duplicate = [marked((1, 10), &[("marked.example", enough, 0)])];
    for changes in [
        &[
            ("a.example", 1, 0),
            ("b.example", 0, 1),
            ("c.example", enough, 0),
        ][..],
        &[("a.example", enough, 0)],
        &[("a.example", 0, 2), ("d.example", enough - 1, 0)],
        &[("d.example", 1, 0), ("e.example", enough, 1)],
        &[("c.example", 1, 0), ("b.example", 1, 1)],
        &[("c.example", 0, 1), ("f.example", 1, 0)],
        &[],
    ] {
        store
            .record(&group(duplicate.iter().cloned().chain([member(changes)])))
            .await;
        assert_totals_agree(&store, policy).await;
    }
    let expected = Totals {
        delivered: 5 * u64::from(enough) + 4,
        bounced: 6,
        domains: 7,
        catch_all: 2,
        not_catch_all: 4,
    };
    assert_eq!(store.totals().await, expected);
}

/// A store knows which one it is.
pub async fn the_store_says_which_one_it_is(subject: Subject) {
    let store = Store::of(&subject);
    let id = store.store_id().await;
    assert_eq!(store.store_id().await, id);
    store.count(&[("a.example", 1, 0)]).await;
    assert_eq!(store.store_id().await, id);
}

/// Holds the totals against all pages, and the pages of each verdict against the rule.
pub(crate) async fn assert_totals_agree(store: &Store, policy: VerdictPolicy) {
    let all = store.list(None, 100).await;
    let count = all.len() as u64;
    let tallies: BTreeMap<_, _> = all.into_iter().collect();
    assert_eq!(tallies.len() as u64, count, "every domain is listed once");

    let of = |verdict| {
        let verdicts = tallies.values().map(|tally| policy.verdict(tally));
        verdicts.filter(|found| *found == verdict).count() as u64
    };
    let sums = Totals {
        delivered: tallies.values().map(|tally| tally.delivered).sum(),
        bounced: tallies.values().map(|tally| tally.bounced).sum(),
        domains: count,
        catch_all: of(Verdict::CatchAll),
        not_catch_all: of(Verdict::NotCatchAll),
    };
    assert_eq!(store.totals().await, sums);

    for verdict in Verdict::ALL {
        let mut listed = store.list(Some(verdict), 100).await;
        listed.sort_by(|(a, _), (b, _)| a.cmp(b));
        let expected: Vec<_> = tallies
            .iter()
            .filter(|(_, tally)| policy.verdict(tally) == verdict)
            .map(|(domain, tally)| (domain.clone(), *tally))
            .collect();
        assert_eq!(listed, expected, "the list of {verdict:?}");
    }
}
