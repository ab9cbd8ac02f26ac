//! The dashboards: that each is what its program makes, and reads well.

use std::{collections::BTreeSet, fs, process::Command};

use regex::Regex;
use serde_json::Value;

use crate::{path, texts};

/// Put there by `scripts/test-dependencies.sh`.
const PYTHON: &str = "target/grafana-foundation-sdk/bin/python";

/// What a query asks for.
pub(crate) struct Query {
    /// Dashboard and panel.
    pub(crate) place: String,
    pub(crate) expr: String,
    pub(crate) legend: String,
}

impl Query {
    /// What stands before `{`, and what between the braces.
    fn selectors(&self) -> Vec<(String, String)> {
        let selector = Regex::new(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}").unwrap();
        let all = selector.captures_iter(&self.expr);
        all.map(|found| (found[1].to_owned(), found[2].to_owned()))
            .collect()
    }
}

pub(crate) fn all() -> Vec<Value> {
    let files = fs::read_dir(path("deploy/grafana/dashboards")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
        .iter()
        .map(|file| serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap())
        .collect()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let all = dashboard["panels"].as_array().unwrap();
    all.iter().filter(|panel| panel["type"] != "row")
}

pub(crate) fn queries(dashboard: &Value) -> Vec<Query> {
    let of_panel = |panel: &Value| {
        let place = format!("{}, {}", dashboard["uid"], panel["title"]);
        let targets = panel["targets"].as_array().unwrap().iter();
        targets
            .map(|target| Query {
                place: place.clone(),
                expr: target["expr"].as_str().unwrap().to_owned(),
                legend: target["legendFormat"].as_str().unwrap_or("").to_owned(),
            })
            .collect::<Vec<_>>()
    };
    panels(dashboard).flat_map(of_panel).collect()
}

#[test]
fn they_are_what_the_program_makes() {
    let python = path(PYTHON);
    assert!(
        python.exists(),
        "grafana-foundation-sdk is missing: run scripts/test-dependencies.sh"
    );
    let output = Command::new(python)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(path("deploy/grafana/dashboards.py"))
        .arg("--check")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn every_panel_tells_what_it_shows() {
    let mut uids = BTreeSet::new();
    for dashboard in &all() {
        assert!(uids.insert(dashboard["uid"].to_string()));
        let mut titles = BTreeSet::new();
        for panel in panels(dashboard) {
            let title = panel["title"].as_str().unwrap();
            assert!(titles.insert(title), "two panels are called {title}");
            let filled = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
            assert!(filled(&panel["description"]), "{title} has no description");
            let defaults = &panel["fieldConfig"]["defaults"];
            assert!(filled(&defaults["unit"]), "{title} has no unit");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            let targets = panel["targets"].as_array().unwrap();
            let names: BTreeSet<_> = targets.iter().map(|it| it["refId"].as_str()).collect();
            assert!(
                !targets.is_empty() && names.len() == targets.len(),
                "{title}"
            );
            for target in targets {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
                let one = panel["type"] == "stat";
                assert!(one || filled(&target["legendFormat"]), "{title}: no legend");
            }
        }
    }
    assert_eq!(uids.len(), 3);
}

#[test]
fn panels_have_a_place_of_their_own() {
    for dashboard in &all() {
        let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = &panel["title"];
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id");
            let of = |name: &str| panel["gridPos"][name].as_u64().unwrap_or(0);
            assert!(of("x") + of("w") <= 24, "{title} is off the grid");
            for x in of("x")..of("x") + of("w") {
                for y in of("y")..of("y") + of("h") {
                    assert!(cells.insert((x, y)), "{title} lies on another panel");
                }
            }
        }
    }
}

#[test]
fn queries_follow_the_variables_and_the_time_range() {
    // A range may be fixed where it is the meaning of a panel, as in "in an hour".
    let rate = Regex::new(r"\brate\([^\[]*\[([^\]]*)\]").unwrap();
    let name = Regex::new(r"\b(?:catchall|create_events|http_server|process)_[a-z_]+").unwrap();
    for dashboard in &all() {
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let names: Vec<_> = variables
            .iter()
            .filter_map(|it| it["name"].as_str())
            .collect();
        assert_eq!(names[..3], ["datasource", "job", "instance"]);
        assert_eq!(variables[0]["type"], "datasource");
        for query in queries(dashboard) {
            let at = format!("{}: {}", query.place, query.expr);
            for found in rate.captures_iter(&query.expr) {
                assert_eq!(&found[1], "$__rate_interval", "{at}");
            }
            let selectors = query.selectors();
            let braces = name.find_iter(&query.expr).all(|found| {
                let rest = &query.expr[found.end()..];
                let recorded = query.expr[..found.start()].ends_with(':') || rest.starts_with(':');
                recorded || rest.starts_with('{')
            });
            assert!(braces && !selectors.is_empty(), "{at}");
            for (name, matchers) in selectors {
                let wanted: &[&str] = match &*name {
                    // These belong to no server.
                    name if name.starts_with("job:") || name == "ALERTS" => &["job=~\"$job"],
                    name if name.starts_with("create_events_") => &["instance=~\"$generator\""],
                    _ if matchers.contains("$generator") => &["instance=~\"$generator\""],
                    _ => &["job=~\"$job\"", "instance=~\"$instance\""],
                };
                for matcher in wanted {
                    assert!(matchers.contains(matcher), "{at}\n{matcher}");
                }
            }
        }
    }
}

#[test]
fn they_lead_to_each_other() {
    for dashboard in &all() {
        assert_eq!(texts(&dashboard["tags"]), ["catchall"]);
        let link = &dashboard["links"][0];
        assert_eq!(link["type"], "dashboards");
        assert_eq!(texts(&link["tags"]), ["catchall"]);
    }
}
