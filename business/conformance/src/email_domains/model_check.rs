//! A random run agrees with a plain model, step by step.
//!
//! The panic of a run that does not says its seed; `CONFORMANCE_SEED` in the environment runs it
//! again.

use std::sync::Arc;

use business::{
    email_domains::{
        model::{Changes, DomainName, Group, GroupId, Key, Mark, Member, Tally, WriterId},
        verdict::VerdictPolicy,
    },
    kernel::UnixSeconds,
};
use fastrand::Rng;

use super::{
    Subject,
    driver::{NOW, Store, group, name, told},
    model::Model,
    reads::assert_totals_agree,
};

/// Enough that marks, repeats and all changes of verdict come many times.
const STEPS: u32 = 400;
/// How many domains are in use at a time. Every few steps a new one comes and an old one is left,
/// so that verdicts change from the first step to the last.
const DOMAINS: usize = 6;
const STEPS_A_DOMAIN: u32 = 8;
const WRITERS: u64 = 3;
/// How many keys of marks are in use at a time; they come and go too.
const KEYS: u32 = 8;
const STEPS_A_KEY: u32 = 3;

/// Marked and unmarked members without ids: outcomes, counts, changes of verdict, totals.
pub async fn a_random_run_agrees_with_the_model(subject: Subject) {
    let store = Store::of(&subject);
    let mut run = Run::new(subject.policy, Groups::FormedBelow);
    run.steps(&store, STEPS).await;
    run.compare_all(&store).await;
}

/// The same with ids, repeats of a writer's last group, and times.
pub async fn a_random_run_with_ids_agrees_with_the_model(subject: Subject) {
    let store = Store::of(&subject);
    let mut run = Run::new(subject.policy, Groups::TakenAsTheyAre);
    run.steps(&store, STEPS).await;
    run.compare_all(&store).await;
}

/// What the store makes of a caller's group.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Groups {
    /// It takes its id and time from the caller.
    TakenAsTheyAre,
    /// It puts the members in a group of its own.
    FormedBelow,
}

/// A random run, which can be interrupted, by a restart of the store for one.
pub(crate) struct Run {
    seed: u64,
    rng: Rng,
    groups: Groups,
    model: Model,
    policy: VerdictPolicy,
    /// All that came so far.
    domains: Vec<DomainName>,
    /// Each writer's last group.
    last: Vec<Option<Group>>,
    steps_done: u32,
}

impl Run {
    pub(crate) fn new(policy: VerdictPolicy, groups: Groups) -> Self {
        let seed = std::env::var("CONFORMANCE_SEED")
            .ok()
            .map(|seed| seed.parse().expect("CONFORMANCE_SEED is a number"))
            .unwrap_or_else(|| fastrand::u64(..));
        Self {
            seed,
            rng: Rng::with_seed(seed),
            groups,
            model: Model::new(policy),
            policy,
            domains: Vec::new(),
            last: vec![None; usize::try_from(WRITERS).unwrap_or_default()],
            steps_done: 0,
        }
    }

    /// Records this many random groups, and compares all answers and what can be read next.
    pub(crate) async fn steps(&mut self, store: &Store, count: u32) {
        for _ in 0..count {
            self.begin_step();
            let group = self.group();
            let (outcomes, changes) = self.model.record(&group);
            let recorded = store.record(&group).await;
            let at = self.place();
            assert_eq!(recorded.outcomes[..], outcomes[..], "{at}: {group:?}");
            assert_eq!(told(&recorded), changes, "{at}: {group:?}");
            self.compare_tallies(store).await;
            if self.steps_done.is_multiple_of(20) {
                assert_eq!(store.totals().await, self.model.totals(), "{at}");
            }
        }
    }

    /// Compares everything the store has.
    pub(crate) async fn compare_all(&self, store: &Store) {
        self.compare_tallies(store).await;
        assert_eq!(
            store.totals().await,
            self.model.totals(),
            "{}",
            self.place()
        );
        for (domain, tally) in store.list(None, 5).await {
            let expected = self.comparable(self.model.tally(&domain));
            assert_eq!(
                self.comparable(tally),
                expected,
                "{}: {domain}",
                self.place()
            );
        }
        assert_totals_agree(store, self.policy).await;
    }

    async fn compare_tallies(&self, store: &Store) {
        let tallies = store.tallies(&self.domains).await;
        for (domain, tally) in self.domains.iter().zip(tallies) {
            let expected = self.model.tally(domain);
            let (at, seen) = (self.place(), tally.seen.is_some());
            assert_eq!(seen, expected.seen.is_some(), "{at}: {domain}");
            let (tally, expected) = (self.comparable(tally), self.comparable(expected));
            assert_eq!(tally, expected, "{at}: {domain}");
        }
    }

    /// Without the times, where the store has taken them from a clock of its own.
    fn comparable(&self, tally: Tally) -> Tally {
        match self.groups {
            Groups::TakenAsTheyAre => tally,
            Groups::FormedBelow => Tally {
                seen: None,
                ..tally
            },
        }
    }

    fn place(&self) -> String {
        format!("CONFORMANCE_SEED={}, step {}", self.seed, self.steps_done)
    }

    fn begin_step(&mut self) {
        self.steps_done += 1;
        let wanted = DOMAINS + (self.steps_done / STEPS_A_DOMAIN) as usize;
        for number in self.domains.len()..wanted {
            self.domains.push(name(&format!("d{number}.example")));
        }
    }

    fn group(&mut self) -> Group {
        let most = if self.rng.u32(0..8) == 0 { 25 } else { 5 };
        let members: Vec<_> = (0..self.rng.u32(0..most)).map(|_| self.member()).collect();
        let mut group = group(members);
        if self.groups == Groups::FormedBelow || self.rng.u32(0..5) == 0 {
            return group;
        }
        // Time goes on, with some steps back.
        group.formed_at = UnixSeconds::from(NOW + 10 * self.steps_done + self.rng.u32(0..50));
        let writer = self.rng.u64(0..WRITERS);
        let again = self.rng.u32(0..4) == 0;
        let last = &mut self.last[usize::try_from(writer).unwrap_or_default()];
        if let Some(last) = last.as_ref().filter(|_| again) {
            return last.clone();
        }
        let previous = last.as_ref().and_then(|last| last.id);
        group.id = Some(GroupId {
            writer: WriterId(writer.into()),
            sequence: previous.map_or(0, |id| id.sequence + 1),
        });
        *last = Some(group.clone());
        group
    }

    fn member(&mut self) -> Arc<Member> {
        let mut member = Member {
            mark: None,
            changes: Changes::default(),
        };
        if self.rng.bool() {
            let hash = self.steps_done / STEPS_A_KEY + self.rng.u32(0..KEYS);
            member.mark = Some(Mark {
                key: Key {
                    hash: hash.into(),
                    stamped_at: None,
                },
                fingerprint: u64::from(self.rng.u8(0..4) == 0),
            });
        }
        for _ in 0..self.rng.u32(0..4) {
            let all = self.domains.len();
            let domain = &self.domains[self.rng.usize(all - DOMAINS..all)];
            // Bounces are few, or hardly a domain would be a catch-all first.
            let (delivered, bounced) = match self.rng.u32(0..30) {
                0 => (0, 1),
                1 => (2, 3),
                _ => (self.rng.u32(1..3), 0),
            };
            member.changes.push(domain.borrowed(), delivered, bounced);
        }
        Arc::new(member)
    }
}
