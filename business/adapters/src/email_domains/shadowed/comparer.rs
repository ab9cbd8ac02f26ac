use std::{
    num::NonZeroU16,
    sync::Arc,
    time::{Duration, Instant},
};

use business::{
    email_domains::{
        model::{DomainName, Tally},
        ports::{DomainTallies, Freshness},
    },
    kernel::PortError,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};

use super::progress::{Awaited, Progress};

/// How long a comparison waits for the shadow before it is given up.
const WAIT_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks. Nobody is asked to wake the comparer: that would be work on the primary's
/// path.
const LOOK_EVERY: Duration = Duration::from_millis(2);
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Compares domains, a few a second.
pub(super) struct Comparer {
    primary: Arc<dyn DomainTallies>,
    shadow: Arc<dyn DomainTallies>,
    progress: Arc<Progress>,
    every: Duration,
    logged: Option<Instant>,
    not_logged: u64,
}

/// One domain as it was read.
struct Compared {
    before: Tally,
    shadow: Tally,
    after: Tally,
}

impl Comparer {
    pub(super) fn new(
        primary: Arc<dyn DomainTallies>,
        shadow: Arc<dyn DomainTallies>,
        progress: Arc<Progress>,
        per_s: NonZeroU16,
    ) -> Self {
        Self {
            primary,
            shadow,
            progress,
            every: Duration::from_secs(1) / u32::from(per_s.get()),
            logged: None,
            not_logged: 0,
        }
    }

    /// Runs until the shadow is closed or out of step.
    pub(super) async fn run(mut self, mut closing: watch::Receiver<bool>) {
        tokio::select! {
            _ = closing.wait_for(|close| *close) => {}
            () = self.watch() => {}
        }
    }

    async fn watch(&mut self) {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.progress.is_lost() {
                self.progress.discard();
                return;
            }
            let Some(domain) = self.progress.sample() else {
                continue;
            };
            match self.compare(&domain).await {
                Ok(Some(compared)) => self.judge(&domain, &compared),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "a domain could not be compared"),
            }
        }
    }

    /// `None` when the shadow did not come as far in time, or never will.
    async fn compare(&self, domain: &DomainName) -> Result<Option<Compared>, PortError> {
        let before = read(&*self.primary, domain).await?;
        // What was just read may be of groups that are not settled yet, but of none begun later.
        let begun = self.progress.begun();
        let mut given = 0;
        if !wait(|| self.progress.settled(begun, &mut given)).await
            || !wait(|| self.progress.has_applied(given)).await
        {
            return Ok(None);
        }
        let shadow = read(&*self.shadow, domain).await?;
        let after = read(&*self.primary, domain).await?;
        Ok(Some(Compared {
            before,
            shadow,
            after,
        }))
    }

    fn judge(&mut self, domain: &DomainName, compared: &Compared) {
        let metrics = &self.progress.metrics;
        metrics.compared.inc();
        let Compared {
            before,
            shadow,
            after,
        } = compared;
        if reaches(shadow, before) && reaches(after, shadow) {
            return;
        }
        metrics.differences.inc();
        if self.logged.is_some_and(|at| at.elapsed() < LOG_EVERY) {
            self.not_logged += 1;
            return;
        }
        self.logged = Some(Instant::now());
        let others = std::mem::take(&mut self.not_logged);
        tracing::error!(
            %domain, ?before, ?shadow, ?after, others,
            "the shadow differs: it is not between the primary before and the primary after"
        );
    }
}

async fn read(store: &dyn DomainTallies, domain: &DomainName) -> Result<Tally, PortError> {
    let tallies = store
        .get(std::slice::from_ref(domain), Freshness::Latest)
        .await?;
    Ok(tallies.first().copied().unwrap_or_default())
}

/// Whether it came in time.
async fn wait(mut awaited: impl FnMut() -> Awaited) -> bool {
    let began = Instant::now();
    loop {
        match awaited() {
            Awaited::Yes => return true,
            Awaited::Never => return false,
            Awaited::NotYet if began.elapsed() > WAIT_WITHIN => return false,
            Awaited::NotYet => sleep(LOOK_EVERY).await,
        }
    }
}

/// Whether a tally can come of another one: counts only grow, and what was seen only widens.
pub(super) fn reaches(later: &Tally, earlier: &Tally) -> bool {
    let widened = match (later.seen, earlier.seen) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(later), Some(earlier)) => later.first <= earlier.first && later.last >= earlier.last,
    };
    later.delivered >= earlier.delivered && later.bounced >= earlier.bounced && widened
}

#[cfg(test)]
mod tests {
    use business::email_domains::model::Seen;

    use super::*;

    fn tally(delivered: u64, bounced: u64, first: u32, last: u32) -> Tally {
        Tally {
            delivered,
            bounced,
            seen: Some(Seen {
                first: first.into(),
                last: last.into(),
            }),
        }
    }

    #[test]
    fn a_tally_comes_of_one_that_holds_less() {
        let earlier = tally(5, 2, 100, 200);
        for later in [
            earlier,
            tally(6, 2, 100, 201),
            tally(5, 3, 99, 200),
            tally(9, 9, 0, 999),
        ] {
            assert!(reaches(&later, &earlier), "{later:?}");
            assert!(reaches(&later, &Tally::ZERO));
        }
        for other in [
            tally(4, 2, 100, 200),
            tally(5, 1, 100, 200),
            tally(5, 2, 101, 200),
            tally(5, 2, 100, 199),
            Tally::ZERO,
        ] {
            assert!(!reaches(&other, &earlier), "{other:?}");
        }
    }
}
