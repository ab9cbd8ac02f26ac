//! A PostgreSQL server of one's own.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::account::Account;
use super::programs::{command, postgres_folder};
use super::server::{Program, Server};

/// A running PostgreSQL server. Its superuser is `postgres`, without a password. What may be done
/// to its process is in [`Server`].
///
/// It writes durably, as one in production does: what a test learns about a crash is true.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    psql: PathBuf,
    databases: AtomicU32,
}

impl Postgres {
    /// Starts a server.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not come up.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with settings, as in `["max_connections=10"]`.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_with(settings: &[&str]) -> Self {
        let programs = postgres_folder();
        let program = Installed {
            postgres: programs.join("postgres"),
            settings: settings.iter().copied().map(str::to_owned).collect(),
        };
        let mut server = Server::new("postgres", Account::without_privileges(), Box::new(program));
        server.prepare(
            command("cp")
                .arg("-a")
                .args([template(), &data_folder(server.folder())]),
        );
        server.start();
        Self {
            server,
            psql: programs.join("psql"),
            databases: AtomicU32::new(0),
        }
    }

    /// Starts a standby that streams from this server under a name, for
    /// `synchronous_standby_names`.
    ///
    /// # Panics
    /// As [`start`](Self::start), and when this one does not run.
    #[must_use]
    pub fn start_standby(&self, name: &str) -> Self {
        let programs = postgres_folder();
        let program = Installed {
            postgres: programs.join("postgres"),
            settings: Vec::new(),
        };
        let mut server = Server::new("standby", Account::without_privileges(), Box::new(program));
        let primary = format!(
            "host=127.0.0.1 port={} user=postgres application_name={name}",
            self.port()
        );
        server.prepare(
            command(programs.join("pg_basebackup"))
                .args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"])
                .args(["--dbname", &primary, "--pgdata"])
                .arg(data_folder(server.folder())),
        );
        server.start();
        Self {
            server,
            psql: programs.join("psql"),
            databases: AtomicU32::new(0),
        }
    }

    /// Lets a standby take over, and waits until it has.
    ///
    /// # Panics
    /// When it does not.
    pub fn promote(&self) {
        let pg_ctl = postgres_folder().join("pg_ctl");
        let mut promote = command(pg_ctl);
        promote.args(["promote", "--silent", "--pgdata"]);
        self.server
            .prepare(promote.arg(data_folder(self.server.folder())));
    }

    /// The server that all tests of this process share, started by the first that asks. Each test
    /// takes a [database](Self::create_database) of its own, and leaves the process alone.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// The URL of a database on this server; `postgres` is always there.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port())
    }

    /// Makes an empty database that no other test has, and gives its URL.
    ///
    /// # Panics
    /// When the server does not run.
    pub fn create_database(&self) -> String {
        let database = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let url = self.url(&database);
        self.query(
            &self.url("postgres"),
            &format!("CREATE DATABASE {database}"),
        );
        url
    }

    /// Runs SQL through `psql`, and gives what it prints: a line for each row, with `|` between
    /// the columns.
    ///
    /// # Panics
    /// When the server does not run or refuses the SQL.
    pub fn query(&self, url: &str, sql: &str) -> String {
        let output = self
            .psql(url)
            .args(["-c", sql])
            .output()
            .expect("psql can be started");
        let said = |bytes| String::from_utf8_lossy(bytes).trim_end().to_owned();
        assert!(output.status.success(), "{sql}: {}", said(&output.stderr));
        said(&output.stdout)
    }

    /// A `psql` for a database, for tests that need a session. It reads SQL from its stdin.
    #[must_use]
    pub fn psql(&self, url: &str) -> Command {
        let mut psql = command(&self.psql);
        psql.env("PGCONNECT_TIMEOUT", "30")
            .arg(url)
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1"]);
        psql
    }
}

impl Deref for Postgres {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// The data of a new server. To copy it is much quicker than to make it.
fn template() -> &'static Path {
    // Never started: a server for its folder, which goes with the process.
    static TEMPLATE: OnceLock<(Server, PathBuf)> = OnceLock::new();
    let (_, data) = TEMPLATE.get_or_init(|| {
        let programs = postgres_folder();
        let program = Installed {
            postgres: programs.join("postgres"),
            settings: Vec::new(),
        };
        let server = Server::new("template", Account::without_privileges(), Box::new(program));
        let data = data_folder(server.folder());
        server.prepare(
            command(programs.join("initdb"))
                .args([
                    "--auth=trust",
                    "--username=postgres",
                    "--encoding=UTF8",
                    "--locale=C",
                ])
                .arg("--no-sync")
                .arg(&data),
        );
        (server, data)
    });
    data
}

#[derive(Debug)]
struct Installed {
    postgres: PathBuf,
    settings: Vec<String>,
}

impl Program for Installed {
    fn command(&self, folder: &Path, port: u16) -> Command {
        let mut postgres = command(&self.postgres);
        postgres.arg("-D").arg(data_folder(folder));
        let own = [
            format!("port={port}"),
            format!("unix_socket_directories={}", folder.display()),
            "listen_addresses=127.0.0.1".into(),
            "max_connections=200".into(),
            "fsync=on".into(),
        ];
        for setting in own.iter().chain(&self.settings) {
            postgres.arg("-c").arg(setting);
        }
        postgres
    }

    /// The server says so itself, in the eighth line of its lock file, below its process id in
    /// the first. That is where `pg_ctl --wait` looks.
    fn is_ready(&self, folder: &Path, _port: u16, pid: u32) -> bool {
        let lock = fs::read_to_string(data_folder(folder).join("postmaster.pid"));
        let lock = lock.unwrap_or_default();
        let mut lines = lock.lines();
        lines.next() == Some(pid.to_string().as_str())
            && lines
                .nth(6)
                .is_some_and(|status| status.trim_end() == "ready")
    }
}

fn data_folder(folder: &Path) -> PathBuf {
    folder.join("data")
}
