//! With `store.when_down = "spool"`, PostgreSQL may be away, and so may the server: what is
//! acknowledged counts once.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use foundation::testing::Postgres;
use tokio::task::JoinSet;

use crate::ledger::balanced;
use crate::support::{Connection, Kind, Server, Setup, until};

const CLIENTS: u64 = 16;

fn spooling(postgres: &Postgres, folder: &Path) -> Setup {
    Setup::postgres(&postgres.url("postgres"))
        .set("store.when_down", "spool")
        .set("store.spool.path", folder.display())
        .set("store.postgres.write_timeout_ms", 2_000)
        .set("store.postgres.read_timeout_ms", 1_000)
        .set("store.postgres.connect_timeout_ms", 1_000)
}

/// Clients, each of which sends one event after the other, each under a key and until it is
/// acknowledged. They outlive servers.
#[derive(Default)]
struct Clients {
    stopping: Arc<AtomicBool>,
    counted: Arc<AtomicU64>,
    spooled: Arc<AtomicU64>,
    tasks: JoinSet<u64>,
}

impl Clients {
    fn start(server: &Server, round: u64) -> Self {
        let mut clients = Self::default();
        for client in 0..CLIENTS {
            let address = server.address();
            let stopping = Arc::clone(&clients.stopping);
            let (counted, spooled) = (Arc::clone(&clients.counted), Arc::clone(&clients.spooled));
            clients.tasks.spawn(async move {
                let mut connection = Connection::open(address).await.unwrap();
                let mut acknowledged = 0;
                while !stopping.load(Ordering::Relaxed) {
                    let request = format!(
                        "PUT /v1/events/d{client}.example/delivered HTTP/1.1\r\nHost: test\r\n\
                         Content-Length: 0\r\nIdempotency-Key: {round}-{client}-{acknowledged}\r\n\r\n"
                    );
                    let answer = async {
                        connection.send(&request).await?;
                        connection.answer().await
                    };
                    match answer.await.map(|answer| answer.status) {
                        Ok(204) => counted.fetch_add(1, Ordering::Relaxed),
                        Ok(202) => spooled.fetch_add(1, Ordering::Relaxed),
                        // Whoever waits for PostgreSQL to be found away holds up the others.
                        Ok(503) => continue,
                        Ok(other) => panic!("{other}"),
                        // The server is gone.
                        Err(_) => break,
                    };
                    acknowledged += 1;
                }
                acknowledged
            });
        }
        clients
    }

    async fn more(&self, counter: &AtomicU64, events: u64) {
        let goal = counter.load(Ordering::Relaxed) + events;
        until("events are acknowledged", async || {
            counter.load(Ordering::Relaxed) >= goal
        })
        .await;
    }

    async fn finish(self) -> u64 {
        self.stopping.store(true, Ordering::Relaxed);
        self.tasks.join_all().await.into_iter().sum()
    }
}

async fn in_background(work: impl FnOnce() + Send + 'static) {
    tokio::task::spawn_blocking(work).await.unwrap();
}

async fn delivered(server: &Server) -> u64 {
    let stats = server.json("/v1/stats").await;
    assert_eq!(stats.get("behind"), None, "{stats}");
    stats["events"]["delivered"].as_u64().unwrap()
}

async fn drained(server: &Server) {
    until("the spool is empty", async || {
        server.metric("catchall_spool_bytes").await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_is_killed_and_hangs_and_nobody_has_to_wait_for_it() {
    let (postgres, folder) = (Arc::new(Postgres::start()), tempfile::tempdir().unwrap());
    let server = spooling(&postgres, folder.path()).start();
    let clients = Clients::start(&server, 0);
    for round in 0..4 {
        clients.more(&clients.counted, 200).await;
        let (away, back) = (Arc::clone(&postgres), Arc::clone(&postgres));
        if round % 2 == 0 {
            in_background(move || away.kill()).await;
        } else {
            away.freeze();
        }
        clients.more(&clients.spooled, 500).await;
        assert_eq!(server.get("/readyz").await.status, 200);
        if round % 2 == 0 {
            in_background(move || back.start_again()).await;
        } else {
            back.thaw();
        }
    }
    // Though events keep coming, they go to PostgreSQL again.
    clients.more(&clients.counted, 200).await;
    let sent = clients.finish().await;
    drained(&server).await;
    assert_eq!(delivered(&server).await, sent);
    balanced(&server).await;
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_killed_while_its_spool_is_not_empty() {
    let (postgres, folder) = (Arc::new(Postgres::start()), tempfile::tempdir().unwrap());
    let setup = spooling(&postgres, folder.path());
    let mut sent = 0;
    for round in 0..4 {
        let mut server = setup.start();
        let clients = Clients::start(&server, round);
        clients.more(&clients.counted, 100).await;
        let killed = Arc::clone(&postgres);
        in_background(move || killed.kill()).await;
        clients.more(&clients.spooled, 300).await;
        if round % 2 == 1 {
            // In the middle of the drain.
            let started = Arc::clone(&postgres);
            in_background(move || started.start_again()).await;
            let counted = clients.counted.load(Ordering::Relaxed);
            let mut found = None;
            until("it is back", async || {
                let stats = server.get("/v1/stats").await;
                let delivered = || stats.json()["events"]["delivered"].as_u64().unwrap();
                let moved = stats.status == 200 && {
                    let now = delivered();
                    *found.get_or_insert(now) < now
                };
                moved || clients.counted.load(Ordering::Relaxed) > counted
            })
            .await;
        }
        clients.stopping.store(true, Ordering::Relaxed);
        // None is under way: what was not answered cannot be told.
        sent += clients.finish().await;
        server.kill();
        if round % 2 == 0 {
            let started = Arc::clone(&postgres);
            in_background(move || started.start_again()).await;
        }
    }
    let server = setup.start();
    drained(&server).await;
    assert_eq!(delivered(&server).await, sent);
    balanced(&server).await;
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_behind_says_so() {
    let (postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let server = spooling(&postgres, folder.path())
        // PostgreSQL can be read, but a lock keeps what is spooled out.
        .set("store.postgres.lock_timeout_ms", 200)
        .start();
    let mut connection = server.connect().await;
    let put = connection.put("a.example", Kind::Delivered).await.unwrap();
    assert_eq!((put.status, put.field("age")), (204, None));
    let url = postgres.url("postgres");
    let mut session = <sqlx::PgConnection as sqlx::Connection>::connect(&url)
        .await
        .unwrap();
    for sql in [
        "BEGIN",
        "LOCK TABLE domain_tallies IN SHARE ROW EXCLUSIVE MODE",
    ] {
        sqlx::query(sql).execute(&mut session).await.unwrap();
    }
    let put = connection.put("a.example", Kind::Bounced).await.unwrap();
    assert_eq!(put.status, 202, "{put:?}");
    let body = "{\"domain\":\"b.example\",\"type\":\"delivered\"}";
    let length = body.len();
    connection
        .send(format!(
            "POST /v1/events HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-ndjson\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        ))
        .await
        .unwrap();
    let bulk = connection.answer().await.unwrap();
    assert_eq!((bulk.status, &bulk.json()["accepted"]), (202, &1.into()));

    for target in ["/v1/domains/a.example", "/v1/domains", "/v1/stats"] {
        let answer = connection.get(target).await;
        assert_eq!(answer.json()["behind"], true, "{answer:?}");
        let age: u64 = answer.field("age").unwrap().parse().unwrap();
        assert!(age < 60, "{answer:?}");
    }
    let verdict = connection.get("/v1/domain/a.example").await;
    assert!(
        verdict.field("age").is_some() && verdict.text() == "\"unknown\"",
        "{verdict:?}"
    );

    sqlx::query("ROLLBACK").execute(&mut session).await.unwrap();
    drained(&server).await;
    for target in ["/v1/domains/a.example", "/v1/domains", "/v1/stats"] {
        let answer = connection.get(target).await;
        assert_eq!(answer.json().get("behind"), None, "{answer:?}");
        assert_eq!(answer.field("age"), None, "{answer:?}");
    }
    let verdict = connection.get("/v1/domain/a.example").await;
    assert_eq!(verdict.text(), "\"not catch-all\"");
    server.stop();
}

#[test]
fn only_postgres_can_be_away() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = Setup::embedded(folder.path())
        .set("store.when_down", "spool")
        .refused();
    assert!(refusal.contains("store.when_down"), "{refusal}");
}
