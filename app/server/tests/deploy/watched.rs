//! Servers at work, with everything that has metrics: PostgreSQL with a cache and a spool, and the
//! embedded store with a shadow. Each is sent events by a generator, some more and other requests by a
//! visitor, and loses its database for a while. A Prometheus scrapes them all, configured as the one
//! in `deploy`.

use std::{
    io::{BufRead, BufReader},
    iter::zip,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use foundation::testing::{Postgres, Prometheus, Redis};
use reqwest::{Client, Method, Url};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use torture::{DEADLINE, server::Server, setup::Setup};

use crate::{path, yaml};

/// The two servers, by what their events are kept in.
const SERVERS: [&str; 2] = ["postgres", "embedded"];
const GENERATORS: [&str; 2] = ["to postgres", "to embedded"];

/// How fast it goes.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// Between two scrapes.
    pub(crate) scrape: Duration,
    /// Events a second for each server, one a request.
    pub(crate) rate: u32,
    /// On so many connections.
    pub(crate) connections: u32,
    /// Events of each bulk request; ten of these a second go to each server.
    pub(crate) bulk: usize,
    /// How long all goes well before `began`, that nothing cold is seen after it.
    pub(crate) warm_up: Duration,
    /// How long each stage lasts at the least.
    pub(crate) stage: Duration,
}

/// What is left when all has happened. It goes on being scraped.
pub(crate) struct Watched {
    pub(crate) prometheus: Prometheus,
    pub(crate) began: f64,
    pace: Pace,
    client: Client,
    // These end when they are dropped, in this order.
    _generators: Vec<Generator>,
    _visitors: JoinSet<()>,
    _servers: Vec<Server>,
    databases: (Postgres, Redis),
    _folder: TempDir,
}

/// What is scraped: names and addresses.
struct Targets {
    servers: Vec<(&'static str, String)>,
    generators: Vec<(&'static str, String)>,
}

struct Generator {
    child: Child,
    address: String,
}

impl Watched {
    pub(crate) async fn run(pace: Pace) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (postgres, redis) = (Postgres::start(), Redis::start());
        let within = |name: &str| folder.path().join(name).display().to_string();
        let program = Path::new(env!("CARGO_BIN_EXE_catchall"));
        let shared = Setup::of(program, "postgres")
            .set("store.postgres.url", postgres.create_database())
            // A scrape asks the store, and must not wait for longer than it may take.
            .set("store.postgres.connect_timeout_ms", 300)
            .set("store.postgres.read_timeout_ms", 300)
            .set("store.when_down", "spool")
            .set("store.spool.path", within("spool"))
            .set("store.spool.after_ms", 200)
            .set("cache.kind", "redis")
            .set("cache.redis.url", redis.url());
        let alone = Setup::of(program, "embedded")
            .set("store.embedded.path", within("data"))
            .set("store.embedded.snapshot_after_bytes", 100_000)
            .set("store.postgres.url", postgres.create_database())
            .set("store.shadow.kind", "postgres")
            .set("store.shadow.compared_per_s", 50);
        let servers = vec![shared.start().unwrap(), alone.start().unwrap()];
        let addresses = servers.iter().map(|server| server.address().to_string());
        let addresses: Vec<_> = addresses.collect();
        let client = Client::builder().timeout(DEADLINE).build().unwrap();
        let mut visitors = JoinSet::new();
        for address in &addresses {
            visitors.spawn(visit(client.clone(), address.clone(), pace.bulk));
            visitors.spawn(watch(client.clone(), address.clone()));
        }
        let generators = addresses
            .iter()
            .map(|address| Generator::start(address, pace));
        let generators: Vec<_> = generators.collect();
        let of_generators = generators.iter().map(|it| it.address.clone());
        let targets = Targets {
            generators: zip(GENERATORS, of_generators).collect(),
            servers: zip(SERVERS, addresses).collect(),
        };
        let prometheus = Prometheus::start(&config(pace, &targets));
        let mut watched = Self {
            prometheus,
            began: 0.0,
            pace,
            client,
            _generators: generators,
            _visitors: visitors,
            _servers: servers,
            databases: (postgres, redis),
            _folder: folder,
        };
        tokio::time::sleep(pace.warm_up).await;
        watched.began = watched.now().await;
        watched.live_through().await;
        watched
    }

    /// A good time, an outage of PostgreSQL and Redis, and what comes behind it.
    async fn live_through(&self) {
        let (postgres, redis) = &self.databases;
        self.stage("count(rate(catchall_events_total{outcome=\"counted\"}[$R]) > 0) >= 2")
            .await;
        redis.kill();
        postgres.kill();
        self.stage(
            "max(catchall_spool_bytes) > 0 and max(catchall_store_breaker) > 0 and on () \
             sum(rate(http_server_request_duration_seconds_count\
             {http_response_status_code=\"503\"}[$R])) > 0",
        )
        .await;
        redis.start_again();
        postgres.start_again();
        self.stage(
            "max(catchall_spool_bytes) == 0 and on () \
             sum(rate(catchall_spool_drained_events_total[$R])) > 0",
        )
        .await;
    }

    /// Until something new may be known.
    pub(crate) async fn next_scrape(&self) {
        tokio::time::sleep(self.pace.scrape).await;
    }

    /// Waits until this has an answer, and the stage has lasted for long enough.
    async fn stage(&self, query: &str) {
        let began = Instant::now();
        while self.at(query).await.is_empty() {
            assert!(began.elapsed() < DEADLINE, "in vain: {query}");
            self.next_scrape().await;
        }
        tokio::time::sleep(self.pace.stage.saturating_sub(began.elapsed())).await;
    }

    /// The range of a rate, as Grafana would choose it: four scrapes.
    pub(crate) fn rate_interval(&self) -> String {
        format!("{}ms", (self.pace.scrape * 4).as_millis())
    }

    /// With the variables of a dashboard as they are at first.
    fn filled(&self, query: &str) -> String {
        query
            .replace("$job", "catchall")
            .replace("$instance", &SERVERS.join("|"))
            .replace("$generator", &GENERATORS.join("|"))
            .replace("$__rate_interval", &self.rate_interval())
            .replace("$R", &self.rate_interval())
    }

    /// What a query answers now.
    pub(crate) async fn at(&self, query: &str) -> Vec<Value> {
        self.ask("query", query, &[]).await
    }

    /// What a query answers for every moment so far: series with their values.
    pub(crate) async fn over_time(&self, query: &str) -> Vec<Value> {
        let step = format!("{}ms", self.pace.scrape.as_millis());
        let bounds = [
            ("start", self.began.to_string()),
            ("end", self.now().await.to_string()),
            ("step", step),
        ];
        self.ask("query_range", query, &bounds).await
    }

    /// By Prometheus' clock: a scalar is a pair of it and a value.
    async fn now(&self) -> f64 {
        self.at("time()").await[0].as_f64().unwrap()
    }

    async fn ask(&self, how: &str, query: &str, more: &[(&str, String)]) -> Vec<Value> {
        let query = self.filled(query);
        let parameters = [&[("query", query.clone())], more].concat();
        let mut answer = self.get(how, &parameters).await;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        match answer["data"]["result"].take() {
            Value::Array(series) => series,
            other => panic!("{query}: {other}"),
        }
    }

    /// A page of Prometheus' API.
    pub(crate) async fn get(&self, page: &str, query: &[(&str, String)]) -> Value {
        let url = format!("{}/api/v1/{page}", self.prometheus.url());
        let url = Url::parse_with_params(&url, query).unwrap();
        let answer = self.client.get(url).send().await.unwrap();
        answer.json().await.unwrap()
    }
}

impl Generator {
    fn start(server: &str, pace: Pace) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_catchall")).with_file_name("create-events");
        assert!(
            program.exists(),
            "create-events is not built: test the whole workspace"
        );
        let mut child = Command::new(program)
            .args(["--url", &format!("http://{server}")])
            .args(["--metrics-addr", "127.0.0.1:0"])
            .args(["--rate", &pace.rate.to_string(), "--events", "4000000000"])
            .args(["--domains", "500", "--zipf", "1.1", "--bounce-rate", "0.01"])
            .args(["--connections", &pace.connections.to_string()])
            .args(["--retries", "3"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let address = line.strip_prefix("metrics: http://")?;
            address.strip_suffix("/metrics").map(str::to_owned)
        });
        // To its end: a generator whose pipe is full would stand still.
        thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            address: address.expect("it says where its metrics are"),
        }
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends what a generator does not, whatever the answers are, until it is dropped.
async fn visit(client: Client, address: String, bulk: usize) {
    let lines = "{\"domain\":\"bulk.example\",\"type\":\"delivered\"}\n".repeat(bulk);
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    loop {
        ticks.tick().await;
        for (method, target) in [
            (Method::GET, "/v1/domains/bulk.example"),
            (Method::GET, "/v1/domain/bulk.example"),
            (Method::GET, "/v1/domain/never.example"),
            (Method::GET, "/v1/domains?limit=10"),
            (Method::GET, "/v1/stats"),
            (Method::GET, "/v1/domain/a..b"),
            (Method::PUT, "/v1/events/a..b/delivered"),
            (Method::GET, "/nowhere"),
        ] {
            let url = format!("http://{address}{target}");
            let _ = client.request(method, url).send().await;
        }
        // The same key: counted once, then known, then refused for it is about another event.
        for target in [
            "key.example/delivered",
            "key.example/delivered",
            "key.example/bounced",
        ] {
            let url = format!("http://{address}/v1/events/{target}");
            let request = client.put(url).header("Idempotency-Key", "\"once\"");
            let _ = request.send().await;
        }
        let bulk = client
            .post(format!("http://{address}/v1/events"))
            .header("Content-Type", "application/x-ndjson")
            .body(lines.clone());
        let _ = bulk.send().await;
    }
}

/// Reads both streams, until it is dropped.
async fn watch(client: Client, address: String) {
    let read = async |target: &str| {
        let url = format!("http://{address}{target}");
        if let Ok(mut answer) = client.get(url).send().await {
            while let Ok(Some(_)) = answer.chunk().await {}
        }
    };
    loop {
        tokio::join!(read("/v1/stats/live"), read("/v1/events/tail"));
        // It may have been refused.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// That of `deploy`, with other targets and a quicker scrape.
fn config(pace: Pace, targets: &Targets) -> String {
    let mut config = yaml("deploy/prometheus/prometheus.yml");
    let scrape = format!("{}ms", pace.scrape.as_millis());
    config["global"] = json!({
        "scrape_interval": scrape, "scrape_timeout": scrape, "evaluation_interval": scrape,
    });
    for files in config["rule_files"].as_array_mut().unwrap() {
        let name = format!("deploy/prometheus/{}", files.as_str().unwrap());
        *files = path(&name).display().to_string().into();
    }
    let jobs = config["scrape_configs"].as_array_mut().unwrap();
    jobs.retain(|job| job["job_name"] != "prometheus");
    for job in jobs {
        let targets = match job["job_name"].as_str().unwrap() {
            "catchall" => &targets.servers,
            _ => &targets.generators,
        };
        let named =
            |(name, address): &_| json!({ "targets": [address], "labels": { "instance": name } });
        job["static_configs"] = targets.iter().map(named).collect();
    }
    // All JSON is YAML.
    config.to_string()
}
