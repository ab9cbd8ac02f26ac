//! A server in a process of its own: catchall or a control.

use std::{
    collections::VecDeque,
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::process::Processes;

/// As `deploy/prometheus/prometheus.yml` has it.
const SCRAPED_EVERY: Duration = Duration::from_secs(5);

/// A running server, ended when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    pub(crate) processes: Processes,
    /// From the start of the process to its word that it serves.
    pub(crate) start_took: Duration,
    /// The log line `opened the store`, where there is one.
    pub(crate) opened: Option<Value>,
    alive: Arc<()>,
}

impl Server {
    /// A subcommand of this executable. The first line it prints is its URL.
    pub(crate) fn control(arguments: &[&str], postmaster: Option<u32>) -> anyhow::Result<Self> {
        let start = Instant::now();
        let mut child = Command::new(env::current_exe()?)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut url = String::new();
        let stdout = child.stdout.take().context("no stdout")?;
        BufReader::new(stdout).read_line(&mut url)?;
        if url.is_empty() {
            bail!("the control {} does not start", arguments[0]);
        }
        Ok(Self::new(
            child,
            url.trim().to_owned(),
            postmaster,
            start,
            None,
        ))
    }

    /// catchall itself, as it ships; `settings` are names and values in its environment.
    pub(crate) fn catchall(
        settings: &[(&str, String)],
        postmaster: Option<u32>,
    ) -> anyhow::Result<Self> {
        let program = Path::new(env!("CARGO_BIN_EXE_catchall"));
        Self::program(program, settings, postmaster)
    }

    /// A catchall that was built in another way.
    pub(crate) fn program(
        program: &Path,
        settings: &[(&str, String)],
        postmaster: Option<u32>,
    ) -> anyhow::Result<Self> {
        let start = Instant::now();
        let mut child = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("CATCHALL__TELEMETRY__LOGS__FORMAT", "json")
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("no stderr")?).lines();
        let (mut said, mut opened) = (VecDeque::new(), None);
        while let Some(line) = lines.next().transpose()? {
            let json: Value = serde_json::from_str(&line).unwrap_or_default();
            match json["message"].as_str() {
                Some("opened the store") => opened = Some(json),
                Some("serving") => {
                    let address = json["address"].as_str().context("no address")?;
                    let url = format!("http://{address}");
                    let server = Self::new(child, url, postmaster, start, opened);
                    // Whatever it says from now on: it must not wait for a reader.
                    std::thread::spawn(move || lines.for_each(drop));
                    return Ok(server);
                }
                _ => {}
            }
            said.push_back(line);
            if said.len() > 3 {
                said.pop_front();
            }
        }
        child.wait()?;
        bail!("it does not start: {}", Vec::from(said).join(" "));
    }

    fn new(
        child: Child,
        url: String,
        postmaster: Option<u32>,
        start: Instant,
        opened: Option<Value>,
    ) -> Self {
        let processes = Processes {
            server: child.id(),
            postmaster,
        };
        Self {
            child,
            url,
            processes,
            start_took: start.elapsed(),
            opened,
            alive: Arc::default(),
        }
    }

    pub(crate) fn address(&self) -> anyhow::Result<SocketAddr> {
        let address = self.url.trim_start_matches("http://");
        address.parse().context("no address")
    }

    /// One of its metrics, by name; 0 where it has none of that name.
    pub(crate) fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let answer = metrics(self.address()?)?;
        let value = answer
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.map_or(Ok(0.0), str::parse)?)
    }

    /// From now on its metrics are read as Prometheus reads them, until it ends.
    pub(crate) fn scrape(&self) -> anyhow::Result<()> {
        let (address, alive) = (self.address()?, Arc::downgrade(&self.alive));
        std::thread::spawn(move || {
            while alive.upgrade().is_some() {
                if let Err(error) = metrics(address) {
                    eprintln!("a scrape failed: {error}");
                }
                std::thread::sleep(SCRAPED_EVERY);
            }
        });
        Ok(())
    }
}

fn metrics(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// SIGKILL: what was acknowledged is durable, or catchall does not keep its promise.
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the load generator is: beside the server.
fn create_events() -> anyhow::Result<std::path::PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_catchall")).with_file_name("create-events");
    if !path.exists() {
        bail!("create-events is not built; `make bench` builds it");
    }
    Ok(path)
}

/// Starts `create-events` against a server; `flags` are as on its command line.
pub(crate) fn sender(url: &str, flags: &str) -> anyhow::Result<Child> {
    let child = Command::new(create_events()?)
        .args(["--json", "--timeout-ms", "60000", "--url", url])
        .args(flags.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok(child)
}

/// Runs it to its end, and gives its report.
pub(crate) fn send(url: &str, flags: &str) -> anyhow::Result<Value> {
    let output = sender(url, flags)?.wait_with_output()?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}
