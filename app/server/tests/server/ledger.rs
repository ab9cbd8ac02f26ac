//! What comes in is accounted for. At every quiet moment what was received is rejected, settled by the
//! store or waits in the spool, and nothing is missing or there twice.

use std::{path::Path, sync::Arc};

use foundation::testing::Postgres;
use serde_json::json;
use tokio::task::JoinSet;
use torture::ledger::Ledger;
use uuid::{Timestamp, Uuid};

use crate::support::{Connection, Job, Kind, Load, Server, Setup, names, until};

/// Waits until nothing moves, and gives the ledger, which balances.
pub(crate) async fn balanced(server: &Server) -> Ledger {
    let ledger = Ledger::at_rest(server).await.unwrap();
    assert_eq!(ledger.imbalances().unwrap(), [0; 3], "{ledger:#?}");
    ledger
}

#[track_caller]
fn has(ledger: &Ledger, outcomes: &[&str]) {
    for outcome in outcomes {
        assert!(ledger.settled(outcome) > 0, "{outcome}: {ledger:#?}");
    }
}

async fn answered(connection: &mut Connection, head: &str, content: &str) -> u16 {
    let length = content.len();
    let request = format!("{head}\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{content}");
    connection.send(request).await.unwrap();
    connection.answer().await.unwrap().status
}

/// A UUIDv7 that was made so many seconds from now.
fn made(seconds: i64) -> String {
    let then = jiff::Timestamp::now().as_second() + seconds;
    Uuid::new_v7(Timestamp::from_unix_time(then.unsigned_abs(), 0, 0, 0)).to_string()
}

/// Sends events in all ways there are, sound ones and others.
async fn send_in_all_ways(server: &Server) {
    let put =
        |domain: &str, fields: &str| format!("PUT /v1/events/{domain}/delivered HTTP/1.1{fields}");
    let post = |fields: &str| format!("POST /v1/events{fields}");
    let key = |key: &str| format!("\r\nIdempotency-Key: \"{key}\"");
    let lines = "\r\nContent-Type: application/x-ndjson";
    let batch = "\r\nContent-Type: application/cloudevents-batch+json";
    let line = "{\"domain\":\"a.example\",\"type\":\"delivered\"}\n";
    let cloud = |id: u32| {
        json!({
            "specversion": "1.0", "id": id.to_string(), "source": "/mail/1",
            "type": "email.bounced", "subject": "b.example",
        })
    };
    let clouds = json!([cloud(1), cloud(2), cloud(1)]).to_string();
    let two = line.repeat(2);
    let bad = format!("{line}no event\n");

    for (head, content, status) in [
        (put("a.example", ""), "", 204),
        (put("a.example", &key("one")), "", 204),
        (put("a.example", &key("one")), "", 204),
        (put("b.example", &key("one")), "", 422),
        (put("a.example", &key(&made(-900))), "", 400),
        (put("a.example", &key(&made(900))), "", 400),
        (put("no%20name", ""), "", 400),
        (put("a.example", "\r\nIdempotency-Key: \"\""), "", 400),
        (put("a.example", ""), "content", 415),
        (post(&format!(" HTTP/1.1{lines}")), &two, 200),
        (post(&format!(" HTTP/1.1{lines}{}", key("two"))), &two, 200),
        (post(&format!(" HTTP/1.1{lines}{}", key("two"))), &two, 200),
        (post(&format!(" HTTP/1.1{lines}{}", key("two"))), line, 422),
        (
            post(&format!(" HTTP/1.1{lines}{}", key(&made(900)))),
            line,
            400,
        ),
        (
            post(&format!(" HTTP/1.1{lines}{}", key(&made(-900)))),
            line,
            400,
        ),
        (post(&format!(" HTTP/1.1{lines}")), &bad, 422),
        (
            post(&format!("?on_invalid=skip HTTP/1.1{lines}")),
            &bad,
            200,
        ),
        (post(&format!(" HTTP/1.1{batch}")), &clouds, 200),
        (post(&format!(" HTTP/1.1{batch}")), &clouds, 200),
    ] {
        // One that is refused may end its connection.
        let mut connection = server.connect().await;
        let answer = answered(&mut connection, &head, content).await;
        assert_eq!(answer, status, "{head}");
    }
}

/// Clients that leave before their answer, or in the middle of what they send; all are noticed.
async fn leave(server: &Server) {
    let received = "catchall_events_received_total{kind=\"delivered\"}";
    let rejected = "catchall_events_rejected_total{kind=\"delivered\"}";
    let before = (server.metric(received).await, server.metric(rejected).await);
    for half in 0..20 {
        let mut connection = server.connect().await;
        let content = ["Content-Length: 0\r\n\r\n", "Content-Length: 9\r\n\r\nhalf"][half % 2];
        let request =
            format!("PUT /v1/events/left.example/delivered HTTP/1.1\r\nHost: test\r\n{content}");
        connection.send(request).await.unwrap();
    }
    until("all that left are noticed", async || {
        server.metric(received).await >= before.0 + 20
    })
    .await;
    assert!(server.metric(rejected).await >= before.1 + 10);
}

#[tokio::test]
async fn every_store_accounts_for_all_that_was_sent() {
    let folder = tempfile::tempdir().unwrap();
    let url = Postgres::shared().create_database();
    for setup in [
        Setup::memory(),
        Setup::embedded(folder.path()),
        Setup::postgres(&url),
    ] {
        let server = setup.set("keys.window_s", 600).start();
        balanced(&server).await;
        send_in_all_ways(&server).await;
        let ledger = balanced(&server).await;
        has(&ledger, &["counted", "duplicate", "mismatch", "expired"]);
        assert_eq!(ledger.settled("failed") + ledger.settled("unknown"), 0);
        // A key from the future, one that is none, a name that is none, content; and a line.
        assert_eq!(ledger.sum("catchall_events_rejected_total").unwrap(), 5);
        leave(&server).await;
        balanced(&server).await;
        server.stop();
    }
}

/// Requests that are refused for those that wait, and clients that leave while they wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_and_clients_that_leave_are_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = Setup::embedded(folder.path())
        .set("store.embedded.added_sync_delay_us", 20_000)
        .set("queue.capacity", 8)
        .start();
    let mut clients = JoinSet::new();
    for _ in 0..40 {
        let address = server.address();
        clients.spawn(async move {
            for round in 0..20 {
                let mut connection = Connection::open(address).await.unwrap();
                if round % 4 == 3 {
                    let gone = "PUT /v1/events/left.example/bounced HTTP/1.1\r\nHost: test\r\n\r\n";
                    connection.send(gone).await.unwrap();
                    continue;
                }
                let answer = connection.put("a.example", Kind::Delivered).await.unwrap();
                assert!([204, 503].contains(&answer.status), "{answer:?}");
            }
        });
    }
    clients.join_all().await;
    let ledger = balanced(&server).await;
    has(&ledger, &["counted", "overloaded"]);
    server.stop();
}

fn spooling(postgres: &Postgres, folder: &Path) -> Setup {
    Setup::postgres(&postgres.url("postgres"))
        .set("store.when_down", "spool")
        .set("store.spool.path", folder.display())
        .set("store.postgres.write_timeout_ms", 2_000)
        .set("store.postgres.connect_timeout_ms", 1_000)
}

/// Counts under load, with PostgreSQL and without, is killed with a spool, and drains it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_and_its_drain_are_accounted_for() {
    let (postgres, folder) = (Arc::new(Postgres::start()), tempfile::tempdir().unwrap());
    let setup = spooling(&postgres, folder.path()).set("keys.window_s", 600);
    let mut server = setup.start();
    let load = Load::start(server.address(), 8, Job::Write, &names(10));
    load.go_on_for(500).await;
    load.finish().await;
    postgres.kill();
    let mut connection = server.connect().await;
    let keyed = |domain: &str| {
        format!("PUT /v1/events/{domain}/delivered HTTP/1.1\r\nIdempotency-Key: \"k\"")
    };
    // What it was sending when PostgreSQL went is unknown, and may be sent again.
    until("it spools", async || {
        answered(&mut connection, &keyed("a.example"), "").await == 202
    })
    .await;
    // The one is a duplicate, the other is another event under the same key: nobody knows yet.
    for (domain, times) in [("a.example", 3), ("b.example", 2)] {
        for _ in 0..times {
            assert_eq!(answered(&mut connection, &keyed(domain), "").await, 202);
        }
    }
    let ledger = balanced(&server).await;
    assert!(ledger.sum("catchall_spool_events").unwrap() >= 6);
    let waiting = ledger.sum("catchall_spool_events").unwrap();
    server.kill();

    let started = Arc::clone(&postgres);
    tokio::task::spawn_blocking(move || started.start_again())
        .await
        .unwrap();
    let server = setup.start();
    let load = Load::start(server.address(), 8, Job::Read, &names(10));
    until("the spool is empty", async || {
        server.metric("catchall_spool_bytes").await == 0
    })
    .await;
    load.finish().await;
    send_in_all_ways(&server).await;
    let ledger = balanced(&server).await;
    assert_eq!(
        ledger.sum("catchall_spool_recovered_events_total").unwrap(),
        waiting
    );
    assert_eq!(
        ledger.sum("catchall_spool_drained_events_total").unwrap(),
        waiting
    );
    has(&ledger, &["counted", "duplicate", "mismatch"]);
    server.stop();
}
