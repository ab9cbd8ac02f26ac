//! How answers get from a committer to the requests that wait.
//!
//! Waking a task of another thread costs a system call. A group answers many requests of few
//! threads, so each thread is woken once: its answers are laid into its *inbox*, and one of the
//! requests there is woken, which wakes the others; that is a wake within a thread, and cheap.
//!
//! So a request that is woken has to poll its answer, or drop it: one that keeps it and waits for
//! something else would hold up the others of its thread. The services await it at once.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use business::{
    email_domains::ports::Recorded,
    kernel::{ErrorKind, PortError},
};
use parking_lot::Mutex;

/// What a request is answered.
type Answer = Result<Recorded, PortError>;

thread_local! {
    /// The inbox of the requests that this thread serves. A request that moves to another thread
    /// keeps the one it began with; it is only woken less cheaply.
    static INBOX: Arc<Inbox> = Arc::default();
}

#[derive(Default)]
struct Inbox {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    /// Slots that nobody has.
    free: Vec<usize>,
    /// Requests that are answered and whose tasks do not know yet. One of them is awake, or was
    /// dropped, and wakes the others.
    unaware: Vec<Waker>,
}

#[derive(Default)]
enum Slot {
    /// Nobody waits: there never was a request, or it is gone.
    #[default]
    Free,
    /// A request waits. Without a waker, it was not polled yet.
    Waiting(Option<Waker>),
    /// The request went away; its answer is still to come.
    Abandoned,
    Answered(Answer),
}

/// The committer's end: where one answer goes. Dropped without one, the request is told that its
/// outcome is unknown.
pub(super) struct Ticket {
    inbox: Arc<Inbox>,
    /// `None` once it is answered.
    slot: Option<usize>,
}

/// The request's end: a future of the answer.
pub(super) struct Answered {
    inbox: Arc<Inbox>,
    /// `None` once the answer was taken.
    slot: Option<usize>,
}

/// A place for one answer, in the inbox of this thread.
pub(super) fn ticket() -> (Ticket, Answered) {
    let inbox = INBOX.with(Arc::clone);
    let slot = inbox.state.lock().take_free();
    (
        Ticket {
            inbox: Arc::clone(&inbox),
            slot: Some(slot),
        },
        Answered {
            inbox,
            slot: Some(slot),
        },
    )
}

/// Gives all answers, thread by thread, and wakes each thread that has some, once.
pub(super) fn answer_all(answers: impl IntoIterator<Item = (Ticket, Answer)>) {
    let mut given = Given(Vec::new());
    for (mut ticket, answer) in answers {
        let Some(slot) = ticket.slot.take() else {
            continue;
        };
        // A few threads serve, so looking through them is the quickest way.
        let known = given
            .0
            .iter_mut()
            .find(|(inbox, _)| Arc::ptr_eq(inbox, &ticket.inbox));
        match known {
            Some((_, answers)) => answers.push((slot, answer)),
            None => {
                let inbox = Arc::clone(&ticket.inbox);
                given.0.push((inbox, vec![(slot, answer)]));
            }
        }
    }
}

/// Answers by inbox, laid into them when this is dropped: also by a panic on the way. The threads
/// that serve take an inbox's lock for every request, so it is taken once for all answers here.
struct Given(Vec<(Arc<Inbox>, Slots)>);

/// Answers, and the slots they go to.
type Slots = Vec<(usize, Answer)>;

impl Drop for Given {
    fn drop(&mut self) {
        for (inbox, answers) in self.0.drain(..) {
            inbox.settle(answers);
        }
    }
}

impl Inbox {
    /// Lays answers in, and wakes one of those that are answered and do not know.
    ///
    /// It is there as long as the lock is held; if it is dropped before it is polled, it wakes the
    /// others then.
    fn settle(&self, answers: Slots) {
        let first = {
            let mut state = self.state.lock();
            for (slot, answer) in answers {
                state.settle(slot, answer);
            }
            state.unaware.pop()
        };
        if let Some(first) = first {
            first.wake();
        }
    }
}

impl State {
    fn take_free(&mut self) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() - 1
        });
        self.slots[slot] = Slot::Waiting(None);
        slot
    }

    fn release(&mut self, slot: usize) {
        self.slots[slot] = Slot::Free;
        self.free.push(slot);
    }

    fn settle(&mut self, slot: usize, answer: Answer) {
        match mem::replace(&mut self.slots[slot], Slot::Answered(answer)) {
            Slot::Waiting(waker) => self.unaware.extend(waker),
            Slot::Abandoned => self.release(slot),
            // Only tickets settle, and each does so once.
            Slot::Free | Slot::Answered(_) => {}
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            // A committer that is gone without an answer may have written before it went.
            let unknown = PortError::new(ErrorKind::Ambiguous, "committer");
            self.inbox.settle(vec![(slot, Err(unknown))]);
        }
    }
}

impl Future for Answered {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let inbox = Arc::clone(&self.inbox);
        let mut state = inbox.state.lock();
        let unaware = mem::take(&mut state.unaware);
        // A waker may own what locks this inbox when it is dropped: never drop one under the lock.
        let mut replaced = None;
        let poll = match self.slot {
            Some(slot) => match mem::take(&mut state.slots[slot]) {
                Slot::Answered(answer) => {
                    state.release(slot);
                    self.slot = None;
                    Poll::Ready(answer)
                }
                Slot::Waiting(known) => {
                    let waker = match known {
                        Some(waker) if waker.will_wake(context.waker()) => waker,
                        other => {
                            replaced = other;
                            context.waker().clone()
                        }
                    };
                    state.slots[slot] = Slot::Waiting(Some(waker));
                    Poll::Pending
                }
                Slot::Free | Slot::Abandoned => Poll::Pending,
            },
            None => Poll::Pending,
        };
        drop(state);
        drop(replaced);
        unaware.into_iter().for_each(Waker::wake);
        poll
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        if self.slot.is_none() {
            return;
        }
        let mut state = self.inbox.state.lock();
        let left = self.slot.take().map(|slot| {
            let left = mem::replace(&mut state.slots[slot], Slot::Abandoned);
            if let Slot::Answered(_) = left {
                state.release(slot);
            }
            left
        });
        // This may be the one that was to wake the others.
        let unaware = mem::take(&mut state.unaware);
        drop(state);
        // What it leaves may be a waker: see above.
        drop(left);
        unaware.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Woken {
        fn times(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }

        fn poll(self: &Arc<Self>, answered: &mut Answered) -> Poll<Answer> {
            let waker = Waker::from(Arc::clone(self));
            Pin::new(answered).poll(&mut Context::from_waker(&waker))
        }
    }

    fn counted() -> Answer {
        Ok(Recorded::default())
    }

    /// Requests that wait, each with a waker of its own.
    fn waiting<const N: usize>() -> ([(Answered, Arc<Woken>); N], Vec<Ticket>) {
        let mut tickets = Vec::new();
        let requests = [(); N].map(|()| {
            let (ticket, mut answered) = ticket();
            tickets.push(ticket);
            let woken = Arc::new(Woken::default());
            assert!(woken.poll(&mut answered).is_pending());
            (answered, woken)
        });
        (requests, tickets)
    }

    #[test]
    fn one_is_woken_and_wakes_the_others() {
        let (mut requests, tickets) = waiting::<5>();
        answer_all(tickets.into_iter().map(|ticket| (ticket, counted())));
        let times = || {
            requests
                .iter()
                .map(|(_, woken)| woken.times())
                .collect::<Vec<_>>()
        };
        assert_eq!(times().iter().sum::<usize>(), 1);
        let leader = times().iter().position(|&times| times == 1).unwrap();
        let (answered, woken) = &mut requests[leader];
        assert!(woken.poll(answered).is_ready());
        assert!(requests.iter().all(|(_, woken)| woken.times() == 1));
        for (number, (answered, woken)) in requests.iter_mut().enumerate() {
            assert!(number == leader || woken.poll(answered).is_ready());
        }
    }

    #[test]
    fn one_that_is_dropped_in_place_of_being_polled_wakes_the_others() {
        let (requests, tickets) = waiting::<3>();
        answer_all(tickets.into_iter().map(|ticket| (ticket, counted())));
        let (leader, others): (Vec<_>, Vec<_>) = requests
            .into_iter()
            .partition(|(_, woken)| woken.times() == 1);
        assert_eq!(leader.len(), 1);
        drop(leader);
        assert!(others.iter().all(|(_, woken)| woken.times() == 1));
    }

    #[test]
    fn one_that_went_away_takes_no_answer_and_leaves_no_slot() {
        let (requests, tickets) = waiting::<2>();
        let [gone, (mut stays, woken)] = requests;
        let slots = gone.0.inbox.state.lock().slots.len();
        drop(gone);
        answer_all(tickets.into_iter().map(|ticket| (ticket, counted())));
        assert_eq!(woken.times(), 1);
        assert!(woken.poll(&mut stays).is_ready());
        let (again, _tickets) = waiting::<2>();
        assert_eq!(again[0].0.inbox.state.lock().slots.len(), slots);
    }

    #[test]
    fn a_dropped_ticket_means_that_the_outcome_is_unknown() {
        let ([(mut answered, woken)], tickets) = waiting::<1>();
        drop(tickets);
        assert_eq!(woken.times(), 1);
        match woken.poll(&mut answered) {
            Poll::Ready(Err(error)) => assert_eq!(error.kind(), ErrorKind::Ambiguous),
            other => panic!("{other:?}"),
        }
    }

    /// Tasks that hang up at any moment, on several threads, and none of the others is forgotten.
    #[test]
    fn nobody_is_forgotten() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(3)
            .enable_time()
            .build();
        runtime.unwrap().block_on(async {
            let (send, mut receive) = tokio::sync::mpsc::channel::<Ticket>(1_024);
            let committer = std::thread::spawn(move || {
                while let Some(first) = receive.blocking_recv() {
                    let mut tickets = vec![first];
                    while let Ok(next) = receive.try_recv() {
                        tickets.push(next);
                    }
                    answer_all(tickets.into_iter().map(|ticket| (ticket, counted())));
                }
            });
            let requests: Vec<_> = (0..16)
                .map(|seed| {
                    let send = send.clone();
                    tokio::spawn(async move {
                        let mut rng = fastrand::Rng::with_seed(seed);
                        for _ in 0..2_000 {
                            let (ticket, mut answered) = ticket();
                            send.send(ticket).await.unwrap();
                            if rng.u8(..4) > 0 {
                                answered.await.unwrap();
                            } else if rng.bool() {
                                // Polled once, then dropped: a client that hangs up.
                                tokio::select! {
                                    biased;
                                    _ = &mut answered => {}
                                    () = tokio::task::yield_now() => {}
                                }
                            }
                        }
                    })
                })
                .collect();
            drop(send);
            let all = futures_of(requests);
            tokio::time::timeout(std::time::Duration::from_secs(60), all)
                .await
                .unwrap();
            committer.join().unwrap();
        });
    }

    async fn futures_of(tasks: Vec<tokio::task::JoinHandle<()>>) {
        for task in tasks {
            task.await.unwrap();
        }
    }
}
