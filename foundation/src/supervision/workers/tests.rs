use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::*;
use crate::{supervision::Cause, telemetry::Metrics};

fn role(name: &'static str, patience_ms: u64) -> Role {
    Role {
        name,
        group: "test",
        patience: Duration::from_millis(patience_ms),
    }
}

fn until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "in vain");
        thread::sleep(Duration::from_millis(2));
    }
}

fn supervised() -> Shutdown {
    let shutdown = Shutdown::new();
    shutdown.register(&Metrics::new().unwrap()).unwrap();
    shutdown
}

fn restarts(shutdown: &Shutdown, name: &str) -> u64 {
    let metrics = shutdown.workers().metrics.get().unwrap();
    metrics.restarted.with_label_values(&[name]).get()
}

/// Panics so many times, and then waits to be told to end.
fn panicking(times: usize, lives: &Arc<AtomicUsize>) -> impl Fn(&Heart) + Send + Sync + use<> {
    let lives = Arc::clone(lives);
    move |_: &Heart| {
        let life = lives.fetch_add(1, Ordering::SeqCst);
        assert!(life >= times, "life {life}");
    }
}

#[test]
fn a_panicking_thread_is_started_again_and_may_end() {
    let (shutdown, lives) = (supervised(), Arc::default());
    let worker = spawn_worker(role("thread", 60_000), &shutdown, panicking(3, &lives)).unwrap();
    worker.wait();
    assert_eq!(lives.load(Ordering::SeqCst), 4);
    assert_eq!(restarts(&shutdown, "thread"), 3);
    assert_eq!(shutdown.cause(), None);
    assert!(shutdown.workers().all.lock().is_empty());
}

#[test]
fn its_group_is_started_again_and_then_the_process_stops() {
    let (shutdown, lives) = (supervised(), Arc::default());
    let others = Arc::new(AtomicUsize::new(0));
    let _other = {
        let others = Arc::clone(&others);
        spawn_worker(role("other", 60_000), &shutdown, move |heart| {
            others.fetch_add(1, Ordering::SeqCst);
            until(|| heart.is_replaced());
        })
    };
    let worker = spawn_worker(
        role("bad", 60_000),
        &shutdown,
        panicking(usize::MAX, &lives),
    );
    worker.unwrap().wait();
    // The first life; 3 restarts, and one of the group; that 3 times, and 3 more.
    assert_eq!(lives.load(Ordering::SeqCst), 1 + 3 * 4 + 3);
    until(|| others.load(Ordering::SeqCst) == 4);
    let Some(Cause::Fatal(reason)) = shutdown.cause() else {
        panic!("it goes on");
    };
    assert_eq!(reason, "bad panicked (life 15) again and again");
}

#[test]
fn a_stuck_thread_is_late_and_then_replaced() {
    let shutdown = supervised();
    let release = Arc::new(AtomicBool::new(false));
    let (first, replaced) = (
        Arc::new(AtomicBool::new(true)),
        Arc::new(AtomicBool::new(false)),
    );
    let worker = {
        let (release, replaced) = (Arc::clone(&release), Arc::clone(&replaced));
        spawn_worker(role("stuck", 600), &shutdown, move |heart| {
            heart.beats();
            if first.swap(false, Ordering::SeqCst) {
                until(|| release.load(Ordering::SeqCst));
                replaced.store(heart.is_replaced(), Ordering::SeqCst);
                // Whoever has its place is not disturbed.
                heart.beats();
            } else {
                until(|| replaced.load(Ordering::SeqCst));
            }
        })
    };
    until(|| shutdown.late_worker() == Some("stuck"));
    until(|| restarts(&shutdown, "stuck") >= 1);
    assert_eq!(
        shutdown.late_worker(),
        Some("stuck"),
        "the first is still there"
    );
    release.store(true, Ordering::SeqCst);
    worker.unwrap().wait();
    assert_eq!((shutdown.late_worker(), shutdown.cause()), (None, None));
}

#[test]
fn too_many_that_are_stuck_end_the_process() {
    let (shutdown, release) = (supervised(), Arc::new(AtomicBool::new(false)));
    let worker = {
        let release = Arc::clone(&release);
        spawn_worker(role("stuck", 1), &shutdown, move |heart| {
            heart.beats();
            until(|| release.load(Ordering::SeqCst));
        })
    };
    worker.unwrap().wait();
    assert!(shutdown.cause().is_some_and(|cause| cause.is_fatal()));
    assert_eq!(restarts(&shutdown, "stuck"), 3);
    release.store(true, Ordering::SeqCst);
}

#[test]
fn a_worker_that_outlives_the_others_ends_too() {
    for _ in 0..50 {
        let (shutdown, release) = (Shutdown::new(), Arc::new(AtomicBool::new(false)));
        let work = {
            let release = Arc::clone(&release);
            move |_: &Heart| until(|| release.load(Ordering::SeqCst))
        };
        let worker = spawn_worker(role("last", 60_000), &shutdown, work).unwrap();
        let dropping = thread::spawn(move || drop(shutdown));
        release.store(true, Ordering::SeqCst);
        worker.wait();
        dropping.join().unwrap();
    }
}

#[test]
fn who_rests_is_never_late() {
    let shutdown = supervised();
    let release = Arc::new(AtomicBool::new(false));
    let worker = {
        let release = Arc::clone(&release);
        spawn_worker(role("idle", 1), &shutdown, move |heart| {
            heart.beats();
            heart.rests();
            until(|| release.load(Ordering::SeqCst));
        })
    };
    // Another one is looked at as often, and found; not of the group, which may be restarted with it.
    let other = Role {
        group: "other",
        ..role("stuck", 1)
    };
    let stuck = spawn_worker(other, &shutdown, |heart| {
        heart.beats();
        until(|| heart.is_replaced());
    });
    until(|| restarts(&shutdown, "stuck") >= 2);
    assert_eq!(restarts(&shutdown, "idle"), 0);
    release.store(true, Ordering::SeqCst);
    worker.unwrap().wait();
    drop(stuck);
}

#[tokio::test]
async fn tasks_are_started_again_too_also_where_they_wait() {
    let (shutdown, lives) = (supervised(), Arc::new(AtomicUsize::new(0)));
    let worker = {
        let lives = Arc::clone(&lives);
        spawn_worker_task(role("task", 500), &shutdown, move |heart| {
            let life = lives.fetch_add(1, Ordering::SeqCst);
            async move {
                match life {
                    0 => panic!("no {}", "journal"),
                    1 => {
                        heart.beats();
                        std::future::pending::<()>().await;
                    }
                    _ => {}
                }
            }
        })
    };
    worker.unwrap().ended().await;
    assert_eq!(lives.load(Ordering::SeqCst), 3);
    assert_eq!(restarts(&shutdown, "task"), 2);
}

#[test]
fn a_panic_while_the_process_stops_is_fatal() {
    let (shutdown, lives) = (supervised(), Arc::default());
    shutdown.request("SIGTERM");
    let worker = spawn_worker(role("last", 60_000), &shutdown, panicking(1, &lives));
    worker.unwrap().wait();
    assert!(shutdown.cause().is_some_and(|cause| cause.is_fatal()));
}
