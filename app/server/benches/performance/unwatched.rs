//! catchall built so that it counts nothing and can make no span, to measure what these cost. The tree is
//! copied, and its `prometheus` replaced by a copy whose counters and histograms stay as they are;
//! nothing in catchall itself knows of it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// What of the tree is built.
const TREE: [&str; 7] = [
    "Cargo.lock",
    "Cargo.toml",
    "app",
    "business",
    "foundation",
    "migrations",
    "torture",
];

/// File by file, what has to stand there and what is put instead.
const EDITS: [(&str, &str, &str); 3] = [
    ("value.rs", "self.val.inc_by(val);", "let _ = val;"),
    ("value.rs", "self.val.dec_by(val)", "let _ = val;"),
    (
        "histogram.rs",
        "        self.core.observe(v)\n",
        "        let _ = v;\n",
    ),
];

/// Builds it in a folder below `target`, and gives the program. It takes as long as a release build.
pub(crate) fn build(target: &Path) -> anyhow::Result<PathBuf> {
    let folder = target.join("unwatched");
    let (tree, prometheus) = (folder.join("tree"), folder.join("prometheus"));
    for old in [&tree, &prometheus] {
        if old.exists() {
            fs::remove_dir_all(old)?;
        }
    }
    fs::create_dir_all(&tree)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for part in TREE {
        copy(&root.join(part), &tree.join(part))?;
    }
    copy(&source_of_prometheus(&root)?, &prometheus)?;
    for (file, from, to) in EDITS {
        let file = prometheus.join("src").join(file);
        let text = fs::read_to_string(&file)?;
        ensure!(
            text.matches(from).count() == 1,
            "{} has changed: {from}",
            file.display()
        );
        fs::write(&file, text.replace(from, to))?;
    }
    let manifest = tree.join("Cargo.toml");
    let patched = format!(
        "{}\n[patch.crates-io]\nprometheus = {{ path = {prometheus:?} }}\n",
        fs::read_to_string(&manifest)?
    );
    fs::write(&manifest, patched)?;
    // As this benchmark and its catchall are built, but for the spans.
    let build = folder.join("build");
    let status = cargo()
        .args(["bench", "--no-run", "--package", "catchall"])
        .args(["--bench", "performance"])
        .args(["--features", "tracing/release_max_level_info"])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(&build)
        .status()?;
    ensure!(status.success(), "it cannot be built");
    Ok(build.join("release/catchall"))
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// With the times of the files, so that what has not changed is not built again.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("cp").arg("-a").args([from, to]).status()?;
    ensure!(status.success(), "cannot copy {}", from.display());
    Ok(())
}

/// Where cargo keeps the crate.
fn source_of_prometheus(root: &Path) -> anyhow::Result<PathBuf> {
    let output = cargo()
        .args(["metadata", "--locked", "--format-version", "1"])
        .current_dir(root)
        .output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let package = metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|one| one["name"] == "prometheus"))
        .and_then(|package| package["manifest_path"].as_str())
        .context("cargo knows no prometheus")?;
    let folder = Path::new(package).parent().context("no folder")?;
    Ok(folder.to_owned())
}
