//! An OpenTelemetry collector of one's own.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::programs::command;
use super::server::{Program, Server};

/// A running Rotel: it takes spans over gRPC (OTLP) and passes them on over HTTP. What may be done to
/// its process is in [`Server`].
#[derive(Debug)]
pub struct Rotel {
    server: Server,
}

impl Rotel {
    /// Starts the collector that `program` is; it passes on to `exported_to`, gzipped, or to nobody.
    ///
    /// # Panics
    /// When it is not there or does not come up.
    #[must_use]
    pub fn start(program: &Path, exported_to: Option<SocketAddr>) -> Self {
        let program = program.canonicalize().unwrap_or_else(|error| {
            panic!(
                "{}: {error}. Run `make test`, which installs it (scripts/test-dependencies.sh)",
                program.display()
            )
        });
        let installed = Installed {
            program,
            exported_to,
        };
        let mut server = Server::new("rotel", None, Box::new(installed));
        server.start();
        Self { server }
    }

    /// Where it takes spans.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }
}

impl Deref for Rotel {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

#[derive(Debug)]
struct Installed {
    program: PathBuf,
    exported_to: Option<SocketAddr>,
}

impl Program for Installed {
    fn command(&self, _folder: &Path, port: u16) -> Command {
        let mut rotel = command(&self.program);
        rotel.args(["start", "--otlp-grpc-endpoint"]);
        rotel.arg(format!("127.0.0.1:{port}"));
        // Not used, and its default port may be taken.
        rotel.args(["--otlp-http-endpoint", "127.0.0.1:0"]);
        match self.exported_to {
            Some(address) => {
                rotel.args(["--exporter", "otlp", "--otlp-exporter-protocol", "http"]);
                rotel.args(["--otlp-exporter-endpoint", &format!("http://{address}")]);
            }
            None => {
                // Its log says that something came.
                rotel.args(["--exporter", "blackhole", "--debug-log", "traces"]);
            }
        }
        rotel.args(["--batch-timeout", "50ms"]);
        rotel
    }

    /// It says so once it has its ports.
    fn is_ready(&self, folder: &Path, _port: u16, _pid: u32) -> bool {
        std::fs::read_to_string(folder.join("server.log"))
            .is_ok_and(|log| log.contains("Starting Rotel"))
    }
}
