//! Where the server programs are.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder with PostgreSQL's `initdb`, `postgres` and `psql`: Debian's newest, else the one
/// `pg_config` names, else one on the PATH.
pub(super) fn postgres_folder() -> PathBuf {
    debian_postgres_folders()
        .into_iter()
        .chain(pg_config_folder())
        .chain(path_folders())
        .find(|folder| {
            ["initdb", "postgres", "psql"]
                .iter()
                .all(|program| folder.join(program).is_file())
        })
        .unwrap_or_else(|| missing("PostgreSQL (initdb, postgres and psql)", "postgresql"))
}

/// The path of `redis-server`.
pub(super) fn redis_server() -> PathBuf {
    on_the_path("redis-server", "redis-server")
}

/// The path of `prometheus`.
pub(super) fn prometheus() -> PathBuf {
    on_the_path("prometheus", "prometheus")
}

fn on_the_path(program: &str, package: &str) -> PathBuf {
    path_folders()
        .map(|folder| folder.join(program))
        .find(|program| program.is_file())
        .unwrap_or_else(|| missing(program, package))
}

/// A command in the environment that every run shares, whatever the user's is.
pub(super) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C");
    if let Some(path) = env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

fn missing(what: &str, package: &str) -> ! {
    panic!(
        "{what} was not found. Run `make test`, which installs it, or install the Debian \
         package `{package}` (scripts/test-dependencies.sh)."
    )
}

fn debian_postgres_folders() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/usr/lib/postgresql") else {
        return Vec::new();
    };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort();
    versions
        .into_iter()
        .rev()
        .map(|(_, folder)| folder)
        .collect()
}

fn pg_config_folder() -> Option<PathBuf> {
    let output = command("pg_config").arg("--bindir").output().ok()?;
    Some(Path::new(std::str::from_utf8(&output.stdout).ok()?.trim()).to_owned())
}

fn path_folders() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).collect::<Vec<_>>().into_iter()
}
