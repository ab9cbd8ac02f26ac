//! A second store kept beside the first, and compared with it: to see that another store, version
//! or disk counts the same before one moves to it.
//!
//! | file | what it does |
//! | --- | --- |
//! | `catch_up` | brings the shadow to what the primary holds, before anything is served |
//! | `progress` | knows what the shadow still has to get, and whether it missed something |
//! | `applier` | gives it to the shadow, on a thread of its own |
//! | `comparer` | reads sampled domains from both |

mod applier;
mod catch_up;
mod comparer;
mod metrics;
mod progress;

use std::{
    io,
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use business::{
    email_domains::{
        model::{DomainName, Group, Tally},
        ports::{DomainTallies, Freshness, Page, PageRequest, Probe, Recorded, Totals},
    },
    kernel::{Clock, PortError},
};
use foundation::supervision::{Shutdown, spawn_named, spawn_thread};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use self::{
    applier::Applier,
    comparer::Comparer,
    metrics::Metrics,
    progress::{Loss, Progress},
};

/// How long closing waits for the shadow. What it does not get by then, it gets at the next start.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// How often, and how many times, the clock is asked for the next second.
const NEXT_SECOND_LOOK_EVERY: Duration = Duration::from_millis(10);
const NEXT_SECOND_LOOKS: u32 = 150;

/// How a shadow is kept.
#[derive(Clone, Copy, Debug)]
pub struct ShadowedOptions {
    /// How many events may wait for the shadow. One group more, and it is out of step.
    pub queue_capacity: NonZeroU32,
    /// How many domains are compared in a second, at the most.
    pub compared_per_s: NonZeroU16,
}

/// Records in `primary` and answers from it. A second store, the shadow, gets the same.
///
/// - The primary's path never waits for the shadow. What the primary recorded waits in memory,
///   within a bound; groups of one second are recorded in the shadow together.
/// - The primary decides what counts. The shadow gets the members that counted, with their marks;
///   one that it would not count, because it forgot other marks than the primary, is counted
///   without its mark. So the shadow knows the keys of all that was counted since it is kept, and
///   none from before.
/// - A shadow that missed a group, because the queue was full or it refused one, is out of step: it
///   gets nothing more and is not compared. The next start brings it in step again.
/// - A group whose outcome at the primary is unknown holds up the comparing until the same group
///   is settled. If its writer goes on without that, the shadow is out of step.
/// - So it is once a group is recorded that was formed before the shadow began, by an earlier life of
///   the server: the copy may hold it or not.
/// - A sampled domain is compared so: read the primary; wait until the shadow has all that was
///   recorded by then; read the shadow; read the primary again. Counts only grow, so the shadow
///   lies between the two, or it is a difference, which is counted and logged.
///
/// All of this holds for one server: what another one records in the same primary never gets to
/// the shadow, and shows as a difference.
pub struct Shadowed {
    primary: Arc<dyn DomainTallies>,
    progress: Arc<Progress>,
    close: watch::Sender<bool>,
    ends: Mutex<Option<Ends>>,
}

/// What ends when the shadow is closed.
struct Ends {
    /// Says whether the shadow has all.
    applier: oneshot::Receiver<bool>,
    comparer: JoinHandle<()>,
}

/// Why a shadow cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum ShadowError {
    /// The primary cannot be read.
    #[error("the primary cannot be read")]
    Primary(#[source] PortError),
    /// The shadow cannot be read, or be written to.
    #[error("the shadow cannot be brought in step")]
    Shadow(#[source] PortError),
    /// It counted more, or at other times, than the primary.
    #[error("the shadow holds more of {0} than the primary, so it is no copy of it: empty it")]
    Ahead(DomainName),
    /// It holds domains that the primary does not hold, or its sums are wrong.
    #[error("the shadow holds what the primary does not, so it is no copy of it: empty it")]
    Foreign,
    /// Somebody else records in the primary.
    #[error("the primary changes while it is copied: a shadow is for one server alone")]
    Moving,
    /// A count is too large to be copied.
    #[error("the count of {0} is too large to be copied")]
    TooLarge(DomainName),
    /// The system gives no thread.
    #[error("the shadow gets no thread")]
    Thread(#[from] io::Error),
    /// A metric's name is taken.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

impl Shadowed {
    /// Brings `shadow` to what `primary` holds, and keeps it there. An empty one is filled, one that
    /// is behind is caught up. Nobody may record in the primary meanwhile.
    ///
    /// `clock` is the one that groups take their time from. `contained` is the shadow's own: a part of
    /// it that breaks, and asks to stop the process, puts the shadow out of step instead.
    ///
    /// # Errors
    /// See [`ShadowError`].
    ///
    /// # Panics
    /// Outside a tokio runtime: domains are compared on the present one.
    pub async fn begin(
        primary: Arc<dyn DomainTallies>,
        shadow: Arc<dyn DomainTallies>,
        options: ShadowedOptions,
        clock: &dyn Clock,
        contained: Shutdown,
        registry: &Registry,
    ) -> Result<Self, ShadowError> {
        let metrics = Metrics::register(registry, options.queue_capacity.get())?;
        let began = clock.now();
        // Groups carry whole seconds: those formed from the next one on are not of an earlier life. And
        // what a killed server had under way in a database is through by then.
        for _ in 0..NEXT_SECOND_LOOKS {
            if clock.now() > began {
                break;
            }
            sleep(NEXT_SECOND_LOOK_EVERY).await;
        }
        catch_up::catch_up(&*primary, &shadow).await?;
        let progress = Progress::new(options.queue_capacity, began, metrics);
        let progress = Arc::new(progress);
        let (close, closing) = watch::channel(false);
        let applier = Applier::new(Arc::clone(&shadow), Arc::clone(&progress), closing.clone());
        // A thread and a runtime of its own: a store may block it.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (ended, applier_ends) = oneshot::channel();
        spawn_thread("shadow", &contained, move || {
            let has_all = runtime.block_on(applier.run());
            let _ = ended.send(has_all);
        })?;
        let comparer = Comparer::new(
            Arc::clone(&primary),
            shadow,
            Arc::clone(&progress),
            options.compared_per_s,
        );
        // Not there: connections of the primary must not hang on a thread that the shadow may block.
        let comparer = spawn_named("shadow-comparer", &contained, comparer.run(closing.clone()));
        tokio::spawn(contain(contained, Arc::clone(&progress), closing));
        Ok(Self {
            primary,
            progress,
            close,
            ends: Mutex::new(Some(Ends {
                applier: applier_ends,
                comparer,
            })),
        })
    }

    /// Says that groups of an earlier life of the server are still to be recorded: nobody knows which
    /// of them the copy holds, so the shadow is out of step.
    pub fn earlier_groups_wait(&self) {
        self.progress.lose(&Loss::Earlier);
    }

    /// Gives the shadow what still waits for it, as far as it takes it in a few seconds, and lets
    /// go of both stores. To be called when nothing is recorded any more.
    pub async fn close(&self) {
        self.close.send_replace(true);
        let Some(ends) = self.ends.lock().take() else {
            return;
        };
        let _ = ends.comparer.await;
        // A thread that hangs in the shadow is left behind.
        let ended = timeout(CLOSE_WITHIN + Duration::from_secs(1), ends.applier).await;
        if matches!(ended, Ok(Ok(true))) {
            tracing::info!("the shadow has all that was counted");
        } else {
            tracing::warn!(
                "the shadow does not have all that was counted: start with it once more before it \
                 is the store"
            );
        }
    }
}

/// What breaks in the shadow ends the shadow, and not the process.
async fn contain(contained: Shutdown, progress: Arc<Progress>, mut closing: watch::Receiver<bool>) {
    tokio::select! {
        _ = closing.wait_for(|close| *close) => {}
        cause = contained.requested() => {
            progress.lose(&Loss::Broken(cause.to_string()));
            progress.discard();
        }
    }
}

#[async_trait]
impl DomainTallies for Shadowed {
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        let flight = self.progress.begin(group);
        let recorded = self.primary.record(group).await;
        flight.settle(group, &recorded);
        recorded
    }

    async fn get(
        &self,
        domains: &[DomainName],
        freshness: Freshness,
    ) -> Result<Vec<Tally>, PortError> {
        self.primary.get(domains, freshness).await
    }

    async fn page(&self, request: &PageRequest) -> Result<Page, PortError> {
        self.primary.page(request).await
    }

    async fn totals(&self) -> Result<Totals, PortError> {
        self.primary.totals().await
    }

    async fn probe(&self) -> Result<Probe, PortError> {
        self.primary.probe().await
    }
}
