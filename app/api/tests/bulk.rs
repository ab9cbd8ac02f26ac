//! Many events in one request: every format, and all or nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};
use support::{Response, Running, store::SECRET};

const LINES: (&str, &str) = ("Content-Type", "application/x-ndjson");
const JSON: (&str, &str) = ("Content-Type", "application/json");
const CLOUD_EVENT: (&str, &str) = ("Content-Type", "application/cloudevents+json");
const CLOUD_EVENTS: (&str, &str) = ("Content-Type", "application/cloudevents-batch+json");

/// A receipt without errors.
#[track_caller]
fn assert_accepted(answer: &Response, accepted: u64) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let receipt = json!({ "accepted": accepted, "duplicates": 0, "skipped": 0 });
    assert_eq!(answer.json(), receipt);
}

/// The errors of a refusal, each as a line: where, which field, why.
#[track_caller]
fn refusals(answer: &Response) -> Vec<String> {
    let problem = answer.problem(422, "invalid-events");
    let errors = told(&problem);
    assert_eq!(problem["invalid"], errors.len());
    errors
}

fn told(document: &Value) -> Vec<String> {
    let text = |error: &Value| {
        let place = error["line"].as_u64().or(error["index"].as_u64());
        let place = place.map_or("-".to_owned(), |place| place.to_string());
        let (field, reason) = (error["field"].as_str(), error["reason"].as_str());
        format!("{place} {}: {}", field.unwrap(), reason.unwrap())
    };
    document["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(text)
        .collect()
}

/// No two of them are the same event.
fn cloud_event(kind: &str, subject: &str) -> Value {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let id = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
    json!({
        "specversion": "1.0", "id": id, "source": "/mail", "type": kind, "subject": subject,
        "time": "2026-11-21T09:00:00Z", "data": { "more": [1, 2] },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_counted() {
    let server = Running::start().await;
    for (content, accepted) in [
        ("{\"domain\":\"a.example\",\"type\":\"delivered\"}\n", 1),
        ("{\"domain\":\"A.example.\",\"type\":\"delivered\"}", 1),
        (
            "\r\n{\"type\":\"bounced\",\"domain\":\"b.example\"}\r\n \t\r\n\n\
             { \"domain\" : \"a.example\" , \"type\" : \"delivered\" }\r\n",
            2,
        ),
        (
            "{\"domain\":\"bücher.example\",\"type\":\"bounced\",\"id\":{\"a\":[]}}\n\
             {\"domain\":\"b\\u00fccher.example\",\"type\":\"delivered\"}",
            2,
        ),
    ] {
        let answer = server.post("/v1/events", &[LINES], content).await;
        assert_accepted(&answer, accepted);
    }
    assert_eq!(server.counts("a.example").await, (3, 0));
    assert_eq!(server.counts("b.example").await, (0, 1));
    assert_eq!(server.counts("xn--bcher-kva.example").await, (1, 1));
    assert_eq!(*server.store.groups.lock().unwrap(), [1, 1, 1, 1]);
    let events = |kind, outcome| {
        server.metric(&format!(
            "catchall_events_total{{kind=\"{kind}\",outcome=\"{outcome}\"}}"
        ))
    };
    assert_eq!(events("delivered", "counted"), Some(4.0));
    assert_eq!(events("bounced", "counted"), Some(2.0));
    assert_eq!(events("delivered", "failed"), Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_one_event_or_an_array() {
    let server = Running::start().await;
    let event = json!({ "domain": "a.example", "type": "delivered" });
    let parameter = ("content-type", "Application/JSON; charset=utf-8");
    let answer = server
        .post("/v1/events", &[parameter], event.to_string())
        .await;
    assert_accepted(&answer, 1);
    let array = json!([event, { "type": "bounced", "domain": "b.example", "x": 1 }, event]);
    for content in [
        array.to_string(),
        serde_json::to_string_pretty(&array).unwrap(),
    ] {
        assert_accepted(&server.post("/v1/events", &[JSON], content).await, 3);
    }
    assert_eq!(server.counts("a.example").await, (5, 0));
    assert_eq!(server.counts("b.example").await, (0, 2));
    assert_eq!(*server.store.groups.lock().unwrap(), [1, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_events_come_in_three_modes() {
    let server = Running::start().await;
    let delivered = cloud_event("email.delivered", "a.example");
    let answer = server
        .post("/v1/events", &[CLOUD_EVENT], delivered.to_string())
        .await;
    assert_accepted(&answer, 1);
    let batch = json!([
        cloud_event("email.delivered", "a.example"),
        cloud_event("email.bounced", "b.example"),
        cloud_event("email.delivered", "a.example"),
    ]);
    let answer = server
        .post("/v1/events", &[CLOUD_EVENTS], batch.to_string())
        .await;
    assert_accepted(&answer, 3);

    let attributes = |id| {
        [
            ("ce-specversion", "1.0"),
            ("Ce-Id", id),
            ("ce-source", "/mail"),
            ("CE-Type", "email.bounced"),
            ("ce-subject", "b%C3%BCcher.example"),
        ]
    };
    for (id, media_type, content) in [
        ("a", None, ""),
        ("\"1 \\\" 2\"", Some("text/plain"), "\u{0}anything"),
        (
            "c",
            Some("application/json"),
            "{\"domain\":\"a.example\",\"type\":\"bounced\"}",
        ),
    ] {
        let media_type = media_type.map(|media_type| ("Content-Type", media_type));
        let fields: Vec<_> = attributes(id).into_iter().chain(media_type).collect();
        assert_accepted(&server.post("/v1/events", &fields, content).await, 1);
    }
    let answer = server
        .ask_with("POST", "/v1/events", &attributes("d"))
        .await;
    assert_accepted(&answer, 1);

    assert_eq!(server.counts("a.example").await, (3, 0));
    assert_eq!(server.counts("b.example").await, (0, 1));
    assert_eq!(server.counts("xn--bcher-kva.example").await, (0, 4));
    // Each is a member of its own.
    assert_eq!(*server.store.groups.lock().unwrap(), [1, 3, 1, 1, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_are_checked() {
    let server = Running::start().await;
    for (name, value, reason) in [
        ("specversion", "0.3", "specversion: must be `1.0`"),
        ("id", "", "id: cannot be empty"),
        ("source", "", "source: cannot be empty"),
        (
            "type",
            "delivered",
            "type: must be `email.delivered` or `email.bounced`",
        ),
        (
            "subject",
            "a b",
            "subject: ' ' cannot stand in a domain name",
        ),
    ] {
        let mut event = cloud_event("email.delivered", "a.example");
        event[name] = json!(value);
        let answer = server
            .post("/v1/events", &[CLOUD_EVENT], event.to_string())
            .await;
        assert_eq!(refusals(&answer), [format!("- {reason}")]);
        event.as_object_mut().unwrap().remove(name);
        let batch = json!([cloud_event("email.bounced", "a.example"), event]);
        let answer = server
            .post("/v1/events", &[CLOUD_EVENTS], batch.to_string())
            .await;
        assert_eq!(
            refusals(&answer),
            [format!("1 event: missing field `{name}`")]
        );

        let fields: Vec<_> = ["specversion", "id", "source", "type", "subject"]
            .into_iter()
            .filter(|other| *other != name)
            .map(|other| {
                let event = cloud_event("email.delivered", "a.example");
                (
                    format!("ce-{other}"),
                    event[other].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        let mut fields: Vec<_> = fields
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        fields.push(JSON);
        let answer = server.post("/v1/events", &fields, "[]").await;
        assert_eq!(refusals(&answer), [format!("- ce-{name}: is missing")]);
        let twice = ("ce-id", "2");
        fields.extend([twice, twice]);
        if name != "specversion" {
            server
                .post("/v1/events", &fields, "")
                .await
                .problem(422, "invalid-events");
        }
    }
    assert_eq!(server.counts("a.example").await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_wrong_refuses_all_and_each_is_named() {
    let server = Running::start().await;
    let lines = b"{\"domain\":\"a.example\",\"type\":\"delivered\"}\n\
        \n\
        {\"domain\":\"a..example\",\"type\":\"delivered\"}\n\
        {\"domain\":\"a.example\",\"type\":\"opened\"}\n\
        [\"a.example\",\"delivered\"]\n\
        {\"domain\":\"a.example\",\n\
        \xff\n\
        {\"domain\":\"a.example\",\"type\":\"delivered\"}";
    let errors = [
        "3 domain: a domain name has no empty label: two dots meet, or it begins with a dot",
        "4 type: must be `delivered` or `bounced`",
        "5 event: must be a JSON object",
        "6 event: EOF while parsing a value",
        "7 content: is not UTF-8",
    ];
    for target in ["/v1/events", "/v1/events?on_invalid=refuse"] {
        let answer = server.post(target, &[LINES], lines).await;
        assert_eq!(refusals(&answer), errors);
    }
    assert_eq!(server.counts("a.example").await, (0, 0));

    let answer = server
        .post("/v1/events?on_invalid=skip", &[LINES], lines)
        .await;
    assert_eq!(answer.status, 200);
    let receipt = answer.json();
    assert_eq!(told(&receipt), errors);
    let counts = ["accepted", "duplicates", "skipped"].map(|name| receipt[name].as_u64().unwrap());
    assert_eq!(counts, [2, 0, 5]);
    assert_eq!(server.counts("a.example").await, (2, 0));

    let array =
        "[{\"domain\":\"a.example\",\"type\":\"bounced\"}, 5, [1], {\"domain\":\"a.example\"}]";
    let answer = server.post("/v1/events", &[JSON], array).await;
    let errors = [
        "1 event: must be a JSON object",
        "2 event: must be a JSON object",
        "3 event: missing field `type`",
    ];
    assert_eq!(refusals(&answer), errors);
    let answer = server
        .post("/v1/events?on_invalid=skip", &[JSON], array)
        .await;
    assert_eq!(told(&answer.json()), errors);
    assert_eq!(server.counts("a.example").await, (2, 1));

    // All may be skipped; then the store is not asked.
    let groups = server.store.groups.lock().unwrap().len();
    let answer = server
        .post("/v1/events?on_invalid=skip", &[LINES], "x\ny")
        .await
        .json();
    assert_eq!(
        (&answer["accepted"], &answer["skipped"]),
        (&json!(0), &json!(2))
    );
    assert_eq!(server.store.groups.lock().unwrap().len(), groups);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_errors_are_bounded_and_counted() {
    let server = Running::start().await;
    let lines = "x\n".repeat(1_000);
    let problem = server
        .post("/v1/events", &[LINES], &lines)
        .await
        .problem(422, "invalid-events");
    assert_eq!(problem["invalid"], 1_000);
    assert_eq!(told(&problem).len(), 100);
    assert_eq!(problem["errors"][99]["line"], 100);
    let receipt = server
        .post("/v1/events?on_invalid=skip", &[LINES], &lines)
        .await
        .json();
    assert_eq!(receipt["skipped"], 1_000);
    assert_eq!(told(&receipt).len(), 100);

    let long = format!("{{\"{}\":1,\"domain\":[]}}", "x".repeat(60_000));
    let answer = server.post("/v1/events", &[LINES], long).await;
    assert!(refusals(&answer)[0].len() < 250);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_cloud_events_may_be_empty() {
    let server = Running::start().await;
    let answer = server.post("/v1/events", &[CLOUD_EVENTS], "[]").await;
    assert_accepted(&answer, 0);
    assert!(server.store.groups.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_at_all_is_refused_and_so_is_what_cannot_be_read() {
    let server = Running::start().await;
    for (media_type, content, error) in [
        (LINES, "", "there is no event"),
        (LINES, "\r\n \n", "there is no event"),
        (JSON, "", "there is no event"),
        (JSON, " [ ] ", "there is no event"),
        (
            CLOUD_EVENTS,
            "",
            "EOF while parsing a value at line 1 column 0",
        ),
        (CLOUD_EVENT, "", "there is no event"),
        (JSON, "[{}", "EOF while parsing a list at line 1 column 3"),
        (JSON, "[] x", "trailing characters at line 1 column 4"),
        (
            CLOUD_EVENTS,
            "{}",
            "invalid type: map, expected an array at line 1 column 0",
        ),
    ] {
        for target in ["/v1/events", "/v1/events?on_invalid=skip"] {
            let answer = server.post(target, &[media_type], content).await;
            assert_eq!(
                refusals(&answer),
                [format!("- content: {error}")],
                "{content}"
            );
        }
    }
    let answer = server.post("/v1/events", &[JSON], b"[\xff]").await;
    assert_eq!(refusals(&answer), ["- content: is not UTF-8"]);
    let answer = server.ask_with("POST", "/v1/events", &[LINES]).await;
    assert_eq!(refusals(&answer), ["- content: there is no event"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_may_be_as_deep_as_it_likes() {
    let server = Running::start().await;
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    let event = format!("{{\"x\":{deep},\"domain\":\"a.example\",\"type\":\"delivered\"}}");
    for (media_type, content) in [(LINES, event.clone()), (JSON, format!("[{event}]"))] {
        assert_accepted(&server.post("/v1/events", &[media_type], content).await, 1);
    }
    let answer = server.post("/v1/events", &[JSON], deep).await;
    assert_eq!(refusals(&answer), ["0 event: must be a JSON object"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_media_types_and_queries_are_refused() {
    let server = Running::start().await;
    let event = "{\"domain\":\"a.example\",\"type\":\"delivered\"}";
    for fields in [
        &[][..],
        &[("Content-Type", "text/plain")],
        &[
            ("Content-Type", "application/cloudevents+avro"),
            ("ce-id", "1"),
        ],
        &[("Content-Type", "application/jsonl")],
    ] {
        let answer = server.post("/v1/events", fields, event).await;
        answer.problem(415, "media-type-not-supported");
        assert!(
            answer
                .field("accept")
                .unwrap()
                .contains("application/x-ndjson")
        );
    }
    for (query, field) in [
        ("on_invalid=ignore", "on_invalid"),
        ("on_invalid=skip&on_invalid=skip", "on_invalid"),
        ("on_invalid=skip&color=red", "color"),
        ("skip", "skip"),
    ] {
        let answer = server
            .post(&format!("/v1/events?{query}"), &[JSON], event)
            .await;
        let problem = answer.problem(400, "invalid-query");
        assert_eq!(problem["errors"][0]["field"], field, "{query}");
    }
    assert_eq!(server.counts("a.example").await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_counts_nothing() {
    let server = Running::start().await;
    for (name, status, slug) in [
        ("unavailable.example", 503, "unavailable"),
        ("overloaded.example", 503, "overloaded"),
        ("ambiguous.example", 503, "outcome-unknown"),
        ("corrupt.example", 500, "internal"),
        ("panic.example", 500, "internal"),
    ] {
        let lines = format!(
            "{{\"domain\":\"a.example\",\"type\":\"delivered\"}}\n\
             {{\"domain\":\"{name}\",\"type\":\"bounced\"}}\n"
        );
        let answer = server.post("/v1/events", &[LINES], lines).await;
        answer.problem(status, slug);
        assert!(!answer.text().contains(SECRET));
    }
    assert_eq!(server.counts("a.example").await, (0, 0));
    for (kind, outcome, count) in [
        ("delivered", "failed", 5.0),
        ("bounced", "failed", 5.0),
        ("delivered", "counted", 0.0),
        ("delivered", "refused", 0.0),
    ] {
        let series = format!("catchall_events_total{{kind=\"{kind}\",outcome=\"{outcome}\"}}");
        assert_eq!(server.metric(&series), Some(count), "{kind} {outcome}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_is_one_group() {
    let server = Running::start().await;
    let mut lines = String::new();
    for number in 0..1_200 {
        let kind = if number % 3 == 0 {
            "bounced"
        } else {
            "delivered"
        };
        writeln!(
            lines,
            "{{\"domain\":\"d{}.example\",\"type\":\"{kind}\"}}",
            number % 4
        )
        .unwrap();
    }
    let mut connection = server.connect().await;
    for _ in 0..3 {
        let answer = connection.post("/v1/events", &[LINES], &lines).await;
        assert_accepted(&answer, 1_200);
    }
    for domain in 0..4 {
        assert_eq!(
            server.counts(&format!("d{domain}.example")).await,
            (600, 300)
        );
    }
    assert_eq!(*server.store.groups.lock().unwrap(), [1, 1, 1]);
}
