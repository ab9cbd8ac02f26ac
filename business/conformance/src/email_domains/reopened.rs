//! Everything holds when a durable store is closed and opened again.

use business::email_domains::{
    model::Outcome::{Counted, Duplicate, Mismatch},
    ports::Totals,
    verdict::Verdict::{self, CatchAll, Unknown},
};

use super::{
    Reopenable,
    driver::{Store, group, group_of, marked, member, name, told},
    model_check::{Groups, Run},
    paging::fill,
};

/// An empty store is the same empty store afterwards.
pub async fn an_empty_store_stays_itself(mut stored: impl Reopenable) {
    let store = Store::of(stored.subject());
    let id = store.store_id().await;
    let store = reopen(store, &mut stored).await;
    assert_eq!(store.store_id().await, id);
    assert_eq!(store.totals().await, Totals::default());
    store.count(&[("a.example", 1, 0)]).await;
    let store = reopen(store, &mut stored).await;
    assert_eq!(store.store_id().await, id);
    assert_eq!(store.counts("a.example").await, (1, 0));
}

/// Tallies with their times, totals, the list: to the last bit, and again and again.
pub async fn tallies_and_totals_are_kept(mut stored: impl Reopenable) {
    let mut store = Store::of(stored.subject());
    for round in 0..4 {
        fill(&store, 40 + round).await;
        let domains = [
            name("d0.example"),
            name("d2.example"),
            name("unseen.example"),
        ];
        let before = (
            store.tallies(&domains).await,
            store.totals().await,
            store.list(None, 7).await,
        );
        store = reopen(store, &mut stored).await;
        let after = (
            store.tallies(&domains).await,
            store.totals().await,
            store.list(None, 7).await,
        );
        assert_eq!(before, after, "round {round}");
    }
}

/// A request that was counted before is a duplicate afterwards.
pub async fn marks_are_kept(mut stored: impl Reopenable) {
    let mut store = Store::of(stored.subject());
    let original = group([
        marked((1, 10), &[("a.example", 1, 0)]),
        marked((2, 20), &[]),
    ]);
    let other = group([
        marked((1, 11), &[("a.example", 1, 0)]),
        marked((2, 21), &[]),
    ]);
    assert_eq!(store.record(&original).await.outcomes[..], [Counted; 2]);
    for _ in 0..2 {
        store = reopen(store, &mut stored).await;
        assert_eq!(store.record(&original).await.outcomes[..], [Duplicate; 2]);
        assert_eq!(store.record(&other).await.outcomes[..], [Mismatch; 2]);
        assert_eq!(store.counts("a.example").await, (1, 0));
    }
}

/// The event that reaches the threshold may come in another life.
pub async fn verdicts_go_on(mut stored: impl Reopenable) {
    let mut store = Store::of(stored.subject());
    let threshold = stored.subject().policy.threshold();
    for delivered in 1..=threshold + 1 {
        let recorded = store.count(&[("a.example", 1, 0)]).await;
        let expected = if delivered == threshold {
            vec![("a.example".to_owned(), Unknown, CatchAll)]
        } else {
            vec![]
        };
        assert_eq!(told(&recorded), expected, "after {delivered} delivered");
        store = reopen(store, &mut stored).await;
    }
}

/// Who was on his way through the pages goes on where he was, without and with new domains.
pub async fn cursors_are_good_for_the_next_life(mut stored: impl Reopenable) {
    let mut store = Store::of(stored.subject());
    let policy = stored.subject().policy;
    let expected = fill(&store, 60).await;
    for verdict in [None, Some(Verdict::NotCatchAll)] {
        let first = store.page(verdict, None, 7).await;
        store = reopen(store, &mut stored).await;
        store
            .count(&[("0.new.example", 1, 0), ("z.new.example", 1, 0)])
            .await;
        let second = match first.next {
            None => vec![],
            after => store.list_after(after, verdict, 7).await,
        };
        let listed: Vec<_> = first.domains.into_iter().chain(second).collect();
        for (domain, tally) in &expected {
            if verdict.is_none_or(|verdict| verdict == policy.verdict(tally)) {
                let times = listed.iter().filter(|(listed, _)| listed == domain);
                assert_eq!(times.count(), 1, "{domain}, {verdict:?}");
            }
        }
    }
}

/// A random run with restarts agrees with the model.
pub async fn a_random_run_with_restarts_agrees_with_the_model(stored: impl Reopenable) {
    run_with_restarts(stored, Groups::FormedBelow).await;
}

/// A group whose writer never had its answer is recorded again, counts once, and is answered as
/// the first time; the writer's next group counts.
pub async fn group_ids_are_kept(mut stored: impl Reopenable) {
    let mut store = Store::of(stored.subject());
    store
        .record(&group([marked((1, 10), &[("a.example", 1, 0)])]))
        .await;
    let mixed = group_of(
        7,
        3,
        [
            marked((2, 20), &[("a.example", 0, 1)]),
            marked((1, 10), &[("a.example", 1, 0)]),
            marked((1, 11), &[("a.example", 1, 0)]),
            member(&[("a.example", 1, 0)]),
        ],
    );
    let plain = group_of(8, 3, [member(&[("a.example", 1, 0)])]);
    let empty = group_of(9, 0, []);
    let first = [&mixed, &plain, &empty];
    for group in first {
        store.record(group).await;
    }
    for _ in 0..2 {
        store = reopen(store, &mut stored).await;
        let recorded = store.record(&mixed).await;
        let expected = [Counted, Duplicate, Mismatch, Counted];
        assert_eq!(recorded.outcomes[..], expected);
        assert_eq!(told(&recorded), []);
        assert_eq!(store.record(&plain).await.outcomes[..], [Counted]);
        assert!(store.record(&empty).await.outcomes.is_empty());
        assert_eq!(store.counts("a.example").await, (3, 1));
    }
    for writer in [7, 8, 9] {
        store
            .record(&group_of(writer, 4, [member(&[("a.example", 1, 0)])]))
            .await;
    }
    assert_eq!(store.counts("a.example").await, (6, 1));
}

/// A random run with restarts, ids, repeats over restarts, and times.
pub async fn a_random_run_with_ids_and_restarts_agrees_with_the_model(stored: impl Reopenable) {
    run_with_restarts(stored, Groups::TakenAsTheyAre).await;
}

async fn run_with_restarts(mut stored: impl Reopenable, groups: Groups) {
    let mut store = Store::of(stored.subject());
    let mut run = Run::new(stored.subject().policy, groups);
    for _ in 0..10 {
        run.steps(&store, 30).await;
        store = reopen(store, &mut stored).await;
        run.compare_all(&store).await;
    }
}

/// Lets go of the store, closes it and opens it again.
async fn reopen(store: Store, stored: &mut impl Reopenable) -> Store {
    drop(store);
    stored.reopen().await;
    Store::of(stored.subject())
}
