//! A Redis server of one's own.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::programs::{command, redis_server};
use super::server::{Program, Server};

/// A running Redis server that keeps nothing on disk: a restart empties it. What may be done to
/// its process is in [`Server`].
#[derive(Debug)]
pub struct Redis {
    server: Server,
}

impl Redis {
    /// Starts a server.
    ///
    /// # Panics
    /// When Redis is not installed or does not come up.
    #[must_use]
    pub fn start() -> Self {
        let program = Installed {
            redis_server: redis_server(),
        };
        let mut server = Server::new("redis", None, Box::new(program));
        server.start();
        Self { server }
    }

    /// The server that all tests of this process share, started by the first that asks. A test
    /// keeps to keys, or a numbered database, of its own, and leaves the process alone.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Redis> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// The URL of its database 0.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port())
    }
}

impl Deref for Redis {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

#[derive(Debug)]
struct Installed {
    redis_server: PathBuf,
}

impl Program for Installed {
    fn command(&self, folder: &Path, port: u16) -> Command {
        let mut redis = command(&self.redis_server);
        redis.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
        redis
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(folder);
        redis
    }

    /// It is asked for its process id.
    fn is_ready(&self, _folder: &Path, port: u16, pid: u32) -> bool {
        process_id(port).is_ok_and(|found| found == Some(pid))
    }
}

/// The process id that the Redis server on a port gives of itself.
fn process_id(port: u16) -> io::Result<Option<u32>> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.write_all(b"INFO server\r\nQUIT\r\n")?;
    for line in BufReader::new(connection).lines() {
        if let Some(pid) = line?.strip_prefix("process_id:") {
            return Ok(pid.parse().ok());
        }
    }
    Ok(None)
}
