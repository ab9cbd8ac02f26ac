//! The plain store with one fault at a time, each a mistake somebody could make.

mod recording;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use async_trait::async_trait;
use business::{
    email_domains::{
        model::{DomainName, DomainRef, Group, GroupId, Tally},
        ports::{
            Cursor, DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, StoreId, Totals,
        },
        verdict::VerdictChange,
    },
    kernel::{ErrorKind, PortError},
};
use conformance::email_domains::{POLICY, Subject};

use super::plain::{Data, MEMORY, Plain};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    // Recording.
    CutsLargeGroups,
    Counts32Bits,
    CountsANameOnceAMember,
    CountsANameOnceAGroup,
    ReplacesWhatWasThere,
    FailsOnEmptyGroups,
    SkipsMembersAfterAnEmptyOne,
    FormsGroupsOfItsOwn,
    TakesTimeZeroForNever,
    LastSeenIsTheLatestGroup,
    CutsLongNames,
    DropsSubdomains,
    DecodesALabels,
    IgnoresHyphens,
    LosesUpdates,
    // Verdicts.
    ThresholdIsOneHigher,
    TellsEveryMember,
    ComparesBeforeItLocks,
    TellsNothing,
    TellsAll,
    // Marks.
    IgnoresMarks,
    CountsDuplicates,
    TouchesDuplicates,
    TakesMismatchesForDuplicates,
    MismatchTakesOver,
    IgnoresMarksWithinAGroup,
    CutsKeys,
    TakesOldKeys,
    MarksOfAWriter,
    DropsMarksWithoutChanges,
    AnswersDuplicatesTooEarly,
    // Group ids.
    IgnoresIds,
    IgnoresWriters,
    RemembersOneWriter,
    TakesNumberZeroForARepeat,
    RepeatsAreDuplicates,
    RepeatsAreCounted,
    TellsAgain,
    ChecksIdsBeforeItLocks,
    // Reading.
    UnseenIsAnError,
    AnswersInItsOwnOrder,
    AnswersRepeatsOnce,
    CutsLongQuestions,
    RemembersQuestions,
    ReadsAreLate,
    CacheFails,
    CacheInvents,
    TotalsAreLate,
    NeverLeavesCatchAll,
    TotalsCountDuplicates,
    IdIsNew,
    // Pages.
    ForgetsAnItem,
    RepeatsAnItem,
    IgnoresTheLimit,
    IgnoresTheVerdict,
    EndsAtAnEmptyPage,
    NeverEnds,
    CountsInsteadOfRemembering,
    TakesAnyCursor,
    PanicsOnCursors,
}

use Fault::*;

pub(crate) struct Broken {
    fault: Fault,
    inner: Plain,
    /// The data before the last group.
    earlier: Mutex<Data>,
    told: Mutex<HashMap<GroupId, Vec<VerdictChange>>>,
    counter: AtomicU32,
}

pub(crate) fn broken(fault: Fault) -> Subject {
    Subject::new(Arc::new(Broken {
        fault,
        inner: Plain::default(),
        earlier: Mutex::default(),
        told: Mutex::default(),
        counter: AtomicU32::default(),
    }))
}

#[async_trait]
impl DomainTallies for Broken {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        *self.earlier.lock().unwrap() = self.inner.data().clone();
        let repeated = self.is_repeated(group);
        let mut altered = group.clone();
        self.alter(&mut altered);
        let mut recorded = match self.fault {
            LosesUpdates => {
                let mut copy = self.inner.data().clone();
                tokio::task::yield_now().await;
                let recorded = copy.record(&altered);
                *self.inner.data() = copy;
                recorded
            }
            ChecksIdsBeforeItLocks if !repeated => {
                tokio::task::yield_now().await;
                altered.id = None;
                let recorded = self.inner.data().record(&altered);
                let mut data = self.inner.data();
                if let Some(id) = group.id {
                    data.last
                        .insert(id.writer, (id.sequence, recorded.outcomes.clone()));
                }
                recorded
            }
            AnswersDuplicatesTooEarly => self.mark_then_count(&altered).await,
            TellsEveryMember => self.one_by_one(&altered),
            ComparesBeforeItLocks => self.compare_then_record(&altered).await,
            FailsOnEmptyGroups if group.members.is_empty() => {
                return Err(PortError::new(ErrorKind::Unexpected, "record"));
            }
            _ => self.inner.record(&altered).await?,
        };
        self.damage(group, &mut recorded);
        self.answer_wrongly(group, repeated, &mut recorded);
        Ok(recorded)
    }

    async fn get(
        &self,
        domains: &[DomainName],
        freshness: Freshness,
    ) -> Result<Vec<Tally>, PortError> {
        let mut asked = domains.to_vec();
        match self.fault {
            AnswersInItsOwnOrder => asked.sort(),
            AnswersRepeatsOnce => asked.dedup(),
            RemembersQuestions => {
                for domain in domains {
                    self.inner.data().tallies.entry(domain.clone()).or_default();
                }
            }
            _ => {}
        }
        let mut tallies = self.inner.get(&asked, freshness).await?;
        match self.fault {
            UnseenIsAnError if tallies.contains(&Tally::ZERO) => {
                return Err(PortError::new(ErrorKind::Unexpected, "get"));
            }
            CutsLongQuestions => {
                for tally in tallies.iter_mut().skip(1_000) {
                    *tally = Tally::ZERO;
                }
            }
            ReadsAreLate => {
                let earlier = self.earlier.lock().unwrap();
                let tally = |domain| earlier.tallies.get(domain).copied().unwrap_or_default();
                tallies = domains.iter().map(tally).collect();
            }
            CacheFails if freshness == Freshness::Cached => {
                return Err(PortError::new(ErrorKind::Unavailable, "get"));
            }
            CacheInvents if freshness == Freshness::Cached => {
                tallies.iter_mut().for_each(|tally| tally.delivered += 1);
            }
            _ => {}
        }
        Ok(tallies)
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        let mut request = request.clone();
        match self.fault {
            IgnoresTheVerdict => request.verdict = None,
            IgnoresTheLimit => request.limit = request.limit.saturating_add(1),
            TakesAnyCursor => {
                request.after = request.after.filter(|cursor| {
                    let text = std::str::from_utf8(&cursor.0);
                    text.is_ok_and(|text| DomainRef::from_stored(text).is_ok())
                });
            }
            PanicsOnCursors => {
                if let Some(Cursor(bytes)) = &request.after {
                    String::from_utf8(bytes.to_vec()).unwrap();
                }
            }
            CountsInsteadOfRemembering => return self.page_by_offset(&request),
            _ => {}
        }
        let mut page = self.inner.page(&request).await?;
        match self.fault {
            ForgetsAnItem if page.next.is_some() => drop(page.domains.pop()),
            RepeatsAnItem => {
                if let (Some(_), [.., (earlier, _), _]) = (&page.next, &page.domains[..]) {
                    page.next = Some(Cursor(earlier.as_str().as_bytes().into()));
                }
            }
            EndsAtAnEmptyPage if page.domains.is_empty() => page.next = None,
            NeverEnds => page.next = page.next.or(Some(Cursor((*b"zz").into()))),
            _ => {}
        }
        Ok(page)
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        let mut totals = self.inner.totals().await?;
        match self.fault {
            TotalsAreLate => {
                let earlier = self.earlier.lock().unwrap();
                totals.delivered = earlier.tallies.values().map(|tally| tally.delivered).sum();
            }
            NeverLeavesCatchAll => {
                let data = self.inner.data();
                let enough = |tally: &&Tally| tally.delivered >= POLICY.threshold();
                totals.catch_all = data.tallies.values().filter(enough).count() as u64;
            }
            TotalsCountDuplicates => totals.delivered += u64::from(self.counter.load(SeqCst)),
            _ => {}
        }
        Ok(totals)
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        let store = match self.fault {
            IdIsNew => StoreId(self.counter.fetch_add(1, SeqCst).into()),
            _ => return self.inner.probe().await,
        };
        Ok(Probe {
            store,
            memory: MEMORY,
            full: false,
        })
    }
}

impl Broken {
    /// A cursor that says how many came before.
    fn page_by_offset(&self, request: &PageRequest) -> Result<Page, PortError> {
        let start = match &request.after {
            None => 0,
            Some(Cursor(bytes)) => {
                let bytes = bytes.as_ref().try_into();
                let start = bytes.map_err(|_| PortError::new(ErrorKind::Invalid, "page"))?;
                usize::from_le_bytes(start)
            }
        };
        let limit = usize::from(request.limit.get());
        let data = self.inner.data();
        let mut domains: Vec<_> = data
            .tallies
            .iter()
            .skip(start)
            .take(limit)
            .map(|(domain, tally)| (domain.clone(), *tally))
            .collect();
        let is_full = domains.len() == limit;
        let next = is_full.then(|| Cursor(start.saturating_add(limit).to_le_bytes().into()));
        domains.retain(|(_, tally)| {
            let wanted = request.verdict;
            wanted.is_none_or(|verdict| verdict == POLICY.verdict(tally))
        });
        Ok(Page { domains, next })
    }
}
