//! What a store has to do, as plainly as it can be said: one member after the other, in a map.
//!
//! A second opinion, so it uses neither `resolve_marks` nor `fold`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use business::email_domains::{
    model::{DomainName, Group, Outcome, Tally, WriterId},
    ports::Totals,
    verdict::{Verdict, VerdictPolicy},
};

/// A change of verdict, as [`told`](super::driver::told) has it.
type Told = (String, Verdict, Verdict);

pub(crate) struct Model {
    policy: VerdictPolicy,
    tallies: BTreeMap<DomainName, Tally>,
    marks: HashMap<u128, u64>,
    /// The last group of each writer.
    last: HashMap<WriterId, (u64, Vec<Outcome>)>,
}

impl Model {
    pub(crate) fn new(policy: VerdictPolicy) -> Self {
        Self {
            policy,
            tallies: BTreeMap::new(),
            marks: HashMap::new(),
            last: HashMap::new(),
        }
    }

    pub(crate) fn record(&mut self, group: &Group) -> (Vec<Outcome>, Vec<Told>) {
        if let Some(id) = group.id
            && let Some((sequence, outcomes)) = self.last.get(&id.writer)
            && *sequence == id.sequence
        {
            return (outcomes.clone(), vec![]);
        }
        let before = self.tallies.clone();
        let mut touched = BTreeSet::new();
        let mut outcomes = Vec::new();
        for member in &group.members {
            let outcome = match member.mark {
                None => Outcome::Counted,
                Some(mark) => match self.marks.get(&mark.key.hash) {
                    None => {
                        self.marks.insert(mark.key.hash, mark.fingerprint);
                        Outcome::Counted
                    }
                    Some(first) if *first == mark.fingerprint => Outcome::Duplicate,
                    Some(_) => Outcome::Mismatch,
                },
            };
            outcomes.push(outcome);
            if outcome != Outcome::Counted {
                continue;
            }
            for change in member.changes.iter() {
                let domain = change.domain.to_name();
                let tally = self.tallies.entry(domain.clone()).or_default();
                let (delivered, bounced) = (change.delivered.into(), change.bounced.into());
                *tally = tally.plus(delivered, bounced, group.formed_at);
                touched.insert(domain);
            }
        }
        if let Some(id) = group.id {
            self.last.insert(id.writer, (id.sequence, outcomes.clone()));
        }
        let told = touched.into_iter().filter_map(|domain| {
            let from = before.get(&domain).copied().unwrap_or_default();
            let (from, to) = self.policy.change(&from, &self.tally(&domain))?;
            Some((domain.to_string(), from, to))
        });
        (outcomes, told.collect())
    }

    pub(crate) fn tally(&self, domain: &DomainName) -> Tally {
        self.tallies.get(domain).copied().unwrap_or_default()
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for tally in self.tallies.values() {
            totals.delivered += tally.delivered;
            totals.bounced += tally.bounced;
            totals.domains += 1;
            match self.policy.verdict(tally) {
                Verdict::CatchAll => totals.catch_all += 1,
                Verdict::NotCatchAll => totals.not_catch_all += 1,
                Verdict::Unknown => {}
            }
        }
        totals
    }
}
