//! What is sent again under its key counts once: on every store, after every restart.

use foundation::testing::{Postgres, Redis};
use serde_json::json;
use tokio::task::JoinSet;
use uuid::{Timestamp, Uuid};

use crate::support::{Answer, Connection, Server, Setup};

const TARGET: &str = "/v1/events/a.example/delivered";
const LINES: &str = "{\"domain\":\"a.example\",\"type\":\"delivered\"}\n\
                     {\"domain\":\"b.example\",\"type\":\"bounced\"}\n";

async fn put(connection: &mut Connection, target: &str, key: &str) -> Answer {
    let request = format!(
        "PUT {target} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\nIdempotency-Key: {key}\r\n\r\n"
    );
    connection.send(request).await.unwrap();
    connection.answer().await.unwrap()
}

async fn post(connection: &mut Connection, fields: &str, content: &str) -> Answer {
    let length = content.len();
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n{fields}\r\n{content}"
    );
    connection.send(request).await.unwrap();
    connection.answer().await.unwrap()
}

/// A UUIDv7 that was made so many seconds from now.
fn made(seconds: i64) -> String {
    let then = jiff::Timestamp::now().as_second() + seconds;
    let then = Timestamp::from_unix_time(then.unsigned_abs(), 0, 0, 0);
    Uuid::new_v7(then).to_string()
}

fn is_replayed(answer: &Answer) -> bool {
    answer.field("idempotency-replayed") == Some("true")
}

async fn counts(server: &Server, domain: &str) -> (u64, u64) {
    let told = server.json(&format!("/v1/domains/{domain}")).await;
    let count = |field| told[field].as_u64().unwrap();
    (count("delivered"), count("bounced"))
}

/// The whole of it: what a server counted is known to the one that `reopen` gives.
async fn keys_count_once(setup: Setup, reopen: impl AsyncFnOnce(Server) -> Server) {
    let server = setup.start();
    let mut connection = server.connect().await;
    let events = "Content-Type: application/cloudevents-batch+json\r\n";
    let event = |id: &str, domain: &str| {
        json!({
            "specversion": "1.0", "id": id, "source": "/mail/1", "type": "email.delivered",
            "subject": domain,
        })
    };
    let lines = "Content-Type: application/x-ndjson\r\nIdempotency-Key: \"bulk\"\r\n";
    let batch = json!([
        event("1", "c.example"),
        event("2", "c.example"),
        event("1", "c.example")
    ]);
    let stamped = made(0);

    for key in ["one", &stamped] {
        let first = put(&mut connection, TARGET, key).await;
        assert_eq!((first.status, is_replayed(&first)), (204, false), "{key}");
    }
    let first = post(&mut connection, lines, LINES).await;
    assert_eq!((first.status, is_replayed(&first)), (200, false));
    let told = post(&mut connection, events, &batch.to_string()).await;
    assert_eq!(told.json()["accepted"], 2, "{told:?}");
    assert_eq!(told.json()["duplicates"], 1, "{told:?}");

    let server = reopen(server).await;
    let mut connection = server.connect().await;
    for key in ["one", "\"one\"", &stamped] {
        let again = put(&mut connection, TARGET, key).await;
        assert_eq!((again.status, is_replayed(&again)), (204, true), "{key}");
    }
    let again = post(&mut connection, lines, LINES).await;
    assert_eq!((again.status, is_replayed(&again)), (200, true));
    assert_eq!(again.json(), first.json());
    let told = post(&mut connection, events, &batch.to_string()).await;
    assert_eq!(
        told.json(),
        json!({ "accepted": 0, "duplicates": 3, "skipped": 0 })
    );

    // The same key for something else.
    for target in [
        "/v1/events/a.example/bounced",
        "/v1/events/b.example/delivered",
    ] {
        let other = put(&mut connection, target, "one").await;
        assert_eq!(other.status, 422, "{other:?}");
        assert_eq!(
            other.json()["type"],
            "urn:catchall:problem:idempotency-key-reused"
        );
    }
    assert_eq!(
        post(&mut connection, lines, &LINES.repeat(2)).await.status,
        422
    );
    // What was refused is not remembered.
    let refused = put(&mut connection, "/v1/events/no%20name/delivered", "two").await;
    assert_eq!(refused.status, 400);
    let counted = put(&mut connection, TARGET, "two").await;
    assert_eq!((counted.status, is_replayed(&counted)), (204, false));

    assert_eq!(counts(&server, "a.example").await, (4, 0));
    assert_eq!(counts(&server, "b.example").await, (0, 1));
    assert_eq!(counts(&server, "c.example").await, (2, 0));
    server.stop();
}

/// Many at once, under few keys.
async fn of_many_at_once_one_counts(servers: &[&Server]) {
    const KEYS: usize = 8;
    let mut clients = JoinSet::new();
    for number in 0..64 {
        let mut connection = servers[number % servers.len()].connect().await;
        clients.spawn(async move {
            let mut replayed = 0;
            for key in 0..KEYS {
                let answer = put(&mut connection, TARGET, &format!("many-{key}")).await;
                assert_eq!(answer.status, 204, "{answer:?}");
                replayed += usize::from(is_replayed(&answer));
            }
            replayed
        });
    }
    let replayed: usize = clients.join_all().await.into_iter().sum();
    assert_eq!(replayed, 63 * KEYS);
    assert_eq!(counts(servers[0], "a.example").await, (KEYS as u64, 0));
}

#[tokio::test]
async fn memory() {
    keys_count_once(Setup::memory(), async |server| server).await;
    let server = Setup::memory().start();
    of_many_at_once_one_counts(&[&server]).await;
    server.stop();
}

#[tokio::test]
async fn embedded_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(folder.path());
    keys_count_once(setup.clone(), async |mut server| {
        server.kill();
        setup.start()
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let server = Setup::embedded(folder.path()).start();
    of_many_at_once_one_counts(&[&server]).await;
    server.stop();
}

#[tokio::test]
async fn postgres_on_another_server() {
    let url = Postgres::shared().create_database();
    let other = Setup::postgres(&url).cached(&Redis::shared().url());
    keys_count_once(Setup::postgres(&url), async |server| {
        server.stop();
        other.start()
    })
    .await;
    let url = Postgres::shared().create_database();
    let servers = [Setup::postgres(&url).start(), Setup::postgres(&url).start()];
    of_many_at_once_one_counts(&[&servers[0], &servers[1]]).await;
    for server in servers {
        server.stop();
    }
}

#[tokio::test]
async fn a_key_that_may_be_forgotten_is_refused_and_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let url = Postgres::shared().create_database();
    for setup in [
        Setup::memory(),
        Setup::embedded(folder.path()),
        Setup::postgres(&url),
    ] {
        let server = setup.set("keys.window_s", 600).start();
        let mut connection = server.connect().await;
        for (seconds, status, problem) in [
            (-660, 400, "idempotency-key-expired"),
            (-540, 204, ""),
            (240, 204, ""),
            (360, 400, "idempotency-key-ahead"),
        ] {
            let answer = put(&mut connection, TARGET, &made(seconds)).await;
            assert_eq!(answer.status, status, "{seconds}: {answer:?}");
            if status != 204 {
                let told = answer.json()["type"].clone();
                assert_eq!(told, format!("urn:catchall:problem:{problem}"));
            }
        }
        assert_eq!(counts(&server, "a.example").await, (2, 0));
        let stats = server.json("/v1/stats").await;
        let moment = |field| {
            stats[field]
                .as_str()
                .unwrap()
                .parse::<jiff::Timestamp>()
                .unwrap()
        };
        let remembered = moment("as_of").duration_since(moment("keys_from"));
        assert!((599..=601).contains(&remembered.as_secs()), "{stats}");
        let metrics = connection.get("/metrics").await;
        let line = metrics
            .text()
            .lines()
            .find_map(|line| line.strip_prefix("catchall_keys_from_timestamp_seconds "))
            .unwrap();
        let shown: i64 = line.parse().unwrap();
        assert!(
            (shown - moment("keys_from").as_second()).abs() <= 60,
            "{line}"
        );
        server.stop();
    }
}
