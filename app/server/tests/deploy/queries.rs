//! Every query of a dashboard or a rule has data, from a Prometheus that scraped servers at work.

use std::{
    collections::BTreeSet,
    process::Command,
    time::{Duration, Instant},
};

use regex::Regex;
use serde_json::Value;
use torture::DEADLINE;

use crate::{
    dashboards::{self, Query},
    path, rules,
    watched::{Pace, Watched},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_them_have_data() {
    let watched = Watched::run(Pace {
        scrape: Duration::from_secs(1),
        rate: 200,
        connections: 16,
        bulk: 20,
        warm_up: Duration::ZERO,
        stage: Duration::ZERO,
    })
    .await;
    let mut queries: Vec<Query> = dashboards::all()
        .iter()
        .flat_map(dashboards::queries)
        .chain(rules::all().iter().map(of_rule))
        .collect();
    assert!(queries.len() > 100);

    // Some come late: a rule over what another one recorded, a snapshot in the background.
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut without = Vec::new();
        for query in queries {
            if let Err(why) = has_data(&watched, &query).await {
                without.push((query, why));
            }
        }
        if without.is_empty() {
            break;
        }
        let list: Vec<_> = without
            .iter()
            .map(|(query, why)| format!("{}: {}\n    {why}", query.place, query.expr.trim()))
            .collect();
        assert!(Instant::now() < deadline, "no data:\n{}", list.join("\n"));
        queries = without.into_iter().map(|(query, _)| query).collect();
        watched.next_scrape().await;
    }

    let groups = watched.get("rules", &[]).await;
    for group in groups["data"]["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            assert_eq!(rule["health"], "ok", "{rule}");
        }
    }
}

/// Draws the dashboards over some minutes in which much happens. `make screenshots`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "makes pictures, and takes minutes"]
async fn pictures() {
    let watched = Watched::run(Pace {
        scrape: Duration::from_secs(1),
        rate: 1_000,
        connections: 64,
        bulk: 200,
        warm_up: Duration::from_secs(30),
        stage: Duration::from_secs(45),
    })
    .await;
    let status = Command::new("python3")
        .arg(path("deploy/grafana/draw.py"))
        .args(["--prometheus", &watched.prometheus.url()])
        .args(["--start", &watched.began.to_string()])
        .args(["--rate-interval", "10s"])
        .arg("--to")
        .arg(path("docs/pictures"))
        .status()
        .unwrap();
    assert!(status.success());
}

/// An alert that is not raised finds nothing. With `bool` each comparison says so, in place of leaving
/// out what it is not true of.
fn of_rule(rule: &Value) -> Query {
    let comparison = Regex::new(r"\s(>=|<=|==|!=|>|<)\s").unwrap();
    let name = rule["alert"].as_str().or(rule["record"].as_str()).unwrap();
    let expr = rule["expr"].as_str().unwrap();
    Query {
        place: name.to_owned(),
        expr: comparison.replace_all(expr, " $1 bool ").into_owned(),
        legend: String::new(),
    }
}

async fn has_data(watched: &Watched, query: &Query) -> Result<(), String> {
    // A query with `or` has data without one of its metrics.
    let metric = Regex::new(r"(?:[a-z_]+:)?\b(?:catchall|create_events|http_server|process)_[a-z_]+(?::[a-z0-9_]+)?(?:\{[^}]*\})?|\bup\b(?:\{[^}]*\})?").unwrap();
    for found in metric.find_iter(&query.expr) {
        if watched.over_time(found.as_str()).await.is_empty() {
            return Err(format!("there is no {}", found.as_str()));
        }
    }
    let series = watched.over_time(&query.expr).await;
    let finite = |pair: &Value| {
        pair[1]
            .as_str()
            .unwrap()
            .parse::<f64>()
            .unwrap()
            .is_finite()
    };
    let with_values: Vec<_> = series
        .iter()
        .filter(|it| it["values"].as_array().unwrap().iter().any(finite))
        .collect();
    if with_values.is_empty() {
        return Err(format!("{} series, and none has a number", series.len()));
    }
    let label = Regex::new(r"\{\{(\w+)\}\}").unwrap();
    let wanted: BTreeSet<_> = label
        .captures_iter(&query.legend)
        .map(|it| it[1].to_owned())
        .collect();
    for series in with_values {
        let labels = series["metric"].as_object().unwrap();
        if let Some(label) = wanted.iter().find(|it| !labels.contains_key(*it)) {
            return Err(format!(
                "the legend wants {label}, and there are {labels:?}"
            ));
        }
    }
    Ok(())
}
