//! A server that really runs.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Running {
    server: Child,
    address: String,
    client: Client,
}

impl Running {
    /// Starts the server on a free port, with no setting but these flags.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_catchall"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CATCHALL__") {
                command.env_remove(name);
            }
        }
        let mut server = command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(flags)
            .env("CATCHALL__TELEMETRY__LOGS__FORMAT", "json")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();

        let stderr = BufReader::new(server.stderr.take().unwrap());
        let (found, address) = mpsc::channel();
        // To its end: a server whose pipe is full would stand still.
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let log: Value = serde_json::from_str(&line).unwrap_or_default();
                match log["address"].as_str() {
                    Some(address) if log["message"] == "serving" => {
                        let _ = found.send(address.to_owned());
                    }
                    _ => eprintln!("{line}"),
                }
            }
        });
        let address = address.recv_timeout(PATIENCE);
        let mut running = Self {
            server,
            address: String::new(),
            client: Client::builder().timeout(PATIENCE).build().unwrap(),
        };
        running.address = address.expect("the server did not start; its log is above");
        running
    }

    /// The status of the answer.
    pub(crate) async fn status(&self, method: Method, path: &str) -> StatusCode {
        self.send(method, path).await.status()
    }

    /// What `/metrics` shows.
    pub(crate) async fn metrics(&self) -> String {
        let answer = self.send(Method::GET, "/metrics").await;
        answer.error_for_status().unwrap().text().await.unwrap()
    }

    async fn send(&self, method: Method, path: &str) -> reqwest::Response {
        let url = format!("http://{}{path}", self.address);
        self.client.request(method, url).send().await.unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
