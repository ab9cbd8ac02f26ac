//! A server over a store that does as it is told, and a client that sends what it is told.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by several test programs; a test fails by panicking"
)]

pub mod client;
pub mod store;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use api::{App, Readiness, Server, Settings, Stop};
use business::{
    email_domains::{service::EmailDomains, verdict::VerdictPolicy},
    kernel::{Clock, UnixSeconds},
};
use foundation::telemetry::Metrics;
use serde_json::json;
use tokio::{sync::oneshot, task::JoinHandle};

pub use client::{Connection, Response};
pub use store::Store;

/// How long anything may take before a test gives up.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// 2026-11-21T09:00:00Z.
pub const NOW: u32 = 1_795_251_600;

struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> UnixSeconds {
        UnixSeconds::from(NOW)
    }
}

/// A server that runs.
pub struct Running {
    pub address: SocketAddr,
    pub store: Arc<Store>,
    pub readiness: Readiness,
    pub metrics: Metrics,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<std::io::Result<()>>,
}

/// The settings of most tests, with these instead.
pub fn settings(changed: &serde_json::Value) -> Settings {
    let mut all = json!({
        "workers": 2,
        "max_connections": 1000,
        "backlog": 128,
        "max_path_bytes": 2048,
        "max_head_bytes": 16384,
        "max_body_bytes": 65536,
        "max_bodies_bytes": 16_777_216,
        "read_timeout_ms": 20_000,
        "write_timeout_ms": 20_000,
        "answer_timeout_ms": 20_000,
        "keep_alive_ms": 20_000,
        "unready_ms": 0,
        "drain_timeout_ms": 20_000,
        "request_log": { "hot_routes": "all", "sample_every": 1000 },
    });
    for (name, value) in changed.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

impl Running {
    /// With the usual settings.
    pub async fn start() -> Self {
        Self::start_with(json!({})).await
    }

    /// With these settings instead of the usual ones.
    pub async fn start_with(changed: serde_json::Value) -> Self {
        let store = Arc::new(Store::default());
        let app = App {
            email_domains: EmailDomains::new(
                store.clone(),
                VerdictPolicy::new(3.try_into().unwrap()),
                Arc::new(Stopped),
            )
            .with_pending(store.clone()),
            store_name: "test",
            metrics: Metrics::new().unwrap(),
            readiness: Readiness::default(),
        };
        let (readiness, metrics) = (app.readiness.clone(), app.metrics.clone());
        let listen = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(&[listen], &settings(&changed), app).unwrap();
        let address = server.addresses()[0];
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.run(async {
            let _ = stopped.await;
            Stop::Orderly
        }));
        Self {
            address,
            store,
            readiness,
            metrics,
            stop: Some(stop),
            serving,
        }
    }

    /// Asks it to stop; it has not when this returns.
    pub fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Waits until it has.
    pub async fn stopped(self) -> std::io::Result<()> {
        tokio::time::timeout(DEADLINE, self.serving)
            .await
            .unwrap()
            .unwrap()
    }

    pub async fn connect(&self) -> Connection {
        Connection::open(self.address).await
    }

    /// A connection whose head timeout, which is as short as that of content, can strike no more:
    /// a busy machine may well be slower than that.
    pub async fn connect_past_its_first_head(&self) -> Connection {
        loop {
            let mut connection = self.connect().await;
            if connection.ask("GET", "/livez", &[]).await.status == 200 {
                return connection;
            }
        }
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, method: &str, target: &str) -> Response {
        self.ask_with(method, target, &[]).await
    }

    pub async fn ask_with(&self, method: &str, target: &str, fields: &[(&str, &str)]) -> Response {
        self.connect().await.ask(method, target, fields).await
    }

    /// One POST on a connection of its own, which goes on behind it.
    pub async fn post(
        &self,
        target: &str,
        fields: &[(&str, &str)],
        content: impl AsRef<[u8]>,
    ) -> Response {
        let mut connection = self.connect().await;
        let answer = connection.post(target, fields, content).await;
        if answer.field("connection") != Some("close") {
            assert_eq!(connection.ask("GET", "/livez", &[]).await.status, 200);
        }
        answer
    }

    /// What is counted of a domain: delivered, bounced.
    pub async fn counts(&self, domain: &str) -> (u64, u64) {
        let target = format!("/v1/domains/{domain}");
        let answer = self.ask("GET", &target).await.json();
        let count = |name: &str| answer[name].as_u64().unwrap();
        (count("delivered"), count("bounced"))
    }

    /// The value of a series of `/metrics`, if it is there.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let text = self.metrics.render();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }
}

/// Waits until this holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    assert!(
        tokio::time::timeout(DEADLINE, waiting).await.is_ok(),
        "waited for: {what}"
    );
}
