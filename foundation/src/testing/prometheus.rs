//! A Prometheus server of one's own.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::programs::{command, prometheus};
use super::server::{Program, Server};

/// A running Prometheus server. What may be done to its process is in [`Server`].
#[derive(Debug)]
pub struct Prometheus {
    server: Server,
}

impl Prometheus {
    /// Starts a server with this configuration.
    ///
    /// # Panics
    /// When Prometheus is not installed, or does not come up: as with rules that are wrong.
    #[must_use]
    pub fn start(config: &str) -> Self {
        let program = Installed {
            prometheus: prometheus(),
        };
        let mut server = Server::new("prometheus", None, Box::new(program));
        fs::write(config_file(server.folder()), config).expect("its folder can be written");
        server.start();
        Self { server }
    }

    /// Where it answers, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }
}

impl Deref for Prometheus {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

#[derive(Debug)]
struct Installed {
    prometheus: PathBuf,
}

impl Program for Installed {
    fn command(&self, folder: &Path, port: u16) -> Command {
        let mut prometheus = command(&self.prometheus);
        prometheus
            .arg(format!("--config.file={}", config_file(folder).display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        prometheus
    }

    /// It says so in its log, which is nobody else's.
    fn is_ready(&self, folder: &Path, _port: u16, _pid: u32) -> bool {
        let log = fs::read_to_string(folder.join("server.log")).unwrap_or_default();
        log.contains("Server is ready to receive web requests")
    }
}

fn config_file(folder: &Path) -> PathBuf {
    folder.join("prometheus.yml")
}
