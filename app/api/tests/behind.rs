//! What is acknowledged before it counts, and reads that do not show it yet.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::json;
use support::{NOW, Running};

const READS: [&str; 4] = [
    "/v1/domain/a.example",
    "/v1/domains/a.example",
    "/v1/domains",
    "/v1/stats",
];

#[tokio::test(flavor = "multi_thread")]
async fn reads_say_how_far_they_are_behind() {
    let server = Running::start().await;
    for target in READS {
        let answer = server.ask("GET", target).await;
        assert_eq!(answer.field("age"), None, "{answer:?}");
        assert_eq!(answer.json().get("behind"), None, "{answer:?}");
    }
    *server.store.pending.lock().unwrap() = Some((NOW - 42).into());
    for target in READS {
        let answer = server.ask("GET", target).await;
        assert_eq!(answer.field("age"), Some("42"), "{answer:?}");
        // The bare word has no room for more.
        if target != READS[0] {
            assert_eq!(answer.json()["behind"], true, "{answer:?}");
        }
    }
    let body = json!({"domains": ["a.example"]}).to_string();
    let fields = [("Content-Type", "application/json")];
    let answer = server.post("/v1/domains/lookup", &fields, body).await;
    assert_eq!(answer.field("age"), Some("42"), "{answer:?}");
    let json = answer.json();
    assert_eq!(json["behind"], true);
    assert_eq!(json["domains"][0].get("behind"), None, "it is said once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_counts_later_is_accepted() {
    let server = Running::start().await;
    let put = server
        .ask("PUT", "/v1/events/spooled.example/bounced")
        .await;
    assert_eq!((put.status, &*put.body), (202, &b""[..]), "{put:?}");
    let line = json!({"domain": "spooled.example", "type": "delivered"}).to_string();
    let fields = [("Content-Type", "application/x-ndjson")];
    let bulk = server.post("/v1/events", &fields, line).await;
    assert_eq!(bulk.status, 202, "{bulk:?}");
    assert_eq!(
        bulk.json(),
        json!({"accepted": 1, "duplicates": 0, "skipped": 0})
    );
    for kind in ["delivered", "bounced"] {
        let spooled = format!("catchall_events_total{{kind=\"{kind}\",outcome=\"spooled\"}}");
        assert_eq!(server.metric(&spooled), Some(1.0), "{kind}");
    }
}
