//! The files with which catchall is deployed fit each other, the settings and the metrics that a
//! server really has. No container is started, but a Prometheus is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "deploy/compose.rs"]
mod compose;
#[path = "deploy/dashboards.rs"]
mod dashboards;
#[path = "deploy/image.rs"]
mod image;
#[path = "deploy/queries.rs"]
mod queries;
#[path = "deploy/rules.rs"]
mod rules;
#[path = "deploy/watched.rs"]
mod watched;

use std::{
    fs,
    path::{Path, PathBuf},
};

use catchall::settings::Settings;
use serde_json::Value;

/// A file or folder of the repository.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&text(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The texts in a list.
fn texts(list: &Value) -> Vec<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// The settings of a server with these variables in its environment.
fn settings<'a>(environment: impl IntoIterator<Item = (&'a str, &'a str)>) -> Settings {
    let pairs = environment.into_iter().map(|(name, value)| {
        let key = name
            .strip_prefix("CATCHALL__")
            .unwrap_or_else(|| panic!("{name} is no setting"));
        let key: &'static str = key.to_lowercase().replace("__", ".").leak();
        (key, value.to_owned())
    });
    Settings::load(None, pairs).unwrap()
}
