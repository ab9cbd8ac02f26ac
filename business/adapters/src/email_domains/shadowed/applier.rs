use std::{sync::Arc, time::Duration};

use business::{
    email_domains::{
        model::{DomainName, Group, GroupId, Member, Outcome, WriterId},
        ports::{DomainTallies, Recorded},
    },
    kernel::{PortError, Retry, UnixSeconds},
};
use smallvec::SmallVec;
use tokio::{sync::watch, time::sleep};
use uuid::Uuid;

use super::{
    CLOSE_WITHIN,
    progress::{Batch, Loss, Progress},
};

/// Before a group is given to a shadow again that did not take it; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A domain is sampled from so many of a request, at the most.
const SAMPLED_FROM: usize = 1_024;

/// Gives the shadow what waits for it, in order, under group ids of its own: what the shadow may
/// have applied already is given to it again, and counts once.
pub(super) struct Applier {
    shadow: Arc<dyn DomainTallies>,
    progress: Arc<Progress>,
    closing: watch::Receiver<bool>,
    writer: WriterId,
    sequence: u64,
}

impl Applier {
    pub(super) fn new(
        shadow: Arc<dyn DomainTallies>,
        progress: Arc<Progress>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        Self {
            shadow,
            progress,
            closing,
            writer: WriterId(Uuid::new_v4().as_u128()),
            sequence: 0,
        }
    }

    /// Runs until the shadow is out of step, or closed, and says whether it has all.
    pub(super) async fn run(self) -> bool {
        let progress = Arc::clone(&self.progress);
        let mut closing = self.closing.clone();
        let closed = async {
            // An error means that the policy is gone.
            let _ = closing.wait_for(|close| *close).await;
            sleep(CLOSE_WITHIN).await;
        };
        tokio::select! {
            followed = self.follow() => match followed {
                Ok(()) => !progress.is_lost(),
                Err(loss) => {
                    progress.lose(&loss);
                    false
                }
            },
            () = closed => false,
        }
    }

    async fn follow(mut self) -> Result<(), Loss> {
        loop {
            if let Some(batch) = self.progress.take() {
                self.apply(&batch).await.map_err(Loss::Refused)?;
                let sample = self.progress.wants_sample().then(|| sample(&batch));
                self.progress.applied(&batch, sample.flatten());
                continue;
            }
            if self.progress.is_lost() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = self.progress.work() => {}
                _ = self.closing.wait_for(|close| *close) => return Ok(()),
            }
        }
    }

    /// Counts a batch in the shadow, all of it: the primary has decided so.
    async fn apply(&mut self, batch: &Batch) -> Result<(), PortError> {
        let group = self.group(batch.formed_at, batch.members.clone());
        let recorded = self.record(&group).await?;
        let not_counted: SmallVec<[Arc<Member>; 1]> = group
            .members
            .iter()
            .zip(&recorded.outcomes)
            .filter(|(_, outcome)| **outcome != Outcome::Counted)
            .map(|(member, _)| {
                Arc::new(Member {
                    mark: None,
                    changes: member.changes.clone(),
                })
            })
            .collect();
        if not_counted.is_empty() {
            return Ok(());
        }
        let members = not_counted.len();
        tracing::debug!(members, "the shadow remembers other keys than the primary");
        let group = self.group(batch.formed_at, not_counted);
        self.record(&group).await.map(drop)
    }

    fn group(&mut self, formed_at: UnixSeconds, members: SmallVec<[Arc<Member>; 1]>) -> Group {
        self.sequence += 1;
        Group {
            id: Some(GroupId {
                writer: self.writer,
                sequence: self.sequence,
            }),
            formed_at,
            members,
        }
    }

    /// Tries until the shadow has taken it or never will. What waits meanwhile is bounded, so this
    /// is too.
    async fn record(&self, group: &Group) -> Result<Recorded, PortError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.shadow.record(group).await {
                Ok(recorded) => {
                    if pause > FIRST_PAUSE {
                        tracing::info!("the shadow takes groups again");
                    }
                    return Ok(recorded);
                }
                Err(error) => error,
            };
            if error.kind().retry() == Retry::Never || self.progress.is_lost() {
                return Err(error);
            }
            if pause == FIRST_PAUSE {
                tracing::warn!(error = %error, "the shadow does not take a group; it is tried again");
            }
            sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }
}

/// Any of the domains.
fn sample(batch: &Batch) -> Option<DomainName> {
    let member = fastrand::choice(&batch.members)?;
    let among = member.changes.len().min(SAMPLED_FROM);
    let change = member.changes.iter().nth(fastrand::usize(..among.max(1)))?;
    Some(change.domain.to_name())
}
