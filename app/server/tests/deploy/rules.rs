//! The rules for Prometheus: sound, tested, and each alert with its runbook.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use regex::Regex;
use serde_json::Value;

use crate::{path, text, yaml};

fn files(folder: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(path(folder)).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// All rules, recording and alerting.
pub(crate) fn all() -> Vec<Value> {
    let of_file = |file: &PathBuf| {
        let rules = yaml(file.to_str().unwrap());
        let groups = rules["groups"].as_array().unwrap().clone();
        groups
            .into_iter()
            .flat_map(|group| group["rules"].as_array().unwrap().clone())
    };
    files("deploy/prometheus/rules")
        .iter()
        .flat_map(of_file)
        .collect()
}

fn promtool(command: &[&str], files: Vec<PathBuf>) {
    let output = Command::new("promtool")
        .args(command)
        .args(files)
        .output()
        .expect("promtool is there: it comes with Debian's package prometheus");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{}", said.concat());
}

#[test]
fn promtool_finds_them_right() {
    promtool(&["check", "rules"], files("deploy/prometheus/rules"));
    promtool(
        &["check", "config", "--syntax-only"],
        vec![path("deploy/prometheus/prometheus.yml")],
    );
    promtool(&["test", "rules"], files("deploy/prometheus/tests"));
}

#[test]
fn every_alert_has_a_runbook_and_a_test() {
    let heading = Regex::new(r"(?m)^#+ (.+)$").unwrap();
    let operations = text("docs/operations.md");
    let slugs: BTreeSet<_> = heading
        .captures_iter(&operations)
        .map(|found| found[1].to_lowercase().replace(' ', "-"))
        .collect();
    let tests: Vec<_> = files("deploy/prometheus/tests")
        .iter()
        .flat_map(|file| {
            let tests = yaml(file.to_str().unwrap());
            tests["tests"].as_array().unwrap().clone()
        })
        .collect();
    let mut alerts = 0;
    for rule in all() {
        let Some(alert) = rule["alert"].as_str() else {
            continue;
        };
        alerts += 1;
        let severity = &rule["labels"]["severity"];
        assert!(severity == "page" || severity == "ticket", "{alert}");
        for annotation in ["summary", "description"] {
            assert!(rule["annotations"][annotation].is_string(), "{alert}");
        }
        let runbook = rule["annotations"]["runbook"].as_str().unwrap();
        let slug = runbook.strip_prefix("docs/operations.md#").unwrap();
        assert!(slugs.contains(slug), "{alert}: no section #{slug}");

        let fires = format!("alertname=\"{alert}\"");
        let samples = |case: &Value| case["exp_samples"].to_string().replace('\\', "");
        let of = |test: &Value| test["promql_expr_test"].as_array().unwrap().clone();
        let asks = |case: &Value| case["expr"].as_str().unwrap().contains("ALERTS");
        assert!(
            tests.iter().any(|test| {
                of(test).iter().any(|case| samples(case).contains(&fires))
                    && of(test)
                        .iter()
                        .any(|case| asks(case) && !samples(case).contains(&fires))
            }),
            "{alert}: no test in which it fires, and does not before"
        );
    }
    assert!(alerts > 15);
}
