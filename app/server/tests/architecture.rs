//! The walls of the house: which crate may depend on which, that no context imports another, and
//! that one module alone names adapters. `ARCHITECTURE.md` says why.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// A crate, which of ours it may depend on, and whose crates it may not reach, be it through
/// others of ours.
struct Room {
    name: &'static str,
    ours: &'static [&'static str],
    never: &'static [&'static str],
}

const DATABASES: [&str; 3] = ["sqlx", "redis", "deadpool-redis"];

const ROOMS: [Room; 8] = [
    Room {
        name: "business",
        ours: &[],
        never: &[
            "tokio",
            "serde",
            "sqlx",
            "redis",
            "deadpool-redis",
            "actix-web",
            "actix-http",
            "tracing",
        ],
    },
    Room {
        name: "adapters",
        ours: &["business", "foundation"],
        never: &["actix-web", "actix-http"],
    },
    Room {
        name: "conformance",
        ours: &["business"],
        never: &["adapters"],
    },
    Room {
        name: "api",
        ours: &["business", "foundation"],
        never: &DATABASES,
    },
    Room {
        name: "catchall",
        ours: &["adapters", "api", "business", "foundation"],
        never: &["conformance", "create-events"],
    },
    Room {
        name: "create-events",
        ours: &[],
        never: &DATABASES,
    },
    Room {
        name: "foundation",
        ours: &[],
        never: &["sqlx", "deadpool-redis", "actix-web"],
    },
    Room {
        name: "torture",
        ours: &["adapters", "business", "catchall", "foundation"],
        never: &["conformance", "create-events"],
    },
];

/// Crate by crate, what it depends on when it is built to be used.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The platform this is.
fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    host.unwrap().to_owned()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        // Of other platforms nothing has been fetched when the tests were built.
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(["--filter-platform", &host()])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The graph of normal dependencies, and the names of our own crates.
fn graph(metadata: &Value) -> (Graph, BTreeSet<String>) {
    let list = |value: &Value| value.as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let names: BTreeMap<_, _> = list(&metadata["packages"])
        .iter()
        .map(|p| (text(&p["id"]), text(&p["name"])))
        .collect();
    let ours: BTreeSet<_> = list(&metadata["workspace_members"])
        .iter()
        .map(|id| names[&text(id)].clone())
        .collect();
    let mut graph = Graph::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        let dependencies = graph.entry(names[&text(&node["id"])].clone()).or_default();
        for dependency in list(&node["deps"]) {
            // A normal dependency has no kind; the others are `dev` and `build`.
            if list(&dependency["dep_kinds"])
                .iter()
                .any(|kind| kind["kind"].is_null())
            {
                dependencies.insert(names[&text(&dependency["pkg"])].clone());
            }
        }
    }
    (graph, ours)
}

/// What breaks the rules, a sentence each.
fn holes(graph: &Graph, ours: &BTreeSet<String>) -> Vec<String> {
    let mut holes = Vec::new();
    for name in ours {
        let Some(room) = ROOMS.iter().find(|room| room.name == name) else {
            holes.push(format!("{name} has no rule"));
            continue;
        };
        for dependency in graph[name].intersection(ours) {
            if !room.ours.contains(&dependency.as_str()) {
                holes.push(format!("{name} depends on {dependency}"));
            }
        }
        for never in room
            .never
            .iter()
            .filter(|never| reaches(graph, ours, name, never))
        {
            holes.push(format!("{name} reaches {never}"));
        }
    }
    holes
}

/// Whether `from` depends on `to`, itself or through our own crates. What other people's crates
/// depend on cannot be named by ours.
fn reaches(graph: &Graph, ours: &BTreeSet<String>, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut next = vec![from];
    while let Some(name) = next.pop() {
        if graph[name].contains(to) {
            return true;
        }
        if seen.insert(name) {
            next.extend(graph[name].intersection(ours).map(String::as_str));
        }
    }
    false
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// The source files below a folder, by their paths from the root, without what only tests use.
fn sources(folder: &str) -> BTreeMap<String, String> {
    fn walk(folder: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(root())
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                if name.contains("/src/") {
                    found.insert(name, fs::read_to_string(path).unwrap());
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&root().join(folder), &mut found);
    assert!(!found.is_empty());
    found
}

/// The lines of code that are no comment.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
}

/// The words of a line: what stands between characters that no name has.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// The contexts: the modules of the core besides its kernel.
fn contexts(core: &str) -> Vec<String> {
    code(core)
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .filter(|name| *name != "kernel")
        .map(str::to_owned)
        .collect()
}

/// The files of one context that name another.
fn sideways(files: &BTreeMap<String, String>, contexts: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files {
        let of = |context: &&String| path.split(['/', '.']).any(|part| part == context.as_str());
        let Some(own) = contexts.iter().find(of) else {
            continue;
        };
        for other in contexts.iter().filter(|other| *other != own) {
            if code(text).any(|line| words(line).any(|word| word == other)) {
                found.push(format!("{path} names {other}"));
            }
        }
    }
    found
}

/// The files outside the adapters that name them.
fn naming_adapters(files: &BTreeMap<String, String>) -> Vec<&str> {
    files
        .iter()
        .filter(|(_, text)| code(text).any(|line| words(line).any(|word| word == "adapters")))
        .map(|(path, _)| path.as_str())
        .collect()
}

#[test]
fn no_crate_depends_on_what_it_must_not_know() {
    let (graph, ours) = graph(&metadata());
    assert_eq!(ours.len(), ROOMS.len(), "{ours:?}");
    assert_eq!(holes(&graph, &ours), Vec::<String>::new());
}

#[test]
fn a_new_arrow_is_found() {
    let (sound, ours) = graph(&metadata());
    for (from, to, found) in [
        ("business", "tokio", "business reaches tokio"),
        ("business", "foundation", "business depends on foundation"),
        ("adapters", "api", "adapters depends on api"),
        ("adapters", "actix-web", "adapters reaches actix-web"),
        ("conformance", "adapters", "conformance depends on adapters"),
        ("api", "adapters", "api depends on adapters"),
        ("foundation", "redis", "api reaches redis"),
        (
            "create-events",
            "business",
            "create-events depends on business",
        ),
        ("foundation", "business", "foundation depends on business"),
        ("catchall", "conformance", "catchall depends on conformance"),
        ("catchall", "torture", "catchall depends on torture"),
    ] {
        let mut holed = sound.clone();
        holed.get_mut(from).unwrap().insert(to.to_owned());
        let holes = holes(&holed, &ours);
        assert!(
            holes.iter().any(|hole| hole == found),
            "{from} to {to}: {holes:?}"
        );
    }
}

#[test]
fn no_context_imports_another() {
    let core = sources("business/core");
    let contexts = contexts(&core["business/core/src/lib.rs"]);
    assert!(
        contexts.contains(&"email_domains".to_owned()),
        "{contexts:?}"
    );
    for folder in [
        "business/core",
        "business/adapters",
        "business/conformance",
        "app/api",
    ] {
        assert_eq!(sideways(&sources(folder), &contexts), Vec::<String>::new());
    }

    let two = ["email_domains".to_owned(), "profiles".to_owned()];
    for line in [
        "use crate::profiles::model::Name;",
        "use super::super::{kernel, profiles};",
    ] {
        let path = "business/core/src/email_domains/service.rs".to_owned();
        let files = BTreeMap::from([(path, line.to_owned())]);
        assert_eq!(sideways(&files, &two).len(), 1, "{line}");
    }
}

#[test]
fn wiring_alone_names_adapters() {
    let files = sources("app");
    let wiring = [
        "app/server/src/wiring.rs",
        "app/server/src/wiring/mechanisms.rs",
    ];
    assert_eq!(naming_adapters(&files), wiring);
}
