//! What clients know of a store, and whether the store keeps to it.

use std::collections::{BTreeMap, HashMap};

use adapters::email_domains::Embedded;
use anyhow::ensure;
use business::{
    email_domains::{
        model::{Group, Outcome, Outcomes, Tally, resolve_marks},
        ports::{DomainTallies, Freshness},
    },
    kernel::{ErrorKind, UnixSeconds},
};
use fastrand::Rng;

use super::{DOMAINS, name};

/// Domain by domain: delivered, bounced.
type Counts = BTreeMap<String, (u64, u64)>;

/// What clients know of a store.
#[derive(Clone, Default)]
pub(super) struct Model {
    /// What it must hold.
    acknowledged: Counts,
    /// The marks that counted, with their fingerprints.
    pub(super) marks: HashMap<u128, u64>,
    /// A group of which nobody knows whether it was applied.
    pub(super) pending: Option<Group>,
}

impl Model {
    /// Looks at a store that was just opened, and says whether a group that was pending counts. It holds what was acknowledged, with the group whose
    /// outcome was unknown or without it; which of the two is now as good as acknowledged.
    ///
    /// The group is sent again, by its writer under the same id, or by its callers in another group,
    /// in which case those without a key are not sent again.
    pub(super) async fn meet(&mut self, store: &Embedded, rng: &mut Rng) -> anyhow::Result<bool> {
        let found = contents(store).await?;
        let Some(mut group) = self.pending.take() else {
            return self.compare(&found).map(|()| false);
        };
        let outcomes = self.outcomes_of(&group);
        let applied = with(&self.acknowledged, &group, &outcomes);
        let is_applied = found == applied;
        if is_applied {
            self.acknowledged = applied;
        } else {
            self.compare(&found)?;
        }
        if group.id.is_some() && rng.bool() {
            // The same group is answered as the first time.
            if is_applied {
                let recorded = store.record(&group).await;
                if let Ok(recorded) = recorded {
                    ensure!(
                        recorded.outcomes == outcomes,
                        "answered otherwise the second time"
                    );
                }
                self.remember(&group, &outcomes);
            } else {
                self.pending = Some(group);
            }
        } else {
            if is_applied {
                self.remember(&group, &outcomes);
            }
            group.id = None;
            group.members.retain(|member| member.mark.is_some());
            self.pending = (!group.members.is_empty()).then_some(group);
        }
        Ok(is_applied)
    }

    /// Records a group and checks its outcomes; `Err` within when the store could not.
    pub(super) async fn record(
        &mut self,
        store: &Embedded,
        group: &Group,
    ) -> anyhow::Result<Result<(), ErrorKind>> {
        let expected = self.outcomes_of(group);
        let recorded = match store.record(group).await {
            Ok(recorded) => recorded,
            Err(error) => return Ok(Err(error.kind())),
        };
        ensure!(
            recorded.outcomes == expected,
            "outcomes {:?} instead of {expected:?}",
            recorded.outcomes
        );
        self.acknowledged = with(&self.acknowledged, group, &expected);
        self.remember(group, &expected);
        Ok(Ok(()))
    }

    /// Sends the group again whose outcome was unknown, if there is one: by now it must be recorded.
    pub(super) async fn settle(&mut self, store: &Embedded) -> anyhow::Result<()> {
        if let Some(group) = self.pending.take() {
            let recorded = self.record(store, &group).await?;
            ensure!(recorded == Ok(()), "not recorded: {recorded:?}");
        }
        self.check(store).await
    }

    fn remember(&mut self, group: &Group, outcomes: &[Outcome]) {
        let members = group.members.iter().zip(outcomes);
        let counted = members.filter(|(_, outcome)| **outcome == Outcome::Counted);
        let marks = counted.filter_map(|(member, _)| member.mark);
        self.marks
            .extend(marks.map(|mark| (mark.key.hash, mark.fingerprint)));
    }

    /// The outcomes by the rule, given the marks that counted.
    pub(super) fn outcomes_of(&self, group: &Group) -> Outcomes {
        let stored = |hash| self.marks.get(&hash).copied();
        resolve_marks(&group.members, UnixSeconds::ZERO, stored)
    }

    /// Whether the store shows what was acknowledged, and nothing else.
    pub(super) async fn check(&self, store: &Embedded) -> anyhow::Result<()> {
        self.compare(&contents(store).await?)
    }

    fn compare(&self, found: &Counts) -> anyhow::Result<()> {
        let expected = &self.acknowledged;
        let of = |counts: &Counts, name: &String| counts.get(name).copied().unwrap_or_default();
        for name in expected.keys().chain(found.keys()) {
            let (found, expected) = (of(found, name), of(expected, name));
            ensure!(
                found == expected,
                "{name}: {found:?} instead of {expected:?}"
            );
        }
        Ok(())
    }
}

/// The counts after the members of a group that count.
fn with(counts: &Counts, group: &Group, outcomes: &[Outcome]) -> Counts {
    let mut counts = counts.clone();
    for (member, outcome) in group.members.iter().zip(outcomes) {
        if *outcome == Outcome::Counted {
            for change in member.changes.iter() {
                let counts = counts.entry(change.domain.as_str().to_owned()).or_default();
                counts.0 += u64::from(change.delivered);
                counts.1 += u64::from(change.bounced);
            }
        }
    }
    counts
}

async fn contents(store: &Embedded) -> anyhow::Result<Counts> {
    let names = (0..DOMAINS).map(name).collect::<anyhow::Result<Vec<_>>>()?;
    let tallies = store.get(&names, Freshness::Latest).await?;
    let found = names
        .iter()
        .zip(tallies)
        .filter(|(_, tally)| *tally != Tally::ZERO);
    Ok(found
        .map(|(name, tally)| (name.to_string(), (tally.delivered, tally.bounced)))
        .collect())
}
