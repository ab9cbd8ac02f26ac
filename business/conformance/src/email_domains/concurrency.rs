//! Many write and read at once, and nothing is lost, doubled, or answered before its time.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use business::email_domains::{
    model::{
        Group, Member,
        Outcome::{self, Counted, Duplicate, Expired, Mismatch, Spooled},
    },
    verdict::{
        Verdict::{CatchAll, Unknown},
        VerdictPolicy,
    },
};
use tokio::{sync::Barrier, task::JoinSet};

use super::{
    Subject,
    driver::{Store, group, group_of, marked, member, name, told},
};

const WRITERS: u32 = 64;
const GROUPS: u32 = 8;
const READERS: u32 = 4;
/// Few, so that the writers meet.
const DOMAINS: u32 = 6;
/// How many send the same request at once.
const SENDERS: u32 = 32;

/// How the groups of many tasks are named: a task's number, the number of its group, its members.
type Naming = fn(u32, u32, Vec<Arc<Member>>) -> Group;

fn without_id(_: u32, _: u32, members: Vec<Arc<Member>>) -> Group {
    group(members)
}

fn own_writer(task: u32, number: u32, members: Vec<Arc<Member>>) -> Group {
    group_of(task.into(), number.into(), members)
}

/// 64 writers on the same few domains lose nothing. Who reads meanwhile sees counts that never go
/// down, hold all that was acknowledged when the read began, and nothing that nobody wrote.
pub async fn many_writers_lose_nothing(subject: Subject) {
    writers_lose_nothing(&Store::of(&subject), without_id).await;
}

/// The same, each writer with groups of its own id.
pub async fn many_writers_with_ids_lose_nothing(subject: Subject) {
    writers_lose_nothing(&Store::of(&subject), own_writer).await;
}

/// Of many who send the same request at once, one is counted; the others are told so only when
/// the count is there.
pub async fn of_the_same_requests_one_counts(subject: Subject) {
    same_requests(&Store::of(&subject), without_id).await;
}

/// The same, each sent through a writer of its own.
pub async fn of_the_same_requests_through_many_writers_one_counts(subject: Subject) {
    same_requests(&Store::of(&subject), own_writer).await;
}

/// Of many who use one key for different requests at once, one is counted.
pub async fn of_the_requests_under_one_key_one_counts(subject: Subject) {
    let store = Store::of(&subject);
    let outcomes = all_at_once(&store, |task| {
        let name = format!("d{task}.example");
        group([marked((1, task.into()), &[(&name, 1, 0)])])
    })
    .await;
    let counted = outcomes.iter().filter(|outcome| **outcome == Counted);
    assert_eq!(counted.count(), 1, "{outcomes:?}");
    for (task, outcome) in outcomes.iter().enumerate() {
        let expected = match outcome {
            Counted => 1,
            Mismatch => 0,
            Duplicate => panic!("no two of the requests are the same"),
            Expired => panic!("the keys do not say when they were made"),
            Spooled => panic!("the store is not away"),
        };
        assert_eq!(store.counts(&format!("d{task}.example")).await.0, expected);
    }
    assert_eq!(store.totals().await.delivered, 1);
}

/// Of many groups that together reach the threshold, one is told so, and nobody is told
/// otherwise.
pub async fn one_group_is_told_of_a_new_verdict(subject: Subject) {
    let times = told_of_catch_all(&Store::of(&subject), subject.policy, own_writer).await;
    assert!(times.iter().all(|times| *times == 1), "{times:?}");
}

/// The same where several requests may be put in one group, each of which is told.
pub async fn somebody_is_told_of_a_new_verdict(subject: Subject) {
    let times = told_of_catch_all(&Store::of(&subject), subject.policy, without_id).await;
    assert!(times.iter().all(|times| *times >= 1), "{times:?}");
}

/// A group that is recorded again while the first call still runs counts once. One of the calls
/// is told of the change of verdict.
pub async fn an_id_recorded_many_times_at_once_counts_once(subject: Subject) {
    const CALLS: usize = 8;
    let store = Store::of(&subject);
    for number in 1..=10 {
        let domain = format!("d{number}.example");
        let changes = [(domain.as_str(), 0, 1)];
        let group = group_of(
            7,
            number,
            [member(&changes), marked((number.into(), 1), &changes)],
        );
        let (group, start) = (Arc::new(group), Arc::new(Barrier::new(CALLS)));
        let mut calls = JoinSet::new();
        for _ in 0..CALLS {
            let (store, group, start) = (store.clone(), Arc::clone(&group), Arc::clone(&start));
            calls.spawn(async move {
                start.wait().await;
                store.record(&group).await
            });
        }
        let mut changes = 0;
        while let Some(recorded) = calls.join_next().await {
            let recorded = recorded.expect("the call finishes");
            assert_eq!(recorded.outcomes[..], [Counted; 2]);
            changes += told(&recorded).len();
        }
        assert_eq!(store.counts(&domain).await, (0, 2));
        assert_eq!(changes, 1, "the change of verdict is told once");
    }
}

/// What the writers have begun and what was acknowledged to them, domain by domain.
#[derive(Default)]
struct Progress {
    attempted: [AtomicU64; DOMAINS as usize],
    acknowledged: [AtomicU64; DOMAINS as usize],
    done: AtomicBool,
}

async fn writers_lose_nothing(store: &Store, naming: Naming) {
    let progress = Arc::new(Progress::default());
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        readers.spawn(read_until_done(store.clone(), Arc::clone(&progress)));
    }
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(store.clone(), Arc::clone(&progress), writer, naming));
    }
    while let Some(writer) = writers.join_next().await {
        writer.expect("the writer finishes");
    }
    progress.done.store(true, SeqCst);
    while let Some(reader) = readers.join_next().await {
        reader.expect("the reader finds nothing wrong");
    }

    for (domain, attempted) in (0..).zip(&progress.attempted) {
        let (delivered, bounced) = store.counts(&domain_of(domain)).await;
        assert_eq!(delivered, attempted.load(SeqCst), "{}", domain_of(domain));
        assert_eq!(bounced, u64::from(WRITERS), "{}", domain_of(domain));
    }
    let totals = store.totals().await;
    let attempted = progress.attempted.iter().map(|count| count.load(SeqCst));
    assert_eq!(totals.delivered, attempted.sum::<u64>());
    assert_eq!(totals.not_catch_all, u64::from(DOMAINS));
}

/// Writes to all domains, each writer beginning at another one, so that their orders differ. One
/// bounce for each domain comes with the last group.
async fn write(store: Store, progress: Arc<Progress>, writer: u32, naming: Naming) {
    for number in 0..GROUPS {
        let delivered = 1 + (writer + number) % 3;
        let members: Vec<_> = (0..DOMAINS)
            .map(|n| {
                let domain = (writer + n) % DOMAINS;
                let bounced = u32::from(number + 1 == GROUPS);
                member(&[(&domain_of(domain), delivered, bounced)])
            })
            .collect();
        for attempted in &progress.attempted {
            attempted.fetch_add(delivered.into(), SeqCst);
        }
        store.record(&naming(writer, number, members)).await;
        for acknowledged in &progress.acknowledged {
            acknowledged.fetch_add(delivered.into(), SeqCst);
        }
    }
}

async fn read_until_done(store: Store, progress: Arc<Progress>) {
    let names: Vec<_> = (0..DOMAINS).map(|n| name(&domain_of(n))).collect();
    let mut last = vec![0; names.len()];
    let mut done = false;
    while !done {
        done = progress.done.load(SeqCst);
        let load = |counts: &[AtomicU64]| counts.iter().map(|n| n.load(SeqCst)).collect::<Vec<_>>();
        let acknowledged = load(&progress.acknowledged);
        let tallies = store.tallies(&names).await;
        let attempted = load(&progress.attempted);
        for (n, tally) in tallies.iter().enumerate() {
            let (name, read) = (&names[n], tally.delivered);
            assert!(read >= last[n], "{name} went from {} to {read}", last[n]);
            assert!(
                read >= acknowledged[n],
                "{name}: {} were acknowledged, {read} are there",
                acknowledged[n]
            );
            assert!(
                read <= attempted[n],
                "{name}: {} were attempted, {read} are there",
                attempted[n]
            );
            last[n] = read;
        }
        tokio::task::yield_now().await;
    }
}

fn domain_of(number: u32) -> String {
    format!("d{number}.example")
}

async fn same_requests(store: &Store, naming: Naming) {
    for round in 0..8 {
        let domain = domain_of(round);
        let outcomes = all_at_once(store, |task| {
            let request = marked((round.into(), 1), &[(&domain, 1, 0)]);
            naming(task, round, vec![request])
        })
        .await;
        let counted = outcomes.iter().filter(|outcome| **outcome == Counted);
        assert_eq!(counted.count(), 1, "{outcomes:?}");
        let duplicates = outcomes.iter().filter(|outcome| **outcome == Duplicate);
        assert_eq!(duplicates.count(), outcomes.len() - 1, "{outcomes:?}");
        assert_eq!(store.counts(&domain).await, (1, 0));
    }
}

/// Lets all senders record a group of one marked member at once, and gives their outcomes in the
/// order of the senders. After its answer each looks whether a request has been counted.
async fn all_at_once(store: &Store, form: impl Fn(u32) -> Group) -> Vec<Outcome> {
    let before = store.totals().await.delivered;
    let start = Arc::new(Barrier::new(SENDERS as usize));
    let mut senders = JoinSet::new();
    for task in 0..SENDERS {
        let (store, start, group) = (store.clone(), Arc::clone(&start), form(task));
        senders.spawn(async move {
            start.wait().await;
            let outcome = store.record(&group).await.outcomes[0];
            if outcome != Mismatch {
                let change = group.members[0].changes.iter().next();
                let domain = change.expect("it has a change").domain.as_str();
                let delivered = store.counts(domain).await.0;
                assert_eq!(delivered, 1, "{outcome:?} is answered, and read");
            }
            (task, outcome)
        });
    }
    let mut outcomes = Vec::new();
    while let Some(sender) = senders.join_next().await {
        outcomes.push(sender.expect("the sender finishes"));
    }
    assert_eq!(store.totals().await.delivered, before + 1);
    outcomes.sort_unstable_by_key(|(task, _)| *task);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Makes one domain after the other a catch-all, each by many groups at once, and says how many of
/// these were told so.
async fn told_of_catch_all(store: &Store, policy: VerdictPolicy, naming: Naming) -> Vec<usize> {
    let writers = u32::try_from(policy.threshold()).expect("a small threshold") + 16;
    let mut times = Vec::new();
    for round in 0..8 {
        let start = Arc::new(Barrier::new(writers as usize));
        let mut tasks = JoinSet::new();
        for task in 0..writers {
            let (store, start) = (store.clone(), Arc::clone(&start));
            let group = naming(task, round, vec![member(&[(&domain_of(round), 1, 0)])]);
            tasks.spawn(async move {
                start.wait().await;
                told(&store.record(&group).await)
            });
        }
        let mut changes = Vec::new();
        while let Some(told) = tasks.join_next().await {
            changes.extend(told.expect("the writer finishes"));
        }
        for change in &changes {
            assert_eq!(*change, (domain_of(round), Unknown, CatchAll));
        }
        times.push(changes.len());
        let counts = store.counts(&domain_of(round)).await;
        assert_eq!(counts, (writers.into(), 0));
    }
    times
}
