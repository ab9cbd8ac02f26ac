//! Whatever befalls PostgreSQL: every request is answered, and what is sent again under its key
//! counts once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use foundation::testing::Postgres;
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinSet;

use crate::support::{Connection, Server, Setup, until};

const CLIENTS: u64 = 24;

/// Clients, each of which sends one event after the other, each under a key and until it is counted.
struct Clients {
    stopping: Arc<AtomicBool>,
    counted: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    tasks: JoinSet<u64>,
}

impl Clients {
    fn start(server: &Server) -> Self {
        let (stopping, counted, refused) = Default::default();
        let mut clients = Self {
            stopping,
            counted,
            refused,
            tasks: JoinSet::new(),
        };
        for client in 0..CLIENTS {
            let address = server.address();
            let stopping = Arc::clone(&clients.stopping);
            let counted = Arc::clone(&clients.counted);
            let refused = Arc::clone(&clients.refused);
            clients.tasks.spawn(async move {
                let mut connection = Connection::open(address).await.unwrap();
                let mut number = 0;
                while !stopping.load(Ordering::Relaxed) {
                    let request = format!(
                        "PUT /v1/events/d{client}.example/delivered HTTP/1.1\r\nHost: test\r\n\
                         Content-Length: 0\r\nIdempotency-Key: {client}-{number}\r\n\r\n"
                    );
                    loop {
                        connection.send(&request).await.unwrap();
                        let answer = connection.answer().await.unwrap();
                        if answer.status == 204 {
                            break;
                        }
                        assert_eq!(answer.status, 503, "{answer:?}");
                        assert_eq!(answer.field("retry-after"), Some("1"), "{answer:?}");
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    number += 1;
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                number
            });
        }
        clients
    }

    /// Waits until so many more events are counted.
    async fn go_on_for(&self, events: u64) {
        let goal = self.counted.load(Ordering::Relaxed) + events;
        until("events are counted", async || {
            self.counted.load(Ordering::Relaxed) >= goal
        })
        .await;
    }

    /// Waits until so many more requests are refused.
    async fn are_refused(&self, requests: u64) {
        let goal = self.refused.load(Ordering::Relaxed) + requests;
        until("requests are refused", async || {
            self.refused.load(Ordering::Relaxed) >= goal
        })
        .await;
    }

    /// Lets each finish, and checks that every event counts once.
    async fn finish(self, server: &Server) {
        self.stopping.store(true, Ordering::Relaxed);
        let sent: u64 = self.tasks.join_all().await.into_iter().sum();
        assert_eq!(sent, self.counted.load(Ordering::Relaxed));
        let stats = server.json("/v1/stats").await;
        assert_eq!(stats["events"]["delivered"], sent, "{stats}");
    }
}

async fn in_background(work: impl FnOnce() + Send + 'static) {
    tokio::task::spawn_blocking(work).await.unwrap();
}

fn brief(postgres: &Postgres) -> Setup {
    Setup::postgres(&postgres.url("postgres"))
        .set("store.postgres.write_timeout_ms", 2_000)
        .set("store.postgres.read_timeout_ms", 2_000)
        .set("store.postgres.connect_timeout_ms", 1_000)
        .set("store.postgres.lock_timeout_ms", 1_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_killed_again_and_again() {
    let postgres = Arc::new(Postgres::start());
    let server = brief(&postgres).start();
    let clients = Clients::start(&server);
    for _ in 0..5 {
        clients.go_on_for(300).await;
        let killed = Arc::clone(&postgres);
        in_background(move || killed.kill()).await;
        clients.are_refused(50).await;
        let started = Arc::clone(&postgres);
        in_background(move || started.start_again()).await;
    }
    clients.go_on_for(300).await;
    clients.finish(&server).await;
    let refused = "catchall_store_breaker_refused_total{operation=\"record\"}";
    assert!(server.metric(refused).await > 0);
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_hangs_and_goes_on() {
    let postgres = Arc::new(Postgres::start());
    let server = brief(&postgres).start();
    let clients = Clients::start(&server);
    clients.go_on_for(300).await;
    postgres.freeze();
    clients.are_refused(50).await;
    postgres.thaw();
    clients.go_on_for(300).await;
    clients.finish(&server).await;
    server.stop();
}

/// Somebody else has all connections but one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_has_no_connection_to_give() {
    let postgres =
        Postgres::start_with(&["max_connections=12", "superuser_reserved_connections=0"]);
    let server = brief(&postgres).start();
    let clients = Clients::start(&server);
    clients.go_on_for(100).await;
    let url = postgres.url("postgres");
    let mut squatters = vec![PgConnection::connect(&url).await.unwrap()];
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE application_name = 'catchall'";
    let refused = || clients.refused.load(Ordering::Relaxed);
    // Until the server gets none of its sessions back.
    until("requests are refused", async || {
        sqlx::query(ended).execute(&mut squatters[0]).await.unwrap();
        let before = refused();
        while let Ok(squatter) = PgConnection::connect(&url).await {
            squatters.push(squatter);
        }
        squatters.len() > 8 && refused() > before + 50
    })
    .await;
    drop(squatters);
    clients.go_on_for(300).await;
    clients.finish(&server).await;
    server.stop();
}
