//! How fast single events are counted on each store, beside a bare actix-web server that stores
//! nothing. `make bench` runs it.
//!
//! Machines are shared and noisy, so that a figure alone says little: all servers are loaded in
//! turn, round after round, and what counts is the median of the ratios to the bare server of the
//! same round.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints its result, and fails by panicking"
)]

use std::{
    env,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use actix_web::{App, HttpResponse, HttpServer, web};
use foundation::testing::Postgres;
use serde_json::Value;

const ROUNDS: usize = 5;
const CONNECTIONS: [u32; 2] = [64, 256];
/// Enough for some seconds a server and round.
const EVENTS: u32 = 100_000;
const DOMAINS: u32 = 10_000;

fn main() {
    let mut arguments = env::args().skip(1);
    match arguments.next().as_deref() {
        Some("bare") => bare_server(),
        _ => measure(),
    }
}

/// The control: the same route, and an answer.
fn bare_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    actix_web::rt::System::new()
        .block_on(
            HttpServer::new(|| {
                App::new().route(
                    "/v1/events/{domain}/{kind}",
                    web::put().to(async || HttpResponse::NoContent()),
                )
            })
            .workers(2)
            .tcp_nodelay(true)
            .listen(listener)
            .unwrap()
            .run(),
        )
        .unwrap();
}

/// A server under load, ended when dropped.
struct Server {
    name: &'static str,
    child: Child,
    url: String,
    _data: Option<tempfile::TempDir>,
}

impl Server {
    fn bare() -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .arg("bare")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut address)
            .unwrap();
        Self {
            name: "bare actix-web",
            child,
            url: format!("http://{}", address.trim()),
            _data: None,
        }
    }

    fn catchall(name: &'static str, flags: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_catchall"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data.path())
            .args(flags)
            .env("CATCHALL__TELEMETRY__LOGS__FORMAT", "json")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
            .find(|line| line["message"] == "serving")
            .and_then(|line| Some(line["address"].as_str()?.to_owned()))
            .expect("the server does not start");
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            name,
            child,
            url: format!("http://{address}"),
            _data: Some(data),
        }
    }

    fn load(&self, connections: u32) -> Run {
        let output = Command::new(create_events())
            .args(["--json", "--url", &self.url])
            .args([
                "--events",
                &EVENTS.to_string(),
                "--domains",
                &DOMAINS.to_string(),
            ])
            .args(["--connections", &connections.to_string()])
            .stderr(Stdio::null())
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            report["acknowledged"], EVENTS,
            "{}: not all was acknowledged",
            self.name
        );
        let number = |value: &Value| value.as_f64().unwrap();
        Run {
            rate: number(&report["acknowledged_per_s"]),
            p50_ms: number(&report["latency_ms"]["p50"]),
            p99_ms: number(&report["latency_ms"]["p99"]),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy)]
struct Run {
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// The generator stands beside the server.
fn create_events() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_catchall")).with_file_name("create-events");
    assert!(path.exists(), "build it first: `make bench` does");
    path
}

fn measure() {
    let postgres = Postgres::start();
    let database = postgres.create_database();
    let servers = [
        Server::bare(),
        Server::catchall("memory", &["--store", "memory"]),
        Server::catchall("embedded", &["--store", "embedded"]),
        Server::catchall(
            "postgres",
            &["--store", "postgres", "--database-url", &database],
        ),
    ];
    println!("{}\n", machine());
    println!(
        "Single PUTs, {EVENTS} events over {DOMAINS} domains a run, medians of {ROUNDS} \
         interleaved rounds; the generator runs on the same cores.\n"
    );
    println!("| connections | server | events/s | p50 ms | p99 ms | of bare |");
    println!("| ---: | --- | ---: | ---: | ---: | ---: |");
    for connections in CONNECTIONS {
        let rounds: Vec<Vec<Run>> = (0..ROUNDS)
            .map(|_| {
                servers
                    .iter()
                    .map(|server| server.load(connections))
                    .collect()
            })
            .collect();
        for (number, server) in servers.iter().enumerate() {
            let of = |figure: &dyn Fn(&Vec<Run>) -> f64| median(rounds.iter().map(figure));
            println!(
                "| {connections} | {} | {:.0} | {:.2} | {:.2} | {:.2} |",
                server.name,
                of(&|round| round[number].rate),
                of(&|round| round[number].p50_ms),
                of(&|round| round[number].p99_ms),
                of(&|round| round[number].rate / round[0].rate),
            );
        }
    }
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// What this was measured on.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let models: Vec<_> = cpus
        .lines()
        .filter_map(|line| {
            line.strip_prefix("model name")?
                .split_once(": ")
                .map(|(_, name)| name)
        })
        .collect();
    let memory = read("/proc/meminfo");
    let kib = memory
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    format!(
        "Machine: {} × {}, {:.0} GiB, Linux {}",
        models.len(),
        models.first().unwrap_or(&"unknown CPU"),
        kib.unwrap_or(0.0) / 1_048_576.0,
        read("/proc/sys/kernel/osrelease").trim(),
    )
}
