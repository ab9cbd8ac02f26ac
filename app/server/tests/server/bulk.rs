//! Bodies as large as they may be, on every store: counted whole, and told in one request.

use std::fmt::Write as _;

use foundation::testing::{Postgres, Redis};
use serde_json::{Value, json};

use crate::support::{Connection, Setup};

/// What is asked for at once, at the most.
const DOMAINS: usize = 10_000;
/// Events of each domain in one body: nearly 8 MiB of them.
const ROUNDS: usize = 15;

async fn take_the_largest_bodies(setup: Setup) {
    let server = setup.start();
    let mut connection = server.connect().await;
    let mut lines = String::new();
    for number in 0..DOMAINS * ROUNDS {
        let domain = number % DOMAINS;
        let kind = ["delivered", "bounced"][usize::from(number < DOMAINS)];
        writeln!(
            lines,
            "{{\"domain\":\"d{domain}.example\",\"type\":\"{kind}\"}}"
        )
        .unwrap();
    }
    let counted = post(
        &mut connection,
        "/v1/events",
        "application/x-ndjson",
        &lines,
    )
    .await;
    let receipt = json!({ "accepted": DOMAINS * ROUNDS, "duplicates": 0, "skipped": 0 });
    assert_eq!(counted, receipt);

    let events: Vec<_> = (0..DOMAINS)
        .map(|number| {
            json!({
                "specversion": "1.0", "id": number.to_string(), "source": "/test",
                "type": "email.delivered", "subject": format!("d{number}.example"),
            })
        })
        .collect();
    let batch = json!(events).to_string();
    let media_type = "application/cloudevents-batch+json";
    let counted = post(&mut connection, "/v1/events", media_type, &batch).await;
    assert_eq!(counted["accepted"], DOMAINS);

    // From the last to the first, so that no order of the store's own is passed on.
    let names: Vec<_> = (0..DOMAINS)
        .rev()
        .map(|n| format!("d{n}.example"))
        .collect();
    let names = json!({ "domains": names }).to_string();
    // Twice: a cache answers the second one.
    for _ in 0..2 {
        let told = post(
            &mut connection,
            "/v1/domains/lookup",
            "application/json",
            &names,
        )
        .await;
        let told = told["domains"].as_array().unwrap();
        assert_eq!(told.len(), DOMAINS);
        for (domain, number) in told.iter().zip((0..DOMAINS).rev()) {
            assert_eq!(domain["domain"], format!("d{number}.example"));
            assert_eq!(
                (&domain["delivered"], &domain["bounced"]),
                (&json!(ROUNDS), &json!(1))
            );
        }
    }
    server.stop();
}

async fn post(connection: &mut Connection, target: &str, media_type: &str, body: &str) -> Value {
    let length = body.len();
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: test\r\nContent-Type: {media_type}\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    connection.send(head + body).await.unwrap();
    let answer = connection.answer().await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[tokio::test]
async fn memory() {
    take_the_largest_bodies(Setup::memory()).await;
}

#[tokio::test]
async fn embedded() {
    let folder = tempfile::tempdir().unwrap();
    take_the_largest_bodies(Setup::embedded(folder.path())).await;
}

#[tokio::test]
async fn postgres() {
    let url = Postgres::shared().create_database();
    take_the_largest_bodies(Setup::postgres(&url)).await;
}

#[tokio::test]
async fn postgres_with_redis() {
    let url = Postgres::shared().create_database();
    take_the_largest_bodies(Setup::postgres(&url).cached(&Redis::shared().url())).await;
}
