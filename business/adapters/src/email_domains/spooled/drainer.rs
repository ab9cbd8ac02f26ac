//! How what waits gets to the store: segment by segment, each writer's groups in their order.
//!
//! Groups come to the spool faster than a store takes them one by one, for a sync is cheaper than a
//! COMMIT. So those that one writer formed within one second go to the store as one group, under the
//! id of the last of them. Which go together follows from the segment alone, which is sealed and never
//! changes: whenever a group comes to the store, also late or in another life, it is the same group
//! under the same id. The first of each writer in a segment goes alone: the store may have it already.

use std::{
    borrow::Cow,
    collections::HashMap,
    io,
    panic::resume_unwind,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use business::{
    email_domains::{
        model::{Group, GroupId, WriterId},
        ports::Recorded,
    },
    kernel::{ErrorKind, PortError, Retry},
};
use foundation::{
    planted::{kill_point, planted_bug},
    supervision::Heart,
    telemetry::root_span,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tracing::{Instrument, field};
use uuid::Uuid;

use super::{Mode, Shared, spool, spool::Sealed};
use crate::email_domains::{
    accounting::{Settled, events_of},
    traced::show_failure,
};

/// As in the groups that are formed of requests. With another number, groups that an older version
/// sent would come again as others.
const MAX_CHANGES: usize = 65_536;
/// What was settled in less than this has left next to nothing behind: the rest goes while new
/// groups wait. Under a steady load it may never be so little: so with each round it may be twice as
/// much, as long as those who wait are not away for longer than when the store is.
const NEARLY_DONE: Duration = Duration::from_millis(100);
/// How often it shows that it lives while it waits for the store.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The spool is closed.
struct Closed;

/// Sends what waits to the store, whenever something does, until the spool is closed.
pub(super) async fn run(shared: Arc<Shared>, heart: Heart) {
    let drainer = Drainer {
        heart,
        closing: shared.closing.subscribe(),
        shared,
    };
    // Should this end, nobody finishes any more.
    let _going_on = GoingOn(&drainer);
    let mut modes = drainer.shared.mode.subscribe();
    let mut closing = drainer.closing.clone();
    loop {
        let waits = modes.wait_for(|mode| *mode != Mode::Direct);
        let ended = tokio::select! {
            waits = waits => waits.is_err(),
            _ = closing.wait_for(|closing| *closing) => true,
        };
        if ended || drainer.drain().await.is_err() {
            return;
        }
    }
}

#[derive(Clone)]
struct Drainer {
    shared: Arc<Shared>,
    closing: watch::Receiver<bool>,
    heart: Heart,
}

struct GoingOn<'a>(&'a Drainer);

impl Drop for GoingOn<'_> {
    fn drop(&mut self) {
        self.0.go_on_spooling();
    }
}

impl Drainer {
    /// Until nothing waits.
    async fn drain(&self) -> Result<(), Closed> {
        let mut pause = FIRST_PAUSE;
        let (mut nearly_done, mut little) = (false, NEARLY_DONE);
        loop {
            let began = Instant::now();
            self.heart.beats();
            let failed = match self.next(nearly_done) {
                Ok(None) => {
                    self.heart.rests();
                    return Ok(());
                }
                Ok(Some(sealed)) => {
                    let settled = self.settle_within(sealed).await?;
                    if settled.is_ok() {
                        pause = FIRST_PAUSE;
                        nearly_done = began.elapsed() < little;
                        little = (little * 2).min(self.shared.options.after);
                        continue;
                    }
                    settled
                }
                Err(error) => Err(error),
            };
            if let Err(error) = failed {
                tracing::error!(%error, "what waits in the spool cannot be settled");
            }
            nearly_done = false;
            self.go_on_spooling();
            self.rest(&mut pause).await?;
        }
    }

    /// The next segment to settle, sealed. With nothing left, new groups go to the store again; with
    /// nearly nothing left, they wait until it is settled.
    fn next(&self, nearly_done: bool) -> io::Result<Option<Sealed>> {
        let shared = &*self.shared;
        let mut spool = shared.spool.lock();
        if spool.is_empty() {
            shared.enter(Mode::Direct);
            return Ok(None);
        }
        if shared.failed.load(Ordering::Acquire) {
            // The next life may find a record more in the segment than this one knows of.
            return Err(io::Error::other("a sync failed before"));
        }
        if spool.first_sealed().is_none() {
            spool
                .seal()
                .map_err(|error| shared.stop_if_unknown(error))?;
            if nearly_done {
                shared.enter(Mode::Finishing);
            }
        }
        Ok(spool.first_sealed())
    }

    /// Settles a segment. Whoever waits for that does not for longer than for a store that is away.
    async fn settle_within(&self, sealed: Sealed) -> Result<io::Result<()>, Closed> {
        let mut settling = pin!(self.settle_segment(sealed));
        match timeout(self.shared.options.after, &mut settling).await {
            Ok(settled) => settled,
            Err(_) => {
                self.go_on_spooling();
                settling.await
            }
        }
    }

    /// Settles all groups of a segment, and removes it. The inner error says why it cannot be read.
    async fn settle_segment(&self, sealed: Sealed) -> Result<io::Result<()>, Closed> {
        let disk = Arc::clone(&self.shared.disk);
        let read = tokio::task::spawn_blocking(move || spool::read(&*disk, sealed)).await;
        let groups = match read.map_err(io::Error::other).and_then(|read| read) {
            Ok(groups) => groups,
            Err(error) => return Ok(Err(error)),
        };
        if planted_bug("spool-removed-early") {
            let _ = self.shared.spool.lock().remove(sealed);
        }
        // A writer's own in their order; those of different writers side by side, as they were formed.
        let mut writers = JoinSet::new();
        for groups in by_writer(together(groups)) {
            let drainer = self.clone();
            writers.spawn(async move {
                let mut settled = Settled::default();
                for group in groups {
                    drainer.settle(&group, &mut settled).await?;
                    kill_point("drained");
                }
                Ok(settled)
            });
        }
        let mut all = Settled::default();
        while let Some(settled) = writers.join_next().await {
            match settled {
                Ok(settled) => all.merge(&settled?),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    Err(_) => return Err(Closed),
                },
            }
        }
        let mut spool = self.shared.spool.lock();
        if let Err(error) = spool.remove(sealed) {
            let error = self.shared.stop_if_unknown(error);
            // It is settled again, to no effect.
            return Ok(Err(error));
        }
        // Not before: what is settled again would be told again.
        self.shared.metrics.drained(&all);
        self.shared.sized(&spool);
        Ok(Ok(()))
    }

    /// Sends a group to the store until the store says what became of it, and adds that to `settled`.
    async fn settle(&self, group: &Group, settled: &mut Settled) -> Result<(), Closed> {
        let mut pause = FIRST_PAUSE;
        loop {
            if *self.closing.borrow() {
                return Err(Closed);
            }
            self.heart.beats();
            let mut group = Cow::Borrowed(group);
            if planted_bug("new-id-at-drain") {
                group.to_mut().id = Some(GroupId {
                    writer: WriterId(Uuid::new_v4().as_u128()),
                    sequence: 1,
                });
            }
            match self.record(&group).await? {
                Ok(recorded) => {
                    let metrics = &self.shared.metrics;
                    metrics.verdicts_changed(group.formed_at, &recorded.verdict_changes);
                    let mut told = Settled::default();
                    told.add(&group, &recorded.outcomes);
                    settled.merge(&told);
                    let refused = told.refused();
                    if refused > 0 {
                        tracing::error!(
                            events = refused,
                            "events from the spool do not count: their keys were used before for \
                             something else, or are older than what the store remembers"
                        );
                    }
                    return Ok(());
                }
                // The store has it, and a later one of its writer.
                Err(error) if error.kind() == ErrorKind::Outdated => {
                    settled.outdated += events_of(&group);
                    return Ok(());
                }
                Err(error) if error.kind().retry() == Retry::Never => {
                    let id = group.id;
                    tracing::error!(%error, ?id, "the store refuses what waits in the spool");
                }
                Err(error) => {
                    if pause == LONGEST_PAUSE {
                        tracing::warn!(%error, "what waits in the spool has to wait on");
                    }
                }
            }
            self.go_on_spooling();
            self.rest(&mut pause).await?;
        }
    }

    /// Sends a group to the store once. It may take its time.
    async fn record(&self, group: &Group) -> Result<Result<Recorded, PortError>, Closed> {
        let mut closing = self.closing.clone();
        // Its requests were answered long ago.
        let span = root_span(|| {
            tracing::debug_span!(
                "drain group",
                members = group.members.len(),
                otel.status_code = field::Empty,
                error.type = field::Empty,
            )
        });
        let mut recording = self.shared.inner.record(group).instrument(span.clone());
        loop {
            tokio::select! {
                recorded = &mut recording => {
                    if let Err(error) = &recorded {
                        show_failure(&span, error);
                    }
                    return Ok(recorded);
                }
                _ = closing.wait_for(|closing| *closing) => return Err(Closed),
                () = sleep(ALIVE_EVERY) => self.heart.beats(),
            }
        }
    }

    /// The store is away again: those who wait for the last groups to get there shall not.
    fn go_on_spooling(&self) {
        let _spool = self.shared.spool.lock();
        if *self.shared.mode.borrow() == Mode::Finishing {
            self.shared.enter(Mode::Spooling);
        }
    }

    /// Waits a little, and longer the next time.
    async fn rest(&self, pause: &mut Duration) -> Result<(), Closed> {
        let mut closing = self.closing.clone();
        let closing = closing.wait_for(|closing| *closing);
        if tokio::time::timeout(*pause, closing).await.is_ok() {
            return Err(Closed);
        }
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

fn changes(group: &Group) -> usize {
    group
        .members
        .iter()
        .map(|member| member.changes.len())
        .sum()
}

/// The groups as they go to the store: of each writer the first alone, and the others of one second
/// together, within a bound. A writer's own stay in their order.
fn together(groups: Vec<Group>) -> Vec<Group> {
    /// The last group of a writer so far: where it is, and how many changes it has. Nothing can be
    /// added to a first one.
    struct Last {
        place: usize,
        changes: usize,
        first: bool,
    }
    let mut all: Vec<Group> = Vec::new();
    let mut writers: HashMap<Option<WriterId>, Last> = HashMap::new();
    for group in groups {
        let writer = group.id.map(|id| id.writer);
        let changes = changes(&group);
        let last = writers.get_mut(&writer);
        let first = last.is_none();
        if let Some(last) = last
            && !last.first
            && last.changes < MAX_CHANGES
            && all[last.place].formed_at == group.formed_at
        {
            last.changes += changes;
            all[last.place].id = group.id;
            all[last.place].members.extend(group.members);
            continue;
        }
        let place = all.len();
        writers.insert(
            writer,
            Last {
                place,
                changes,
                first,
            },
        );
        all.push(group);
    }
    all
}

/// The groups of each writer, in their order.
fn by_writer(groups: Vec<Group>) -> impl Iterator<Item = Vec<Group>> {
    let mut writers: HashMap<Option<WriterId>, Vec<Group>> = HashMap::new();
    for group in groups {
        let writer = group.id.map(|id| id.writer);
        writers.entry(writer).or_default().push(group);
    }
    writers.into_values()
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    fn group(writer: u128, sequence: u64, formed_at: u32) -> Group {
        Group {
            id: Some(GroupId {
                writer: WriterId(writer),
                sequence,
            }),
            formed_at: formed_at.into(),
            members: smallvec![Arc::default()],
        }
    }

    #[test]
    fn the_first_of_a_writer_goes_alone_and_the_others_by_the_second() {
        let all = [
            group(1, 7, 100),
            group(1, 8, 100),
            group(2, 3, 100),
            group(1, 9, 100),
            group(2, 4, 101),
            group(1, 10, 101),
            group(2, 5, 101),
        ];
        let told: Vec<_> = together(all.to_vec())
            .iter()
            .map(|group| {
                let id = group.id.unwrap();
                (id.writer.0, id.sequence, group.members.len())
            })
            .collect();
        let expected = [(1, 7, 1), (1, 9, 2), (2, 3, 1), (2, 5, 2), (1, 10, 1)];
        assert_eq!(told, expected);
    }
}
