//! Many domains asked for in one request.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::atomic::Ordering;

use business::email_domains::ports::Freshness;
use serde_json::{Value, json};
use support::{Response, Running};

const JSON: (&str, &str) = ("Content-Type", "application/json");

async fn lookup(server: &Running, body: &Value) -> Response {
    server
        .post("/v1/domains/lookup", &[JSON], body.to_string())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn domains_are_told_in_the_order_asked_for() {
    let server = Running::start().await;
    for target in [
        "a.example/bounced",
        "b.example/delivered",
        "b.example/delivered",
    ] {
        server.ask("PUT", &format!("/v1/events/{target}")).await;
    }
    let names = json!({ "domains": ["B.example.", "never.example", "a.example", "b\u{0}.example"], "x": 1 });
    let mut asked = names.clone();
    asked["domains"].as_array_mut().unwrap().pop();
    let answer = lookup(&server, &asked).await;
    assert_eq!(answer.status, 200);
    let mut expected = Vec::new();
    for name in ["b.example", "never.example", "a.example"] {
        expected.push(
            server
                .ask("GET", &format!("/v1/domains/{name}"))
                .await
                .json(),
        );
    }
    assert_eq!(answer.json(), json!({ "domains": expected }));
    let problem = lookup(&server, &names).await.problem(422, "invalid-lookup");
    assert_eq!(problem["errors"][0]["index"], 3);

    let answer = lookup(&server, &json!({ "domains": [] })).await;
    assert_eq!(answer.json(), json!({ "domains": [] }));
    // A domain may be called so.
    let answer = server.ask("GET", "/v1/domains/lookup").await.json();
    assert_eq!(answer["domain"], "lookup");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_are_one_read() {
    let server = Running::start_with(json!({ "max_body_bytes": 1 << 20 })).await;
    let mut names: Vec<_> = (0..10_000)
        .map(|number| format!("d{number}.example"))
        .collect();
    let answer = lookup(&server, &json!({ "domains": names })).await.json();
    assert_eq!(answer["domains"].as_array().unwrap().len(), 10_000);
    assert_eq!(answer["domains"][9_999]["domain"], "d9999.example");
    assert_eq!(server.store.reads.load(Ordering::SeqCst), 1);
    assert_eq!(
        *server.store.freshness.lock().unwrap(),
        Some(Freshness::Cached)
    );

    names.push("more.example".to_owned());
    let problem = lookup(&server, &json!({ "domains": names }))
        .await
        .problem(422, "invalid-lookup");
    assert_eq!(problem["errors"][0]["reason"], "at most 10,000 names");

    let fields = [JSON, ("Cache-Control", "no-cache")];
    let body = json!({ "domains": ["a.example"] }).to_string();
    let answer = server.post("/v1/domains/lookup", &fields, body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        *server.store.freshness.lock().unwrap(),
        Some(Freshness::Latest)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() {
    let server = Running::start().await;
    let problem = lookup(
        &server,
        &json!({ "domains": ["a.example", "", 5, "1.2.3.4", null] }),
    )
    .await
    .problem(422, "invalid-lookup");
    let errors = problem["errors"].as_array().unwrap();
    let places: Vec<_> = errors
        .iter()
        .map(|error| error["index"].as_u64().unwrap())
        .collect();
    assert_eq!(places, [1, 2, 3, 4]);
    assert_eq!(problem["invalid"], 4);
    assert_eq!(errors[0]["reason"], "a domain name cannot be empty");

    let problem = lookup(&server, &json!({ "domains": vec![""; 1_000] }))
        .await
        .problem(422, "invalid-lookup");
    assert_eq!(
        (
            problem["invalid"].as_u64(),
            problem["errors"].as_array().unwrap().len()
        ),
        (Some(1_000), 100)
    );

    for body in [
        "",
        "{}",
        "[]",
        "[[]]",
        "{\"domains\":{}}",
        "{\"domains\":[],\"domains\":[]}",
        "{\"domains\":[",
    ] {
        let answer = server.post("/v1/domains/lookup", &[JSON], body).await;
        answer.problem(422, "invalid-lookup");
    }
    let text = json!({ "domains": "x".repeat(60_000) });
    assert!(lookup(&server, &text).await.body.len() < 1_000);

    let answer = server.post("/v1/domains/lookup", &[], "{}").await;
    answer.problem(415, "media-type-not-supported");
    assert_eq!(answer.field("accept"), Some("application/json"));
    let answer = server.post("/v1/domains/lookup?x=1", &[JSON], "{}").await;
    answer.problem(400, "invalid-query");
    let answer = lookup(
        &server,
        &json!({ "domains": ["a.example", "corrupt.example"] }),
    )
    .await;
    answer.problem(500, "internal");
}
