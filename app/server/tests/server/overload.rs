//! More than the store takes: refused at once, with when to come back, and nothing counted wrongly.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::MissedTickBehavior};

use crate::support::{Account, Answer, Connection, DEADLINE, Kind, Server, Setup, names};

/// How often those requests are sent that are due.
const TICK: Duration = Duration::from_millis(10);

/// A store that syncs slowly.
fn slow(folder: &Path, sync: Duration) -> Setup {
    let micros = sync.as_micros();
    Setup::embedded(folder).set("store.embedded.added_sync_delay_us", micros)
}

/// What clients were told that send without waiting for one another.
struct Told {
    account: Account,
    /// How long each refusal took.
    refused: Vec<Duration>,
}

impl Told {
    fn median_refusal(&self) -> Duration {
        let mut refused = self.refused.clone();
        refused.sort_unstable();
        refused[refused.len() / 2]
    }
}

/// Sends so many requests a tick until `enough` has been told, however long the answers take.
async fn offer(
    server: &Server,
    domains: &[String],
    a_tick: usize,
    mut enough: impl FnMut(&Told) -> bool,
) -> Told {
    let mut told = Told {
        account: Account::new(domains),
        refused: Vec::new(),
    };
    let idle = Arc::new(Mutex::new(Vec::new()));
    let address = server.address();
    let mut requests = JoinSet::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let started = Instant::now();
    while !enough(&told) {
        assert!(started.elapsed() < DEADLINE, "{}", told.refused.len());
        ticks.tick().await;
        for _ in 0..a_tick {
            let domain = fastrand::usize(..domains.len());
            let (name, idle) = (domains[domain].clone(), Arc::clone(&idle));
            requests.spawn(async move {
                let connection = idle.lock().unwrap().pop();
                let mut connection = match connection {
                    Some(connection) => connection,
                    None => Connection::open(address).await.unwrap(),
                };
                let sent = Instant::now();
                let answer = connection.put(&name, Kind::Delivered).await.unwrap();
                let took = sent.elapsed();
                idle.lock().unwrap().push(connection);
                (domain, answer, took)
            });
        }
        while let Some(answered) = requests.try_join_next() {
            told.note(answered.unwrap());
        }
    }
    while let Some(answered) = requests.join_next().await {
        told.note(answered.unwrap());
    }
    told
}

impl Told {
    #[track_caller]
    fn note(&mut self, (domain, answer, took): (usize, Answer, Duration)) {
        if answer.status == 204 {
            return self.account.acknowledge(domain, Kind::Delivered);
        }
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(answer.field("retry-after"), Some("1"), "{answer:?}");
        assert_eq!(answer.json()["type"], "urn:catchall:problem:overloaded");
        self.refused.push(took);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_behind_one_that_waits_too_long_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = slow(folder.path(), Duration::from_secs(1))
        .set("queue.max_wait_ms", 200)
        .start();
    let domains = names(3);
    let mut told = offer(&server, &domains, 1, |told| {
        told.refused.len() >= 100 && told.account.acknowledged() >= 50
    })
    .await;
    let median = told.median_refusal();
    // None waited for the store, which takes a second.
    assert!(median < Duration::from_millis(500), "{median:?}");
    told.account.settle(&server).await;
    // The store has moved, and nobody waits: whoever comes is taken.
    let mut connection = server.connect().await;
    let answer = connection.put("d0.example", Kind::Delivered).await.unwrap();
    assert_eq!(answer.status, 204, "{answer:?}");
    // A line a second and worker, not one a refusal.
    let log = server.stop();
    let lines = log.iter().filter(|line| line.contains("\"overloaded\""));
    assert!((1..told.refused.len() / 2).contains(&lines.count()));
}
