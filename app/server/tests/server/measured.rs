//! What servers show: each metric stands in the docs with its type and labels, and there are no more
//! series for a million domains than for one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use foundation::testing::{Postgres, Redis};

use crate::support::{Kind, Server, Setup};

/// The type of each metric, and its labels.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// Names and labels of all series.
async fn series(server: &Server) -> BTreeSet<String> {
    let metrics = server.metrics().await;
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
        .collect()
}

async fn add_shown(server: &Server, all: &mut Metrics) {
    let text = server.metrics().await;
    let mut name = String::new();
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (of, kind) = typed.split_once(' ').unwrap();
            name = of.to_owned();
            let known = all.entry(name.clone()).or_default();
            known.0 = kind.to_owned();
        } else if let Some(help) = line.strip_prefix("# HELP ") {
            let (of, help) = help.split_once(' ').unwrap();
            assert!(help.ends_with('.'), "{of}: {help}");
        } else if let Some((_, labels)) = line.split_once('{') {
            let labels = labels.split('"').step_by(2);
            let labels = labels.filter_map(|text| text.trim_start_matches(',').strip_suffix('='));
            let labels = labels.filter(|label| *label != "le").map(str::to_owned);
            all.get_mut(&name).unwrap().1.extend(labels);
        }
    }
}

/// The rows of the docs: `| `name` | type | labels | meaning |`.
fn documented() -> Metrics {
    let text = include_str!("../../../../docs/operations.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| {
        let mut cells = row.split('|').map(str::trim);
        let name = cells.next()?.strip_suffix('`')?;
        let kind = cells.next()?;
        if !["counter", "gauge", "histogram"].contains(&kind) {
            return None;
        }
        // A label may be followed by its values, in brackets.
        let labels = cells.next()?.split('`').skip(1).step_by(2);
        let labels = labels.map(str::to_owned).collect();
        Some((name.to_owned(), (kind.to_owned(), labels)))
    })
    .collect()
}

#[tokio::test]
async fn every_metric_stands_in_the_docs_and_the_other_way_round() {
    let (redis, folder) = (Redis::start(), tempfile::tempdir().unwrap());
    let url = || Postgres::shared().create_database();
    let mut shown = Metrics::new();
    for setup in [
        Setup::embedded(&folder.path().join("data"))
            .set("store.postgres.url", url())
            .set("store.shadow.kind", "postgres"),
        Setup::postgres(&url())
            .cached(&redis.url())
            .set("store.when_down", "spool")
            .set("store.spool.after_ms", 20_000)
            .set("store.spool.path", folder.path().join("spool").display()),
    ] {
        let server = setup.start();
        let mut connection = server.connect().await;
        let answer = connection.put("a.example", Kind::Delivered).await.unwrap();
        assert_eq!(answer.status, 204, "{answer:?}");
        add_shown(&server, &mut shown).await;
        server.stop();
    }
    let documented = documented();
    for (name, shown) in &shown {
        assert_eq!(documented.get(name), Some(shown), "{name}, in the docs");
    }
    for name in documented.keys() {
        assert!(shown.contains_key(name), "no server shows {name}");
    }
}

#[tokio::test]
async fn a_million_domains_have_the_series_of_one() {
    const REQUESTS: usize = 100;
    const DOMAINS: usize = 10_000;
    let folder = tempfile::tempdir().unwrap();
    let server = Setup::embedded(folder.path()).start();
    let mut connection = server.connect().await;
    let mut before = BTreeSet::new();
    for request in 0..=REQUESTS {
        let mut lines = String::new();
        for domain in 0..DOMAINS {
            let name = format!("d{domain}.r{request}.example");
            writeln!(lines, "{{\"domain\":\"{name}\",\"type\":\"delivered\"}}").unwrap();
        }
        let head = "POST /v1/events HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-ndjson";
        let length = lines.len();
        connection
            .send(format!("{head}\r\nContent-Length: {length}\r\n\r\n{lines}"))
            .await
            .unwrap();
        assert_eq!(connection.answer().await.unwrap().status, 200);
        let domain = format!("d{request}.example");
        let answer = connection.put(&domain, Kind::Bounced).await.unwrap();
        assert_eq!(answer.status, 204);
        connection.get(&format!("/v1/domains/{domain}")).await;
        connection.get(&format!("/{domain}")).await;
        if request == 0 {
            // The first scrape is a request with a series of its own.
            series(&server).await;
            before = series(&server).await;
        }
    }
    let after = series(&server).await;
    assert_eq!(after, before);
    assert!(after.len() < 1_000, "{}", after.len());
    let counted = |verdict| format!("catchall_domains{{verdict=\"{verdict}\"}}");
    let unknown = server.metric(&counted("unknown")).await;
    assert_eq!(unknown, ((REQUESTS + 1) * DOMAINS) as u64);
    let bounced = server.metric(&counted("not_catch_all")).await;
    assert_eq!(bounced, REQUESTS as u64 + 1);
    server.stop();
}
