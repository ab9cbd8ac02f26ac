//! The dashboard: that it reads well, and that what it asks for is there.

use std::collections::BTreeSet;

use foundation::testing::{Postgres, Redis};
use regex::Regex;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::{
    exposition::{Exposition, Selector},
    running::Running,
    text,
};

/// All that a query may hold besides selectors, ranges, numbers and labels.
const WORDS: [&str; 10] = [
    "by",
    "count",
    "histogram_quantile",
    "increase",
    "max",
    "or",
    "rate",
    "sum",
    "time",
    "vector",
];

fn dashboard() -> Value {
    serde_json::from_str(&text("deploy/grafana/dashboards/catchall.json")).unwrap()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let all = dashboard["panels"].as_array().unwrap();
    all.iter().filter(|panel| panel["type"] != "row")
}

/// All queries for panels and annotations, with the place each stands in and the legend it has.
fn queries(dashboard: &Value) -> Vec<(&str, &str, &str)> {
    let of_panels = panels(dashboard).flat_map(|panel| {
        let targets = panel["targets"].as_array().unwrap();
        targets.iter().map(|target| {
            (
                panel["title"].as_str().unwrap(),
                target["expr"].as_str().unwrap(),
                target["legendFormat"].as_str().unwrap(),
            )
        })
    });
    let annotations = dashboard["annotations"]["list"].as_array().unwrap();
    let of_annotations = annotations.iter().map(|annotation| {
        (
            annotation["name"].as_str().unwrap(),
            annotation["expr"].as_str().unwrap(),
            annotation["textFormat"].as_str().unwrap(),
        )
    });
    of_panels.chain(of_annotations).collect()
}

/// The labels between `{{` and `}}`, or in `by (…)`.
fn labels(pattern: &str, text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).unwrap();
    let lists = pattern.captures_iter(text);
    lists
        .flat_map(|found| {
            let list = found[1].split(',').map(|label| label.trim().to_owned());
            list.collect::<Vec<_>>()
        })
        .collect()
}

/// Two servers, so that all stores and caches with metrics are there, after a few requests and a
/// failure.
async fn exposed() -> Exposition {
    let mut all = Exposition::default();

    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let embedded = Running::start(&["--store", "embedded", "--data", data]);
    for (method, path, status) in [
        (Method::PUT, "/v1/events/example.com/delivered", 204),
        (Method::PUT, "/v1/events/example.com/bounced", 204),
        (Method::GET, "/v1/domains/example.com", 200),
        (Method::GET, "/v1/domain/example.com", 200),
        (Method::GET, "/v1/domains", 200),
        (Method::GET, "/v1/stats", 200),
        (Method::GET, "/v1/domain/a..b", 400),
    ] {
        assert_eq!(embedded.status(method, path).await, status, "{path}");
    }
    all.add(&embedded.metrics().await);

    let (postgres, redis) = (Postgres::start(), Redis::start());
    let shared = Running::start(&[
        "--store",
        "postgres",
        "--database-url",
        &postgres.create_database(),
        "--cache",
        "redis",
        "--redis-url",
        &redis.url(),
    ]);
    let event = "/v1/events/example.com/delivered";
    assert_eq!(
        shared.status(Method::PUT, event).await,
        StatusCode::NO_CONTENT
    );
    postgres.kill();
    let failed = shared.status(Method::PUT, event).await;
    assert_eq!(failed, StatusCode::SERVICE_UNAVAILABLE);
    all.add(&shared.metrics().await);
    all
}

#[test]
fn every_panel_tells_what_it_shows() {
    let dashboard = dashboard();
    let mut titles = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(titles.insert(title), "two panels are called {title}");
        let filled = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        assert!(filled(&panel["description"]), "{title} has no description");
        assert!(
            filled(&panel["fieldConfig"]["defaults"]["unit"]),
            "{title} has no unit"
        );
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let targets = panel["targets"].as_array().unwrap();
        let names: BTreeSet<_> = targets.iter().map(|it| it["refId"].as_str()).collect();
        assert!(
            !targets.is_empty() && names.len() == targets.len(),
            "{title}"
        );
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
    assert!(titles.len() > 30);
}

#[test]
fn panels_have_a_place_of_their_own() {
    let dashboard = dashboard();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id");
        let of = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(of("x") + of("w") <= 24, "{title} is off the grid");
        for x in of("x")..of("x") + of("w") {
            for y in of("y")..of("y") + of("h") {
                assert!(cells.insert((x, y)), "{title} lies on another panel");
            }
        }
    }
}

#[test]
fn queries_follow_the_variables_and_the_time_range() {
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables.iter().map(|it| it["name"].as_str()).collect();
    assert_eq!(names, [Some("datasource"), Some("job"), Some("instance")]);
    assert_eq!(variables[0]["type"], "datasource");

    let range = Regex::new(r"\[([^\]]*)\]").unwrap();
    for (place, query, _) in queries(&dashboard) {
        for found in range.captures_iter(query) {
            assert_eq!(&found[1], "$__rate_interval", "{place}: {query}");
        }
        for selector in Selector::all(query) {
            for label in ["job", "instance"] {
                let scope = (label.to_owned(), "=~".to_owned(), format!("${label}"));
                assert!(selector.matchers.contains(&scope), "{place}: {query}");
            }
        }
    }
}

#[tokio::test]
async fn every_query_finds_what_servers_expose() {
    let exposed = exposed().await;
    let dashboard = dashboard();
    let rated = Regex::new(r"(?:rate|increase)\(([a-z_]+)").unwrap();
    let word = Regex::new(r"[a-z][a-z_]+").unwrap();
    let known = Regex::new(r#"[a-z_]+\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)"#).unwrap();

    for (place, query, legend) in queries(&dashboard) {
        let at = format!("{place}: {query}");
        let selectors = Selector::all(query);
        assert!(!selectors.is_empty(), "{at}");
        let mut found = BTreeSet::from(["instance".to_owned()]);
        for selector in &selectors {
            let series = exposed.find(selector);
            assert!(
                !series.is_empty(),
                "{at}\nno server has {} with these labels",
                selector.name
            );
            found.extend(series.iter().flat_map(|it| it.labels.keys().cloned()));
        }
        for name in rated.captures_iter(query) {
            assert!(exposed.is_counter(&name[1]), "{at}\na rate of a gauge");
        }
        let grouped = labels(r"by \(([^)]*)\)", query);
        assert!(grouped.is_subset(&found), "{at}\nno such label");
        let shown = labels(r"\{\{([^}]*)\}\}", legend);
        let left = if grouped.is_empty() { &found } else { &grouped };
        assert!(shown.is_subset(left), "{at}\nthe legend has no such label");
        for word in word.find_iter(&known.replace_all(query, "")) {
            assert!(
                WORDS.contains(&word.as_str()),
                "{at}\n`{}` is not selected by server",
                word.as_str()
            );
        }
    }
    let named = Regex::new(r"^label_values\(([a-z_]+)").unwrap();
    for variable in &dashboard["templating"]["list"].as_array().unwrap()[1..] {
        let query = variable["definition"].as_str().unwrap();
        let name = named.captures(query).unwrap()[1].to_owned();
        let matchers = Vec::new();
        assert!(!exposed.find(&Selector { name, matchers }).is_empty());
    }
}
