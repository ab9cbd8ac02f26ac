//! The idempotency key of a request: what it may be, and what is answered to a repeat.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::json;
use support::{Response, Running};

const TARGET: &str = "/v1/events/a.example/delivered";
const LINES: (&str, &str) = ("Content-Type", "application/x-ndjson");
const LINE: &str = "{\"domain\":\"a.example\",\"type\":\"delivered\"}\n";

#[track_caller]
fn assert_replayed(answer: &Response, status: u16, replayed: bool) {
    assert_eq!(answer.status, status, "{answer:?}");
    let told = answer.field("idempotency-replayed");
    assert_eq!(told, replayed.then_some("true"), "{answer:?}");
}

fn events(server: &Running, outcome: &str) -> Option<f64> {
    server.metric(&format!(
        "catchall_events_total{{kind=\"delivered\",outcome=\"{outcome}\"}}"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_answered_as_the_first_time_and_counted_among_duplicates() {
    let server = Running::start().await;
    for replayed in [false, true, true] {
        let answer = server
            .ask_with("PUT", TARGET, &[("Idempotency-Key", "k")])
            .await;
        assert_replayed(&answer, 204, replayed);
    }
    assert_replayed(&server.ask("PUT", TARGET).await, 204, false);
    assert_eq!(server.counts("a.example").await, (2, 0));
    assert_eq!(events(&server, "counted"), Some(2.0));
    assert_eq!(events(&server, "duplicate"), Some(2.0));

    // With what is skipped, as the first time.
    let content = format!("{LINE}nonsense\n{LINE}");
    let fields = [LINES, ("Idempotency-Key", "bulk")];
    let target = "/v1/events?on_invalid=skip";
    let first = server.post(target, &fields, &content).await;
    assert_replayed(&first, 200, false);
    assert_eq!(
        (&first.json()["accepted"], &first.json()["skipped"]),
        (&json!(2), &json!(1))
    );
    let again = server.post(target, &fields, &content).await;
    assert_replayed(&again, 200, true);
    assert_eq!(again.json(), first.json());
    assert_eq!(server.counts("a.example").await, (4, 0));
    assert_eq!(events(&server, "duplicate"), Some(4.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_counted_is_not_remembered() {
    let server = Running::start().await;
    let key = [("Idempotency-Key", "k")];
    for (domain, status) in [
        ("unavailable.example", 503),
        ("overloaded.example", 503),
        ("no%20name", 400),
        ("a.example", 204),
    ] {
        let target = format!("/v1/events/{domain}/delivered");
        let answer = server.ask_with("PUT", &target, &key).await;
        assert_replayed(&answer, status, false);
    }
    let other = server
        .ask_with("PUT", "/v1/events/b.example/delivered", &key)
        .await;
    other.problem(422, "idempotency-key-reused");
    let before = events(&server, "failed");
    let other = server
        .post("/v1/events", &[LINES, key[0]], LINE.repeat(2))
        .await;
    other.problem(422, "idempotency-key-reused");
    assert_eq!(events(&server, "failed"), before);
    assert_eq!(server.counts("b.example").await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_key_is_refused_and_nothing_counted() {
    let server = Running::start().await;
    let too_long = "k".repeat(256);
    for (key, reason) in [
        ("", "is empty"),
        ("\"k", "lacks its closing quote"),
        (too_long.as_str(), "is longer than 255 characters"),
    ] {
        for answer in [
            server
                .ask_with("PUT", TARGET, &[("Idempotency-Key", key)])
                .await,
            server
                .post("/v1/events", &[LINES, ("Idempotency-Key", key)], LINE)
                .await,
        ] {
            let problem = answer.problem(400, "invalid-idempotency-key");
            let errors = json!([{ "field": "Idempotency-Key", "reason": reason }]);
            assert_eq!(problem["errors"], errors);
        }
    }
    let twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")];
    let answer = server.ask_with("PUT", TARGET, &twice).await;
    answer.problem(400, "invalid-idempotency-key");
    let event = json!({
        "specversion": "1.0", "id": "1", "source": "/", "type": "email.delivered",
        "subject": "a.example",
    });
    let fields = [
        ("Content-Type", "application/cloudevents+json"),
        ("Idempotency-Key", "k"),
    ];
    let answer = server.post("/v1/events", &fields, event.to_string()).await;
    answer.problem(400, "invalid-idempotency-key");
    assert_eq!(server.counts("a.example").await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_source_and_id_is_one_event() {
    let server = Running::start().await;
    let event = |id: &str, kind: &str| {
        json!({
            "specversion": "1.0", "id": id, "source": "/", "type": format!("email.{kind}"),
            "subject": "a.example",
        })
    };
    let fields = [("Content-Type", "application/cloudevents-batch+json")];
    // Also when something else is said of it the second time.
    let batch = json!([
        event("1", "delivered"),
        event("2", "bounced"),
        event("1", "bounced")
    ]);
    for (accepted, duplicates) in [(2, 1), (0, 3)] {
        let answer = server.post("/v1/events", &fields, batch.to_string()).await;
        assert_replayed(&answer, 200, false);
        let receipt = json!({ "accepted": accepted, "duplicates": duplicates, "skipped": 0 });
        assert_eq!(answer.json(), receipt);
    }
    assert_eq!(server.counts("a.example").await, (1, 1));
}
