//! Compares what the server holds with what it acknowledged.
//!
//! The stream is known from its seed, so every domain it will touch is read before the first event
//! is sent, and what each domain must hold afterwards follows without bookkeeping while the load
//! runs: the counts before, and the stream's own, less the events that were not acknowledged. It
//! holds while nobody else writes to these domains.

mod expect;
mod plan;
mod read;

use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::crew::Crew;
use crate::stream::Stream;
use crate::tally::Miss;

use expect::{Expected, Finding};
use plan::Plan;
use read::DomainState;

/// So many differences are told in full; the others are counted.
const MAX_TOLD: usize = 20;

/// A domain's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) delivered: u64,
    pub(crate) bounced: u64,
}

/// What the server held before the run, and what the run will send.
#[derive(Debug)]
pub(crate) struct Verifier {
    threshold: u64,
    plan: Arc<Plan>,
    /// By place in the plan.
    before: Vec<Counts>,
}

impl Verifier {
    /// Works out which domains the first `events` of the stream touch, and reads them.
    ///
    /// # Errors
    /// The server could not be read: without the state before, nothing can be verified.
    pub(crate) fn prepare(crew: &Crew, stream: &Stream, events: u64) -> anyhow::Result<Self> {
        let threshold = read::threshold(crew)?;
        let plan = Arc::new(Plan::of(stream.clone(), events));
        let before = Arc::new(Mutex::new(vec![Counts::default(); plan.domains().len()]));
        let failure = Arc::new(Mutex::new(None));
        let visit = {
            let (before, failure) = (Arc::clone(&before), Arc::clone(&failure));
            move |place: usize, state: anyhow::Result<DomainState>| match state {
                Ok(state) => {
                    before.lock()[place] = state.counts();
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failure.lock().get_or_insert(error);
                    ControlFlow::Break(())
                }
            }
        };
        read::every_domain(crew, "reading", &plan, visit)?;
        if let Some(error) = failure.lock().take() {
            return Err(error.context("cannot read the state before the run"));
        }
        let before = std::mem::take(&mut *before.lock());
        Ok(Self {
            threshold,
            plan,
            before,
        })
    }

    /// Reads every domain again and compares. `misses` are the events without acknowledgement.
    ///
    /// # Errors
    /// The crew could not work. A domain that cannot be read is a difference, not an error.
    pub(crate) fn check(self, crew: &Crew, misses: &[Miss]) -> anyhow::Result<Verification> {
        // Not before the server shows all that it acknowledged.
        read::threshold(crew)?;
        let expected = Expected::new(&self.plan, &self.before, misses);
        let verification = Arc::new(Mutex::new(Verification {
            threshold: self.threshold,
            ..Verification::default()
        }));
        let visit = {
            let (verification, plan) = (Arc::clone(&verification), Arc::clone(&self.plan));
            let before = self.before;
            move |place: usize, state: anyhow::Result<DomainState>| {
                let name = plan.name(place).to_string();
                let finding = expected.judge(place, &name, state.as_ref(), self.threshold);
                let grown = state.map_or(0, |state| state.counts().total());
                let mut verification = verification.lock();
                verification.counted += grown.saturating_sub(before[place].total());
                verification.note(name, finding);
                ControlFlow::Continue(())
            }
        };
        read::every_domain(crew, "checking", &self.plan, visit)?;
        let mut verification = std::mem::take(&mut *verification.lock());
        verification
            .told
            .sort_unstable_by(|a, b| a.domain.cmp(&b.domain));
        Ok(verification)
    }
}

impl Counts {
    fn total(self) -> u64 {
        self.delivered + self.bounced
    }
}

/// What the comparison found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verification {
    /// The server's threshold for the verdict.
    pub(crate) threshold: u64,
    /// Domains whose counts are exactly the acknowledged ones.
    pub(crate) exact: u64,
    /// Domains whose counts are possible, given the events that may have counted without an answer.
    pub(crate) within_bounds: u64,
    /// Domains whose counts or verdict are wrong.
    pub(crate) different: u64,
    /// Some of the differences, by name.
    pub(crate) told: Vec<Difference>,
    /// Events by which the counts have grown, over all domains.
    pub(crate) counted: u64,
}

/// A domain that does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) domain: String,
    pub(crate) problem: String,
}

impl Verification {
    /// Domains read.
    pub(crate) fn domains(&self) -> u64 {
        self.exact + self.within_bounds + self.different
    }

    fn note(&mut self, domain: String, finding: Finding) {
        match finding {
            Finding::Exact => self.exact += 1,
            Finding::WithinBounds => self.within_bounds += 1,
            Finding::Different(problem) => {
                self.different += 1;
                if self.told.len() < MAX_TOLD {
                    self.told.push(Difference { domain, problem });
                }
            }
        }
    }
}
