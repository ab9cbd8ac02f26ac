//! What the faults do while a group is recorded: before, instead, and after.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use business::{
    email_domains::{
        model::{Changes, DomainName, Group, GroupId, Member, Outcome, Tally, WriterId},
        ports::Recorded,
        verdict::VerdictChange,
    },
    kernel::UnixSeconds,
};
use conformance::email_domains::POLICY;

use super::{Broken, Fault::*};

impl Broken {
    pub(super) fn is_repeated(&self, group: &Group) -> bool {
        let data = self.inner.data();
        let is_last = |id: &GroupId| {
            let last = data.last.get(&id.writer);
            last.is_some_and(|(sequence, _)| *sequence == id.sequence)
        };
        group.id.as_ref().is_some_and(is_last)
    }

    /// What the fault makes of a group before it is recorded.
    pub(super) fn alter(&self, group: &mut Group) {
        match self.fault {
            CutsLargeGroups => group.members.truncate(9_999),
            SkipsMembersAfterAnEmptyOne => {
                let mut empty_seen = false;
                each_member(group, |member| {
                    empty_seen |= member.changes.is_empty();
                    if empty_seen {
                        member.changes = Changes::default();
                    }
                });
            }
            CountsANameOnceAMember => {
                each_member(group, |member| each_name_once(member, &mut vec![]));
            }
            CountsANameOnceAGroup => {
                let mut names = vec![];
                each_member(group, |member| each_name_once(member, &mut names));
            }
            ReplacesWhatWasThere => {
                let changes = group
                    .members
                    .iter()
                    .flat_map(|member| member.changes.iter());
                for change in changes {
                    self.inner.data().tallies.remove(&change.domain.to_name());
                }
            }
            FormsGroupsOfItsOwn => {
                group.id = None;
                let tick = self.counter.fetch_add(1, SeqCst);
                group.formed_at = UnixSeconds::from(1_000 + tick);
            }
            CutsLongNames => renamed(group, |text| text.chars().take(250).collect()),
            DropsSubdomains => renamed(group, |text| text.replace("mail.", "")),
            DecodesALabels => renamed(group, |text| text.replace("xn--", "")),
            IgnoresHyphens => renamed(group, |text| text.replace('-', "")),
            IgnoresMarks => each_member(group, |member| member.mark = None),
            TakesMismatchesForDuplicates => each_mark(group, |_, fingerprint| *fingerprint = 0),
            CutsKeys => each_mark(group, |key, _| *key &= u128::from(u64::MAX)),
            TakesOldKeys => each_member(group, |member| {
                if let Some(mark) = &mut member.mark {
                    mark.key.stamped_at = None;
                }
            }),
            MarksOfAWriter => {
                let writer = group.id.map_or(0, |id| id.writer.0);
                each_mark(group, |key, _| *key ^= writer << 64);
            }
            DropsMarksWithoutChanges => each_member(group, |member| {
                if member.changes.is_empty() {
                    member.mark = None;
                }
            }),
            IgnoresMarksWithinAGroup => {
                let mut keys = Vec::new();
                each_member(group, |member| {
                    if let Some(mark) = member.mark {
                        if keys.contains(&mark.key.hash) {
                            member.mark = None;
                        }
                        keys.push(mark.key.hash);
                    }
                });
            }
            IgnoresIds => group.id = None,
            IgnoresWriters => {
                if let Some(id) = &mut group.id {
                    id.writer = WriterId(0);
                }
            }
            RemembersOneWriter => {
                if let Some(id) = group.id {
                    self.inner
                        .data()
                        .last
                        .retain(|writer, _| *writer == id.writer);
                }
            }
            TakesNumberZeroForARepeat if group.id.is_some_and(|id| id.sequence == 0) => {
                each_member(group, |member| member.changes = Changes::default());
            }
            _ => {}
        }
    }

    /// What the fault does to the data after a group was recorded.
    pub(super) fn damage(&self, group: &Group, recorded: &mut Recorded) {
        let mut data = self.inner.data();
        match self.fault {
            Counts32Bits => data
                .tallies
                .values_mut()
                .for_each(|tally| tally.delivered &= u64::from(u32::MAX)),
            TakesTimeZeroForNever => data.tallies.values_mut().for_each(|tally| {
                tally.seen = tally.seen.filter(|seen| seen.first.get() != 0);
            }),
            LastSeenIsTheLatestGroup => {
                for (domain, tally) in &mut data.tallies {
                    let touched = |member: &Arc<Member>| {
                        let mut changes = member.changes.iter();
                        changes.any(|change| change.domain == domain.borrowed())
                    };
                    if let Some(seen) = &mut tally.seen
                        && group.members.iter().any(touched)
                    {
                        seen.last = group.formed_at;
                    }
                }
            }
            CountsDuplicates | TouchesDuplicates => {
                for change in duplicates(group, recorded).flat_map(|member| member.changes.iter()) {
                    let (delivered, bounced) = match self.fault {
                        CountsDuplicates => (change.delivered, change.bounced),
                        _ => (0, 0),
                    };
                    let tally = data.tallies.entry(change.domain.to_name()).or_default();
                    *tally = tally.plus(delivered.into(), bounced.into(), group.formed_at);
                }
            }
            TotalsCountDuplicates => {
                let count = duplicates(group, recorded).count();
                self.counter
                    .fetch_add(u32::try_from(count).unwrap(), SeqCst);
            }
            MismatchTakesOver => {
                for mark in group.members.iter().filter_map(|member| member.mark) {
                    data.marks.insert(mark.key.hash, mark.fingerprint);
                }
            }
            _ => {}
        }
    }

    /// What the fault makes of the answer.
    pub(super) fn answer_wrongly(&self, group: &Group, repeated: bool, recorded: &mut Recorded) {
        match self.fault {
            RepeatsAreCounted if repeated => recorded.outcomes.fill(Outcome::Counted),
            RepeatsAreDuplicates if repeated => {
                for (outcome, member) in recorded.outcomes.iter_mut().zip(&group.members) {
                    if member.mark.is_some() && *outcome == Outcome::Counted {
                        *outcome = Outcome::Duplicate;
                    }
                }
            }
            TellsAgain => {
                if let Some(id) = group.id {
                    let mut told = self.told.lock().unwrap();
                    let changes = told
                        .entry(id)
                        .or_insert_with(|| recorded.verdict_changes.clone());
                    recorded.verdict_changes.clone_from(changes);
                }
            }
            TellsNothing => recorded.verdict_changes.clear(),
            ThresholdIsOneHigher => recorded.verdict_changes.retain(|change| {
                self.inner.data().tallies[&change.domain].delivered != POLICY.threshold()
            }),
            TellsAll => {
                for change in group
                    .members
                    .iter()
                    .flat_map(|member| member.changes.iter())
                {
                    let domain = change.domain.to_name();
                    let tally = self.inner.data().tallies.get(&domain).copied();
                    let to = POLICY.verdict(&tally.unwrap_or_default());
                    if recorded.verdict_changes.iter().all(|c| c.domain != domain) {
                        recorded.verdict_changes.push(VerdictChange {
                            domain,
                            from: to,
                            to,
                        });
                    }
                }
            }
            _ => {}
        }
    }

    /// Keeps the marks first and counts a little later.
    pub(super) async fn mark_then_count(&self, group: &Group) -> Recorded {
        let mut marks = group.clone();
        each_member(&mut marks, |member| member.changes = Changes::default());
        let mut recorded = self.inner.data().record(&marks);
        if !recorded.outcomes.contains(&Outcome::Counted) {
            return recorded;
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let mut counts = group.clone();
        counts.id = None;
        counts.members = counts
            .members
            .into_iter()
            .zip(&recorded.outcomes)
            .filter(|(_, outcome)| **outcome == Outcome::Counted)
            .map(|(member, _)| member)
            .collect();
        each_member(&mut counts, |member| member.mark = None);
        recorded.verdict_changes = self.inner.data().record(&counts).verdict_changes;
        recorded
    }

    /// Reads what was there, and a little later counts and compares.
    pub(super) async fn compare_then_record(&self, group: &Group) -> Recorded {
        let before = self.inner.data().tallies.clone();
        tokio::task::yield_now().await;
        let mut data = self.inner.data();
        let mut recorded = data.record(group);
        let compare = |(domain, after): (&DomainName, &Tally)| {
            let before = before.get(domain).copied().unwrap_or_default();
            let (from, to) = POLICY.change(&before, after)?;
            let domain = domain.clone();
            Some(VerdictChange { domain, from, to })
        };
        recorded.verdict_changes = data.tallies.iter().filter_map(compare).collect();
        recorded
    }

    /// Each member as a group of its own.
    pub(super) fn one_by_one(&self, group: &Group) -> Recorded {
        let mut all = Recorded::default();
        for member in &group.members {
            let single = Group {
                id: None,
                members: [Arc::clone(member)].into_iter().collect(),
                ..*group
            };
            let recorded = self.inner.data().record(&single);
            all.outcomes.extend(recorded.outcomes);
            all.verdict_changes.extend(recorded.verdict_changes);
        }
        all
    }
}

fn duplicates<'a>(
    group: &'a Group,
    recorded: &'a Recorded,
) -> impl Iterator<Item = &'a Arc<Member>> {
    let members = group.members.iter().zip(&recorded.outcomes);
    members
        .filter(|(_, outcome)| **outcome == Outcome::Duplicate)
        .map(|(member, _)| member)
}

fn each_member(group: &mut Group, mut alter: impl FnMut(&mut Member)) {
    for member in &mut group.members {
        alter(Arc::make_mut(member));
    }
}

fn each_mark(group: &mut Group, mut alter: impl FnMut(&mut u128, &mut u64)) {
    each_member(group, |member| {
        if let Some(mark) = &mut member.mark {
            alter(&mut mark.key.hash, &mut mark.fingerprint);
        }
    });
}

/// Drops the changes of names that came before.
fn each_name_once(member: &mut Member, names: &mut Vec<DomainName>) {
    each_change(member, |domain| {
        let is_new = !names.contains(&domain);
        names.push(domain.clone());
        is_new.then_some(domain)
    });
}

/// Gives each change another domain, or drops it.
fn each_change(member: &mut Member, mut rename: impl FnMut(DomainName) -> Option<DomainName>) {
    let mut changes = Changes::default();
    for change in member.changes.iter() {
        if let Some(domain) = rename(change.domain.to_name()) {
            changes.push(domain.borrowed(), change.delivered, change.bounced);
        }
    }
    member.changes = changes;
}

fn renamed(group: &mut Group, rename: fn(&str) -> String) {
    each_member(group, |member| {
        each_change(member, |domain| {
            DomainName::parse(&rename(domain.as_str())).ok()
        });
    });
}
