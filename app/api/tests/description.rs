//! The API description against the server: what is answered is documented.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::Value;
use support::{Response, Running};

/// Checks that an operation may answer so: its status, its media type, its header fields.
#[track_caller]
fn assert_documented(description: &Value, path: &str, method: &str, answer: &Response) {
    let operation = &description["paths"][path][method];
    let documented = &operation["responses"][answer.status.to_string()];
    let place = format!("{method} {path}: {}", answer.status);
    assert!(documented.is_object(), "{place} is not documented");
    assert!(
        documented["description"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{place}"
    );
    for name in [
        "X-Request-Id",
        "Retry-After",
        "Location",
        "Accept",
        "Accept-Encoding",
        "Idempotency-Replayed",
        "Age",
    ] {
        let sent = answer.field(&name.to_lowercase()).is_some();
        assert!(
            !sent || documented["headers"][name].is_object(),
            "{place}: {name}"
        );
    }
    let content = documented["content"].as_object();
    match answer.field("content-type") {
        None => assert!(content.is_none(), "{place} has no content"),
        Some(media_type) => {
            let media_type = media_type.split(';').next().unwrap();
            let known = content.unwrap();
            assert!(
                known.contains_key(media_type) || known.contains_key("*/*"),
                "{place}: {media_type}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_documented() {
    let server = Running::start().await;
    let description = server.ask("GET", "/openapi.json").await.json();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, _) in item.as_object().unwrap() {
            let names = [
                "a.example",
                "bad%20name",
                "unavailable.example",
                "overloaded.example",
                "corrupt.example",
                "panic.example",
                "spooled.example",
                &"a".repeat(2_048),
            ];
            for name in names {
                let target = path.replace("{domain}", name).replace("{file}", name);
                let answer = server.ask(&method.to_uppercase(), &target).await;
                assert_documented(&description, path, method, &answer);
            }
            let fields = [("Content-Length", "99999999")];
            let target = path
                .replace("{domain}", "a.example")
                .replace("{file}", "index.html");
            let answer = server
                .ask_with(&method.to_uppercase(), &target, &fields)
                .await;
            assert_eq!(answer.status, 413);
            assert_documented(&description, path, method, &answer);
        }
    }
    for (target, path) in [
        ("/v1/domains?a=b", "/v1/domains"),
        ("/readyz?verbose", "/readyz"),
    ] {
        let answer = server.ask("GET", target).await;
        assert_documented(&description, path, "get", &answer);
    }
    for (path, target, content) in [
        (
            "/v1/events",
            "/v1/events",
            "{\"domain\":\"a.example\",\"type\":\"bounced\"}",
        ),
        ("/v1/events", "/v1/events?a=b", ""),
        ("/v1/events", "/v1/events", "{}"),
        (
            "/v1/events",
            "/v1/events",
            "{\"domain\":\"ambiguous.example\",\"type\":\"bounced\"}",
        ),
        (
            "/v1/domains/lookup",
            "/v1/domains/lookup",
            "{\"domains\":[\"a.example\"]}",
        ),
        ("/v1/domains/lookup", "/v1/domains/lookup?a=b", ""),
        ("/v1/domains/lookup", "/v1/domains/lookup", "{}"),
        (
            "/v1/domains/lookup",
            "/v1/domains/lookup",
            "{\"domains\":[\"corrupt.example\"]}",
        ),
    ] {
        for fields in [
            &[("Content-Type", "application/json")][..],
            &[("Content-Type", "text/plain")],
            &[("Content-Encoding", "br")],
            &[("Content-Encoding", "gzip")],
        ] {
            let answer = server.post(target, fields, content).await;
            assert_documented(&description, path, "post", &answer);
        }
    }
    let answer = server
        .ask("PUT", "/v1/events/ambiguous.example/bounced")
        .await;
    assert_documented(&description, "/v1/events/{domain}/bounced", "put", &answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reference_leads_somewhere_and_every_problem_has_an_example() {
    let server = Running::start().await;
    let description = server.ask("GET", "/openapi.json").await.json();
    let mut values = vec![&description];
    while let Some(value) = values.pop() {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(description.pointer(pointer).is_some(), "{reference}");
        }
        match value {
            Value::Object(object) => values.extend(object.values()),
            Value::Array(array) => values.extend(array),
            _ => {}
        }
    }
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap();
            for (status, response) in responses {
                let Some(problems) = response.pointer("/content/application~1problem+json") else {
                    assert!(status.as_str() < "400", "{method} {path}: {status}");
                    continue;
                };
                for example in problems["examples"].as_object().unwrap().values() {
                    assert_eq!(example["value"]["status"].to_string(), *status);
                }
            }
        }
    }
}

/// Every media type has an example, and every example is good.
#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_content_are_taken() {
    let server = Running::start().await;
    let description = server.ask("GET", "/openapi.json").await.json();
    let mut media_types = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        let Some(content) = item.pointer("/post/requestBody/content") else {
            continue;
        };
        for (media_type, content) in content.as_object().unwrap() {
            let example = match &content["example"] {
                Value::String(text) => text.clone(),
                value => value.to_string(),
            };
            let fields = [("Content-Type", media_type.as_str())];
            let answer = server.post(path, &fields, example).await;
            assert_eq!(answer.status, 200, "{path} {media_type}: {answer:?}");
            media_types.push(media_type.clone());
        }
    }
    media_types.sort();
    assert_eq!(
        media_types,
        [
            "application/cloudevents+json",
            "application/cloudevents-batch+json",
            "application/json",
            "application/json",
            "application/x-ndjson",
        ]
    );
}

/// What is answered has the fields its schema says, and no others.
#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_shape_of_their_schemas() {
    let server = Running::start().await;
    for name in ["a.example", "b.example"] {
        server
            .ask("PUT", &format!("/v1/events/{name}/delivered"))
            .await;
    }
    let description = server.ask("GET", "/openapi.json").await.json();
    let json = [("Content-Type", "application/json")];
    let posted = [
        ("/v1/events?on_invalid=skip", "[{}]", "Receipt"),
        ("/v1/events", "[{}]", "Problem"),
        (
            "/v1/domains/lookup",
            "{\"domains\":[\"a.example\"]}",
            "Domains",
        ),
    ];
    let mut answers = Vec::new();
    for (target, content, schema) in posted {
        let answer = server.post(target, &json, content).await.json();
        answers.push((target, answer, schema));
    }
    for (target, schema) in [
        ("/v1/domains/a.example", "Domain"),
        ("/v1/domains/never.example", "Domain"),
        ("/v1/domains?limit=1", "DomainPage"),
        ("/v1/domains", "DomainPage"),
        ("/v1/stats", "Stats"),
        ("/nowhere", "Problem"),
        ("/v1/domains/bad%20name", "Problem"),
    ] {
        answers.push((target, server.ask("GET", target).await.json(), schema));
    }
    for (target, answer, schema) in answers {
        let schema = &description["components"]["schemas"][schema];
        let properties = schema["properties"].as_object().unwrap();
        for name in answer.as_object().unwrap().keys() {
            assert!(
                properties.contains_key(name),
                "{target}: {name} is not in the schema"
            );
        }
        for name in schema["required"].as_array().unwrap() {
            assert!(
                answer.get(name.as_str().unwrap()).is_some(),
                "{target}: {name} is missing"
            );
        }
    }
    let verdicts = &description["components"]["schemas"]["Verdict"]["enum"];
    assert_eq!(
        *verdicts,
        serde_json::json!(["catch-all", "not catch-all", "unknown"])
    );
}
