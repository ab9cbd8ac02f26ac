//! Deadlines, retries and a breaker around a store that may be away.
//!
//! This is the one layer that tries again: were there two, their tries would multiply. A call that
//! changes nothing is made again after any trouble; a group only under its own id, by which it
//! counts once.

mod breaker;
mod budget;

use std::{cell::Cell, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use business::{
    email_domains::{
        model::{DomainName, Group, GroupId, Outcome, Outcomes, Tally, WriterId},
        ports::{DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, Totals},
    },
    kernel::{ErrorKind, PortError, Retry},
};
use foundation::planted::planted_bug;
use parking_lot::Mutex;
use prometheus::{
    IntCounter, IntGauge, Registry, register_int_counter_vec_with_registry,
    register_int_gauge_vec_with_registry,
};
use tokio::time::{Instant, sleep, timeout_at};

use self::{breaker::Breaker, budget::Budget};

/// How long a call may take, with every try and the pauses between.
#[derive(Clone, Copy, Debug)]
pub struct GuardedOptions {
    /// For a group. After it the outcome is unknown.
    pub record_within: Duration,
    /// For a read.
    pub read_within: Duration,
}

/// The longest pause before the second try; before each later one it may be twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Guards `inner`. Groups and reads are guarded apart: the one may work while the other does not.
///
/// Probes pass: they are to show how the store is.
pub struct Guarded {
    inner: Arc<dyn DomainTallies>,
    record: Guard,
    read: Guard,
}

/// What is known of one kind of calls.
struct Guard {
    within: Duration,
    /// What a call that is not answered in time is: `Ambiguous` if it may have changed something.
    late: ErrorKind,
    began: Instant,
    breaker: Mutex<Breaker>,
    budget: Mutex<Budget>,
    retries: IntCounter,
    refused: IntCounter,
    level: IntGauge,
}

/// The store was not asked, for it failed a moment ago.
#[derive(Debug, thiserror::Error)]
#[error("not asked: it failed a moment ago")]
struct NotAsked;

impl Guarded {
    /// Guards `inner`.
    ///
    /// # Errors
    /// When the metrics are registered already.
    pub fn new(
        inner: Arc<dyn DomainTallies>,
        options: GuardedOptions,
        registry: &Registry,
    ) -> prometheus::Result<Self> {
        let retries = register_int_counter_vec_with_registry!(
            "catchall_store_retries_total",
            "Calls of the store that were made again, after a failure that allows it.",
            &["operation"],
            registry
        )?;
        let refused = register_int_counter_vec_with_registry!(
            "catchall_store_breaker_refused_total",
            "Calls that were not made, for the store failed a moment ago.",
            &["operation"],
            registry
        )?;
        let level = register_int_gauge_vec_with_registry!(
            "catchall_store_breaker",
            "0 when the store is asked, 2 when it is not, 1 when one call finds out.",
            &["operation"],
            registry
        )?;
        let guard = |operation, within, late| Guard {
            within,
            late,
            began: Instant::now(),
            breaker: Mutex::new(Breaker::NEW),
            budget: Mutex::new(Budget::FULL),
            retries: retries.with_label_values(&[operation]),
            refused: refused.with_label_values(&[operation]),
            level: level.with_label_values(&[operation]),
        };
        Ok(Self {
            inner,
            record: guard("record", options.record_within, ErrorKind::Ambiguous),
            read: guard("read", options.read_within, ErrorKind::Unavailable),
        })
    }
}

impl Guarded {
    async fn record_once(&self, group: &Group) -> Result<Recorded, PortError> {
        thread_local! {
            static LAST: Cell<Option<GroupId>> = const { Cell::new(None) };
        }
        if planted_bug("new-id-at-retry") && LAST.replace(group.id) == group.id {
            let writer = WriterId(fastrand::u128(..));
            let id = group.id.map(|id| GroupId { writer, ..id });
            return self
                .inner
                .record(&Group {
                    id,
                    ..group.clone()
                })
                .await;
        }
        self.inner.record(group).await
    }
}

impl Guard {
    /// Makes a call, and makes it again as long as that is allowed and may help.
    async fn call<T, F: Future<Output = Result<T, PortError>>>(
        &self,
        operation: &'static str,
        idempotent: bool,
        call: impl Fn() -> F,
    ) -> Result<T, PortError> {
        let deadline = Instant::now() + self.within;
        // Once a try may have been applied, no later failure says that none was.
        let mut unknown = None;
        let mut earlier = 0;
        loop {
            if !self.admit() {
                let not_asked = PortError::caused_by(ErrorKind::Unavailable, operation, NotAsked);
                return Err(unknown.unwrap_or(not_asked));
            }
            let result = timeout_at(deadline, call()).await;
            let result =
                result.unwrap_or_else(|late| Err(PortError::caused_by(self.late, operation, late)));
            self.note(&result);
            let error = match result {
                Ok(answer) => {
                    if earlier == 0 {
                        self.budget.lock().earn();
                    }
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let retry = error.kind().retry();
            if error.kind() == ErrorKind::Ambiguous {
                unknown.get_or_insert(error.clone());
            }
            let pause = pause(earlier);
            let may_be_made_again =
                retry == Retry::Safe || retry == Retry::IfIdempotent && idempotent;
            if !may_be_made_again
                // It is at its bound: more of the same is no help.
                || error.kind() == ErrorKind::Overloaded
                || Instant::now() + pause >= deadline
                || !self.budget.lock().spend()
            {
                return Err(unknown.unwrap_or(error));
            }
            sleep(pause).await;
            self.retries.inc();
            earlier += 1;
        }
    }

    fn admit(&self) -> bool {
        let mut breaker = self.breaker.lock();
        let admitted = breaker.admit(self.began.elapsed());
        self.level.set(breaker.level());
        if !admitted {
            self.refused.inc();
        }
        admitted
    }

    fn note<T>(&self, result: &Result<T, PortError>) {
        let mut breaker = self.breaker.lock();
        match result.as_ref().map_err(PortError::kind) {
            Err(ErrorKind::Unavailable | ErrorKind::Ambiguous) => {
                breaker.failed(self.began.elapsed());
            }
            Ok(_)
            | Err(
                ErrorKind::Overloaded
                | ErrorKind::Invalid
                | ErrorKind::Outdated
                | ErrorKind::Corrupt
                | ErrorKind::Unexpected,
            ) => breaker.answered(),
        }
        self.level.set(breaker.level());
    }
}

/// Any time up to a bound that doubles, so that not all come back together ("full jitter").
fn pause(earlier: u32) -> Duration {
    let longest = FIRST_PAUSE * 2_u32.pow(earlier.min(10));
    longest.min(LONGEST_PAUSE).mul_f64(fastrand::f64())
}

#[async_trait]
impl DomainTallies for Guarded {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        let idempotent = group.id.is_some();
        let recorded = self
            .record
            .call("record", idempotent, || self.record_once(group))
            .await;
        match recorded {
            Err(error)
                if error.kind() == ErrorKind::Ambiguous
                    && planted_bug("unknown-taken-for-counted") =>
            {
                Ok(Recorded {
                    outcomes: Outcomes::from_elem(Outcome::Counted, group.members.len()),
                    verdict_changes: Vec::new(),
                })
            }
            recorded => recorded,
        }
    }

    async fn get(
        &self,
        domains: &[DomainName],
        freshness: Freshness,
    ) -> Result<Vec<Tally>, PortError> {
        self.read
            .call("get", true, || self.inner.get(domains, freshness))
            .await
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        self.read
            .call("page", true, || self.inner.page(request))
            .await
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        self.read.call("totals", true, || self.inner.totals()).await
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        self.inner.probe().await
    }
}
