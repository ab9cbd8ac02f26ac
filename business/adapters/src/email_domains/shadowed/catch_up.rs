//! Brings a shadow to what the primary holds.
//!
//! It takes nothing but the port: what the shadow is behind by is recorded as groups that were formed
//! when the primary first and last saw a domain, so that tallies come out to the second. That an
//! empty shadow is filled is the same thing, and a copy that was broken off goes on where it was.

use std::{collections::BTreeMap, num::NonZeroU16, sync::Arc};

use business::{
    email_domains::{
        model::{Changes, DomainName, Group, GroupId, Member, Tally, WriterId},
        ports::{DomainTallies, Freshness, PageRequest},
    },
    kernel::{ErrorKind, PortError, UnixSeconds},
};
use smallvec::smallvec;
use tokio::task::{JoinSet, yield_now};
use uuid::Uuid;

use super::{ShadowError, comparer::reaches};

/// Domains read at a time.
const PAGE: NonZeroU16 = NonZeroU16::MIN.saturating_add(4_095);
/// Domains that are brought in step at a time: some ten MB. The more of them, the more share a
/// second and so a group.
const CHUNK: usize = 100_000;
/// Groups that are recorded at the same time: a database commits them together.
const LANES: usize = 4;
/// A change holds 32 bits of a count, and a group is held in memory.
const MAX_PIECES: u64 = 100_000;
/// One that finds what to do, and one that finds nothing; one more for what a killed server had
/// under way in a database.
const ROUNDS: usize = 3;

pub(super) async fn catch_up(
    primary: &dyn DomainTallies,
    shadow: &Arc<dyn DomainTallies>,
) -> Result<(), ShadowError> {
    let totals_of_primary = async || primary.totals().await.map_err(ShadowError::Primary);
    let totals_of_shadow = async || shadow.totals().await.map_err(ShadowError::Shadow);
    let was_empty = totals_of_shadow().await?.domains == 0;
    for _ in 0..ROUNDS {
        let before = totals_of_primary().await?;
        let mut round = Round::new(shadow);
        round.run(primary).await?;
        let (after, shadow) = (totals_of_primary().await?, totals_of_shadow().await?);
        if round.behind > 0 && !was_empty {
            let domains = round.behind;
            tracing::warn!(domains, "the shadow was behind, and is caught up");
        }
        if before != after || round.behind > 0 {
            continue;
        }
        if shadow != after {
            return Err(ShadowError::Foreign);
        }
        let domains = after.domains;
        tracing::info!(domains, "the shadow holds what the primary holds");
        return Ok(());
    }
    Err(ShadowError::Moving)
}

/// Goes once through all domains of the primary.
struct Round<'a> {
    shadow: &'a Arc<dyn DomainTallies>,
    /// Domains that were behind, so far.
    behind: u64,
    /// What has to be recorded, by the second.
    missing: BTreeMap<UnixSeconds, Changes>,
    /// Domains in it.
    domains: usize,
    writers: [WriterId; LANES],
    sequence: u64,
}

impl<'a> Round<'a> {
    fn new(shadow: &'a Arc<dyn DomainTallies>) -> Self {
        Self {
            shadow,
            behind: 0,
            missing: BTreeMap::new(),
            domains: 0,
            writers: std::array::from_fn(|_| WriterId(Uuid::new_v4().as_u128())),
            sequence: 0,
        }
    }

    async fn run(&mut self, primary: &dyn DomainTallies) -> Result<(), ShadowError> {
        let mut request = PageRequest {
            verdict: None,
            after: None,
            limit: PAGE,
        };
        loop {
            let page = primary.page(&request).await.map_err(ShadowError::Primary)?;
            let names: Vec<_> = page.domains.iter().map(|(name, _)| name.clone()).collect();
            let held = self.shadow.get(&names, Freshness::Latest).await;
            let held = held.map_err(ShadowError::Shadow)?;
            for ((domain, tally), held) in page.domains.iter().zip(held) {
                self.look_at(domain, tally, &held)?;
            }
            if self.domains >= CHUNK || page.next.is_none() {
                self.record().await.map_err(ShadowError::Shadow)?;
            }
            request.after = page.next;
            if request.after.is_none() {
                return Ok(());
            }
        }
    }

    fn look_at(
        &mut self,
        domain: &DomainName,
        tally: &Tally,
        held: &Tally,
    ) -> Result<(), ShadowError> {
        if !reaches(tally, held) {
            return Err(ShadowError::Ahead(domain.clone()));
        }
        let Some(seen) = tally.seen.filter(|_| tally != held) else {
            return Ok(());
        };
        let mut delivered = tally.delivered - held.delivered;
        let mut bounced = tally.bounced - held.bounced;
        if delivered.max(bounced).div_ceil(u32::MAX.into()) > MAX_PIECES {
            return Err(ShadowError::TooLarge(domain.clone()));
        }
        self.behind += 1;
        self.domains += 1;
        let last = self.missing.entry(seen.last).or_default();
        loop {
            let (delivered_piece, bounced_piece) = (piece(&mut delivered), piece(&mut bounced));
            last.push(domain.borrowed(), delivered_piece, bounced_piece);
            if (delivered, bounced) == (0, 0) {
                break;
            }
        }
        if seen.first != seen.last {
            let first = self.missing.entry(seen.first).or_default();
            first.push(domain.borrowed(), 0, 0);
        }
        Ok(())
    }

    async fn record(&mut self) -> Result<(), PortError> {
        let mut lanes: [Vec<Group>; LANES] = Default::default();
        for (formed_at, changes) in std::mem::take(&mut self.missing) {
            self.sequence += 1;
            let lane = lanes
                .iter_mut()
                .zip(self.writers)
                .min_by_key(|(groups, _)| groups.len());
            let Some((groups, writer)) = lane else {
                continue;
            };
            let member = Member {
                mark: None,
                changes,
            };
            groups.push(Group {
                id: Some(GroupId {
                    writer,
                    sequence: self.sequence,
                }),
                formed_at,
                members: smallvec![Arc::new(member)],
            });
        }
        self.domains = 0;
        let mut recording = JoinSet::new();
        for groups in lanes {
            let shadow = Arc::clone(self.shadow);
            recording.spawn(async move {
                for group in groups {
                    shadow.record(&group).await?;
                    // A store that blocks would not let itself be stopped.
                    yield_now().await;
                }
                Ok(())
            });
        }
        while let Some(recorded) = recording.join_next().await {
            recorded.unwrap_or_else(|panic| {
                let kind = ErrorKind::Unexpected;
                Err(PortError::caused_by(kind, "copy", panic))
            })?;
        }
        let domains = self.behind;
        tracing::info!(domains, "copied to the shadow");
        Ok(())
    }
}

/// As much of a count as a change holds.
fn piece(left: &mut u64) -> u32 {
    let piece = u32::try_from(*left).unwrap_or(u32::MAX);
    *left -= u64::from(piece);
    piece
}
