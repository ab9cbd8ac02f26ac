//! A server that runs as a process of its own.

#![allow(
    clippy::unwrap_used,
    reason = "a server that cannot be had must fail the test"
)]

use std::{
    error::Error,
    fmt,
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    DEADLINE,
    http::{Answer, Connection},
};

/// Waits for the end of a pipe that only the test process holds, then ends the server: so it dies
/// with the tests, however they go.
const GUARDIAN: &str = "trap '' HUP INT TERM; cat >/dev/null; kill -s KILL \"$0\"";

/// A server that runs. Killed when it is dropped.
pub struct Server {
    child: Child,
    guardian: Child,
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

/// A server that never served.
#[derive(Clone, Debug)]
pub struct NotServing {
    /// How it ended; `None` when it did not.
    pub status: Option<ExitStatus>,
    /// All that it logged.
    pub log: Vec<String>,
}

impl fmt::Display for NotServing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server does not start: ")?;
        match (self.log.last(), self.status) {
            (Some(last), _) => f.write_str(last),
            (None, Some(status)) => write!(f, "{status}"),
            (None, None) => f.write_str("it says nothing"),
        }
    }
}

impl Error for NotServing {}

impl NotServing {
    /// How a server ended that did not come to serve.
    ///
    /// # Errors
    /// When it went on, or could not be started for another reason.
    pub fn status_of(error: anyhow::Error) -> anyhow::Result<ExitStatus> {
        let not_serving = error.downcast::<Self>()?;
        not_serving.status.ok_or_else(|| not_serving.into())
    }
}

impl Server {
    /// Starts a server, whose log is JSON, and returns once it serves.
    ///
    /// # Panics
    /// When it ends before.
    #[track_caller]
    pub fn start(command: Command) -> Self {
        Self::try_start(command).unwrap_or_else(|error| panic!("{error}: {:#?}", error.log))
    }

    /// Starts a server, whose log is JSON, and returns once it serves.
    ///
    /// # Errors
    /// When it ends before, or does not serve within [`DEADLINE`].
    pub fn try_start(mut command: Command) -> Result<Self, NotServing> {
        // A process group of its own, so that Ctrl-C reaches the tests alone.
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let guardian = Command::new("sh")
            .args(["-c", GUARDIAN, &child.id().to_string()])
            .process_group(0)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (serving, addresses) = mpsc::channel();
        let reader = {
            let log = Arc::clone(&log);
            // To the end of the pipe: a full one would halt the server.
            std::thread::spawn(move || {
                for line in stderr.lines().map_while(Result::ok) {
                    if let Some(address) = serving_on(&line) {
                        let _ = serving.send(address);
                    }
                    log.lock().unwrap().push(line);
                }
            })
        };
        let mut server = Self {
            child,
            guardian,
            address: SocketAddr::from(([0; 4], 0)),
            log,
            reader: Some(reader),
        };
        match addresses.recv_timeout(DEADLINE) {
            Ok(address) => server.address = address,
            Err(error) => {
                // It has closed its log, so it is gone at any moment.
                let status =
                    (error == RecvTimeoutError::Disconnected).then(|| server.child.wait().unwrap());
                server.kill();
                return Err(NotServing {
                    status,
                    log: server.log(),
                });
            }
        }
        Ok(server)
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has logged so far, line by line.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }

    /// Waits until it has ended by itself, and gives all that it logged.
    pub fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it goes on: {:#?}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        };
        self.kill();
        (status, self.log())
    }

    /// Stops it by SIGTERM, which must end it with code 0.
    pub fn stop(self) -> Vec<String> {
        self.terminate();
        let (status, log) = self.ended();
        assert_eq!(status.code(), Some(0), "{status}: {log:#?}");
        log
    }

    /// How it has ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// How it ends, once it has.
    ///
    /// # Errors
    /// When it goes on.
    pub async fn dies(&mut self) -> anyhow::Result<ExitStatus> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.status() {
                return Ok(status);
            }
            anyhow::ensure!(began.elapsed() < DEADLINE, "it goes on");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it with SIGKILL, if it has not ended yet.
    pub fn kill(&mut self) {
        // The guardian goes first: the id of a process that is gone may be another's.
        let _ = self.guardian.kill();
        let _ = self.guardian.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }

    /// A connection to it.
    pub async fn connect(&self) -> Connection {
        Connection::open(self.address).await.unwrap()
    }

    /// The answer to a GET over a connection of its own.
    pub async fn get(&self, target: &str) -> Answer {
        self.connect().await.get(target).await
    }

    /// The JSON behind a GET, past every cache.
    pub async fn json(&self, target: &str) -> Value {
        self.connect().await.json(target).await
    }

    /// The metrics as text.
    pub async fn metrics(&self) -> String {
        let answer = self.get("/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.text().to_owned()
    }

    /// The value of one series, by its name and labels as they stand in the text.
    pub async fn metric(&self, series: &str) -> u64 {
        let metrics = self.metrics().await;
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("no {series} in {metrics}"));
        value.parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The address, if this is the line that tells it.
fn serving_on(line: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    (line["message"] == "serving").then(|| line["address"].as_str()?.parse().ok())?
}
