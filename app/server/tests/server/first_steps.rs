//! The same first steps on every store.

use std::collections::BTreeSet;

use foundation::testing::{Postgres, Redis};
use serde_json::{Value, json};

use crate::support::{Kind, Server, Setup, until};

/// What all stores are asked here, with 5 deliveries for a catch-all.
async fn take_first_steps(setup: Setup, store: &str, metrics: &[&str]) {
    let server = setup.set("verdict.threshold", 5).start();
    count(&server).await;
    let told = domains_are_told(&server).await;
    the_list_agrees(&server, &told).await;
    the_sums_agree(&server, store).await;
    metrics_are_there(&server, metrics).await;
    domains_make_no_series(&server).await;
    server.stop();
}

/// Domain, deliveries, bounces, verdict.
const COUNTED: [(&str, u64, u64, &str); 4] = [
    ("all.example", 5, 0, "catch-all"),
    ("few.example", 4, 0, "unknown"),
    ("not.example", 7, 2, "not catch-all"),
    ("xn--bcher-kva.example", 1, 0, "unknown"),
];

async fn count(server: &Server) {
    let mut connection = server.connect().await;
    // However a name is written, it is one domain.
    let spellings = [
        "not.example",
        "NOT.Example",
        "not.example.",
        "n%6ft.example",
    ];
    for (domain, delivered, bounced, _) in COUNTED {
        let written = match domain {
            "not.example" => &spellings[..],
            "xn--bcher-kva.example" => &["b%C3%BCcher.example"],
            other => &[other],
        };
        let kinds = [(Kind::Delivered, delivered), (Kind::Bounced, bounced)];
        let mut written = written.iter().cycle();
        for kind in kinds
            .map(|(kind, count)| (0..count).map(move |_| kind))
            .into_iter()
            .flatten()
        {
            let answer = connection.put(written.next().unwrap(), kind).await.unwrap();
            assert_eq!((answer.status, answer.text()), (204, ""));
        }
    }
}

/// Checks both routes, and gives what the longer one says of each.
async fn domains_are_told(server: &Server) -> Vec<Value> {
    let mut connection = server.connect().await;
    let mut told = Vec::new();
    for (domain, delivered, bounced, verdict) in COUNTED {
        let short = connection.json(&format!("/v1/domain/{domain}")).await;
        assert_eq!(short, verdict, "{domain}");
        let long = connection.json(&format!("/v1/domains/{domain}")).await;
        let (first, last) = (long["first_seen"].as_str(), long["last_seen"].as_str());
        assert!(first.is_some() && first <= last, "{long}");
        assert_eq!(
            long,
            json!({
                "domain": domain, "verdict": verdict, "delivered": delivered,
                "bounced": bounced, "first_seen": first, "last_seen": last,
            })
        );
        told.push(long);
    }
    let short = connection.json("/v1/domain/unseen.example").await;
    assert_eq!(short, "unknown");
    let long = connection.json("/v1/domains/unseen.example").await;
    assert_eq!(
        long,
        json!({
            "domain": "unseen.example", "verdict": "unknown", "delivered": 0,
            "bounced": 0, "first_seen": null, "last_seen": null,
        })
    );
    told
}

/// The list, whole, by verdict and page by page, is what was told of each domain.
async fn the_list_agrees(server: &Server, told: &[Value]) {
    let list = listed(server, "").await;
    assert_eq!(list, told, "the order aside");
    for limit in 1..=4 {
        assert_eq!(listed(server, &format!("&limit={limit}")).await, told);
    }
    for (parameter, verdict) in [
        ("catch-all", "catch-all"),
        ("not-catch-all", "not catch-all"),
        ("unknown", "unknown"),
    ] {
        let of_verdict: Vec<_> = told.iter().filter(|it| it["verdict"] == verdict).collect();
        let list = listed(server, &format!("&verdict={parameter}")).await;
        assert_eq!(list.iter().collect::<Vec<_>>(), of_verdict, "{verdict}");
    }
}

/// All pages, sorted by domain.
async fn listed(server: &Server, query: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let mut page = server.json(&format!("/v1/domains?{cursor}{query}")).await;
        all.append(page["domains"].as_array_mut().unwrap());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    all.sort_by_key(|domain| domain["domain"].to_string());
    all
}

async fn the_sums_agree(server: &Server, store: &str) {
    let stats = server.json("/v1/stats").await;
    assert_eq!(
        (&stats["store"], &stats["threshold"]),
        (&json!(store), &json!(5))
    );
    assert_eq!(
        stats["domains"],
        json!({ "total": 4, "catch_all": 1, "not_catch_all": 1, "unknown": 2 })
    );
    assert_eq!(stats["events"], json!({ "delivered": 17, "bounced": 2 }));
}

const EVERYWHERE: &[&str] = &[
    "http_server_request_duration_seconds_bucket",
    "http_server_active_requests",
    "catchall_events_total",
    "catchall_store_operation_seconds_bucket",
    "catchall_build_info",
    "process_resident_memory_bytes",
];
const WITH_A_QUEUE: &[&str] = &[
    "catchall_group_requests_bucket",
    "catchall_queue_depth",
    "catchall_queue_capacity",
];
const WITH_A_JOURNAL: &[&str] = &["catchall_journal_bytes", "catchall_snapshot_bytes"];
const WITH_A_CACHE: &[&str] = &["catchall_cache_requests_total", "catchall_cache_up"];

async fn metrics_are_there(server: &Server, special: &[&str]) {
    let names: BTreeSet<_> = series(server)
        .await
        .into_iter()
        .map(|series| series.split('{').next().unwrap().to_owned())
        .collect();
    for name in EVERYWHERE.iter().chain(special) {
        assert!(names.contains(*name), "{name} is not among {names:#?}");
    }
    for (kind, count) in [("delivered", 17), ("bounced", 2)] {
        let counted = format!("catchall_events_total{{kind=\"{kind}\",outcome=\"counted\"}}");
        assert_eq!(server.metric(&counted).await, count);
    }
}

/// Names and labels.
async fn series(server: &Server) -> BTreeSet<String> {
    let metrics = server.metrics().await;
    let values = metrics.lines().filter(|line| !line.starts_with('#'));
    let series = values.map(|line| line.rsplit_once(' ').unwrap().0.to_owned());
    series.collect()
}

async fn domains_make_no_series(server: &Server) {
    let before = series(server).await;
    let mut connection = server.connect().await;
    for n in 0..300 {
        let domain = format!("more-{n}.example");
        let kind = Kind::ALL[n % 2];
        assert_eq!(connection.put(&domain, kind).await.unwrap().status, 204);
        for route in ["domain", "domains"] {
            let answer = connection.get(&format!("/v1/{route}/{domain}")).await;
            assert_eq!(answer.status, 200);
        }
    }
    let after = series(server).await;
    assert_eq!(after, before);
    assert!(after.iter().all(|series| !series.contains("example")));
}

#[tokio::test]
async fn memory() {
    take_first_steps(Setup::memory(), "memory", &[]).await;
}

#[tokio::test]
async fn embedded() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = [WITH_A_QUEUE, WITH_A_JOURNAL].concat();
    take_first_steps(Setup::embedded(folder.path()), "embedded", &metrics).await;
}

#[tokio::test]
async fn postgres() {
    let url = Postgres::shared().create_database();
    take_first_steps(Setup::postgres(&url), "postgres", WITH_A_QUEUE).await;
}

#[tokio::test]
async fn postgres_with_redis() {
    let url = Postgres::shared().create_database();
    let setup = Setup::postgres(&url).cached(&Redis::shared().url());
    let metrics = [WITH_A_QUEUE, WITH_A_CACHE].concat();
    take_first_steps(setup, "postgres", &metrics).await;
}

#[tokio::test]
async fn embedded_with_redis() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(folder.path()).cached(&Redis::shared().url());
    let metrics = [WITH_A_QUEUE, WITH_A_JOURNAL, WITH_A_CACHE].concat();
    take_first_steps(setup, "embedded", &metrics).await;
}

#[tokio::test]
async fn a_cache_answers_reads_and_is_passed_by_on_demand() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(folder.path()).cached(&Redis::shared().url());
    let server = setup.set("cache.ttl_ms", 60_000).start();
    until("Redis is used", async || {
        server.metric("catchall_cache_up").await == 1
    })
    .await;
    let mut connection = server.connect().await;
    connection.put("a.example", Kind::Bounced).await.unwrap();

    let hits = "catchall_cache_requests_total{result=\"hit\"}";
    until("an answer is kept", async || {
        let answer = server.get("/v1/domain/a.example").await;
        assert_eq!((answer.status, answer.text()), (200, "\"not catch-all\""));
        server.metric(hits).await > 0
    })
    .await;

    let before = server.metric(hits).await;
    assert_eq!(server.json("/v1/domain/a.example").await, "not catch-all");
    assert_eq!(server.metric(hits).await, before);
    server.stop();
}

/// By the defaults, with nothing set.
#[tokio::test]
async fn a_thousand_deliveries_and_no_bounce_make_a_catch_all() {
    let server = Setup::memory().start();
    let mut connection = server.connect().await;
    for count in 1..=1_000 {
        let verdict = connection.json("/v1/domain/a.example").await;
        assert_eq!(verdict, "unknown", "before number {count}");
        let answer = connection.put("a.example", Kind::Delivered).await.unwrap();
        assert_eq!(answer.status, 204);
    }
    let verdict = connection.json("/v1/domain/a.example").await;
    assert_eq!(verdict, "catch-all");
    connection.put("a.example", Kind::Bounced).await.unwrap();
    let verdict = connection.json("/v1/domain/a.example").await;
    assert_eq!(verdict, "not catch-all");
}
