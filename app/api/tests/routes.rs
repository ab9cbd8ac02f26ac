//! What every route answers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use business::email_domains::ports::Freshness;
use serde_json::{Value, json};
use support::{NOW, Running};

const MOMENT: &str = "2026-11-21T09:00:00Z";
const AN_HOUR_BEFORE: &str = "2026-11-21T08:00:00Z";

#[tokio::test(flavor = "multi_thread")]
async fn events_are_counted_and_read_back() {
    assert_eq!(NOW, 1_795_251_600, "the moment below");
    let server = Running::start().await;
    for (target, times) in [
        ("/v1/events/A.example/delivered", 3),
        ("/v1/events/b.example./bounced", 1),
    ] {
        for _ in 0..times {
            let answer = server.ask("PUT", target).await;
            assert_eq!((answer.status, answer.body.len()), (204, 0));
            assert_eq!(answer.field("content-length"), None);
            assert_eq!(answer.field("content-type"), None);
        }
    }
    for (name, verdict, delivered, bounced, seen) in [
        ("a.example", "catch-all", 3, 0, json!(MOMENT)),
        ("b.example", "not catch-all", 0, 1, json!(MOMENT)),
        ("never.example", "unknown", 0, 0, Value::Null),
    ] {
        let answer = server.ask("GET", &format!("/v1/domains/{name}")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("content-type"), Some("application/json"));
        let expected = json!({
            "domain": name, "verdict": verdict, "delivered": delivered, "bounced": bounced,
            "first_seen": seen, "last_seen": seen,
        });
        assert_eq!(answer.json(), expected);

        let answer = server.ask("GET", &format!("/v1/domain/{name}")).await;
        assert_eq!(
            (answer.status, answer.text()),
            (200, format!("\"{verdict}\"").as_str())
        );
        assert_eq!(answer.field("content-type"), Some("application/json"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_may_be_percent_encoded_once() {
    let server = Running::start().await;
    for name in ["b%C3%BCcher.example", "%62%C3%bCcher%2Eexample"] {
        let answer = server
            .ask("PUT", &format!("/v1/events/{name}/delivered"))
            .await;
        assert_eq!(answer.status, 204, "{name}");
    }
    // Beyond ASCII a target must be encoded: this is no request at all.
    let answer = server
        .ask("PUT", "/v1/events/bücher.example/delivered")
        .await;
    assert_eq!((answer.status, answer.body.len()), (400, 0));

    for name in [
        "b%c3%bccher.example",
        "B%C3%9CCHER.example.",
        "xn--bcher-kva.example",
    ] {
        let answer = server
            .ask("GET", &format!("/v1/domains/{name}"))
            .await
            .json();
        assert_eq!(answer["domain"], "xn--bcher-kva.example", "{name}");
        assert_eq!(answer["delivered"], 2, "{name}");
    }
    for name in [
        "a%2Fb.example",
        "a%2fdelivered",
        "a%20b.example",
        "a%00.example",
        "%ff.example",
        "%25.example",
        "%2565.example",
        "%",
        "%zz.example",
        "a%0Ab.example",
        "127.0.0.1",
        "..",
        "a%3Fb.example",
        "a%5Cb.example",
        ".",
        "%EF%BF%BD.example",
    ] {
        for (method, target) in [
            ("PUT", format!("/v1/events/{name}/delivered")),
            ("PUT", format!("/v1/events/{name}/bounced")),
            ("GET", format!("/v1/domains/{name}")),
            ("GET", format!("/v1/domain/{name}")),
        ] {
            let answer = server.ask(method, &target).await;
            let problem = answer.problem(400, "invalid-domain");
            assert_eq!(problem["errors"][0]["field"], "domain", "{target}");
            assert!(problem["errors"][0]["reason"].is_string());
        }
    }
    let stats = server.ask("GET", "/v1/stats").await.json();
    assert_eq!(stats["events"], json!({ "delivered": 2, "bounced": 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_read_when_the_caller_insists() {
    let server = Running::start().await;
    for target in ["/v1/domains/a.example", "/v1/domain/a.example"] {
        for (control, freshness) in [
            ("no-transform, NO-CACHE", Freshness::Latest),
            ("max-age=0", Freshness::Latest),
            ("max-age=60", Freshness::Cached),
        ] {
            let answer = server
                .ask_with("GET", target, &[("Cache-Control", control)])
                .await;
            assert_eq!(answer.status, 200);
            assert_eq!(
                *server.store.freshness.lock().unwrap(),
                Some(freshness),
                "{control}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_and_filtered() {
    let server = Running::start().await;
    for number in 0..7 {
        let target = format!("/v1/events/d{number}.example/bounced");
        assert_eq!(server.ask("PUT", &target).await.status, 204);
    }
    server.ask("PUT", "/v1/events/z.example/delivered").await;

    let mut names = Vec::new();
    let mut cursor = String::new();
    loop {
        let target = format!("/v1/domains?verdict=not-catch-all&limit=3{cursor}");
        let page = server.ask("GET", &target).await.json();
        let domains = page["domains"].as_array().unwrap();
        assert!(domains.len() <= 3);
        assert!(
            domains
                .iter()
                .all(|domain| domain["verdict"] == "not catch-all")
        );
        names.extend(
            domains
                .iter()
                .map(|domain| domain["domain"].as_str().unwrap().to_owned()),
        );
        match page.get("next") {
            Some(next) => cursor = format!("&cursor={}", next.as_str().unwrap()),
            None => break,
        }
    }
    let expected: Vec<_> = (0..7).map(|number| format!("d{number}.example")).collect();
    assert_eq!(names, expected);

    let unknown = server
        .ask("GET", "/v1/domains?verdict=unknown")
        .await
        .json();
    assert_eq!(unknown["domains"].as_array().unwrap().len(), 1);
    let all = server.ask("GET", "/v1/domains").await.json();
    assert_eq!(all["domains"].as_array().unwrap().len(), 8);
    assert_eq!(all.get("next"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_query_is_told_part_by_part() {
    let server = Running::start().await;
    for (query, fields) in [
        ("color=red&size=2", &["color", "size"][..]),
        ("verdict=not%20catch-all", &["verdict"]),
        ("limit=0", &["limit"]),
        ("limit=1001", &["limit"]),
        ("limit=-1", &["limit"]),
        ("limit=1&limit=2", &["limit"]),
        ("cursor=%21", &["cursor"]),
        // Well-formed, but not this store's.
        ("cursor=AAAA", &["cursor"]),
    ] {
        let answer = server.ask("GET", &format!("/v1/domains?{query}")).await;
        let problem = answer.problem(400, "invalid-query");
        let named: Vec<_> = problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| &error["field"])
            .collect();
        assert_eq!(named, fields, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sums_add_up() {
    let server = Running::start().await;
    for name in ["a", "a", "a", "b"] {
        server
            .ask("PUT", &format!("/v1/events/{name}.example/delivered"))
            .await;
    }
    server.ask("PUT", "/v1/events/c.example/bounced").await;
    let mut stats = server.ask("GET", "/v1/stats").await.json();
    assert!(stats["uptime_s"].take().is_u64());
    let expected = json!({
        "version": env!("CARGO_PKG_VERSION"), "store": "test", "threshold": 3, "uptime_s": null,
        "domains": { "total": 3, "catch_all": 1, "not_catch_all": 1, "unknown": 1 },
        "events": { "delivered": 4, "bounced": 1 },
        // The store says that it remembers them for an hour.
        "keys_from": AN_HOUR_BEFORE,
        "as_of": MOMENT,
    });
    assert_eq!(stats, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_has_get_has_head() {
    let server = Running::start().await;
    let description = server.ask("GET", "/openapi.json").await.json();
    for (path, item) in description["paths"].as_object().unwrap() {
        if item.get("get").is_none() {
            continue;
        }
        let target = path
            .replace("{domain}", "a.example")
            .replace("{file}", "swagger-ui.css");
        let mut connection = server.connect().await;
        let head = connection.ask("HEAD", &target, &[]).await;
        if item["get"]["responses"]["200"]["content"]["text/event-stream"].is_null() {
            let get = connection.ask("GET", &target, &[]).await;
            assert_eq!(head.status, get.status, "{target}");
            assert_eq!(
                head.field("content-type"),
                get.field("content-type"),
                "{target}"
            );
        } else {
            // The answer to a GET would not end.
            assert_eq!(head.status, 200, "{target}");
            assert_eq!(head.field("content-type"), Some("text/event-stream"));
        }
        assert_eq!(head.body.len(), 0);
        // The connection is still in step.
        assert_eq!(
            connection.ask("GET", "/livez", &[]).await.status,
            200,
            "{target}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let server = Running::start().await;
    let mut connection = server.connect().await;
    let request = |number| {
        format!(
            "PUT /v1/events/p.example/delivered HTTP/1.1\r\nHost: test\r\n\
             X-Request-Id: {number}\r\n\r\n"
        )
    };
    connection
        .send((0..100).map(request).collect::<String>())
        .await;
    for number in 0..100 {
        let answer = connection.answer(false).await;
        assert_eq!(answer.status, 204);
        assert_eq!(
            answer.field("x-request-id"),
            Some(number.to_string().as_str())
        );
    }
    let domain = server.ask("GET", "/v1/domains/p.example").await.json();
    assert_eq!(domain["delivered"], 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_served_with_its_page() {
    let server = Running::start().await;
    let description = server.ask("GET", "/openapi.json").await;
    assert_eq!(description.field("content-type"), Some("application/json"));
    assert_eq!(description.json()["openapi"], "3.1.0");
    let answer = server.ask("GET", "/docs").await;
    assert_eq!(
        (answer.status, answer.field("location")),
        (302, Some("/docs/"))
    );
    let page = server.ask("GET", "/docs/").await;
    assert!(page.text().contains("swagger-ui"));
    let script = server.ask("GET", "/docs/swagger-initializer.js").await;
    assert!(script.text().contains("/openapi.json"), "{}", script.text());
    assert!(
        server
            .ask("GET", "/docs/swagger-ui-bundle.js")
            .await
            .body
            .len()
            > 100_000
    );
    server
        .ask("GET", "/docs/no-such-file")
        .await
        .problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_served_with_its_files() {
    let server = Running::start().await;
    let page = server.ask("GET", "/").await;
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.field("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    for (file, content_type) in [
        ("page.css", "text/css; charset=utf-8"),
        ("page.js", "text/javascript; charset=utf-8"),
    ] {
        let target = format!("/page/{file}");
        assert!(page.text().contains(&target), "{target}");
        let answer = server.ask("GET", &target).await;
        assert_eq!(
            (answer.status, answer.field("content-type")),
            (200, Some(content_type))
        );
    }
    server
        .ask("GET", "/page/no-such-file")
        .await
        .problem(404, "not-found");
}
