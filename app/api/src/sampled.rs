//! The metrics that are read at the moment somebody asks for them.

use business::email_domains::service::EmailDomains;
use foundation::telemetry::Metrics;
use prometheus::{IntGauge, IntGaugeVec, Opts};
use tokio::time::timeout;

use crate::{health::PROBE_TIMEOUT, limits::Settings, middleware::Bodies};

/// Gauges of what the store and the bodies of requests hold.
pub(crate) struct Sampled {
    keys_from: IntGauge,
    catch_all: IntGauge,
    not_catch_all: IntGauge,
    unknown: IntGauge,
    held_bytes: IntGauge,
    bodies: Bodies,
}

impl Sampled {
    /// Registers them.
    ///
    /// # Errors
    /// When their names are taken.
    pub(crate) fn register(
        metrics: &Metrics,
        settings: &Settings,
        bodies: Bodies,
    ) -> prometheus::Result<Self> {
        let gauge = |name, help| {
            let gauge = IntGauge::new(name, help)?;
            metrics.register(gauge.clone())?;
            prometheus::Result::Ok(gauge)
        };
        let domains = IntGaugeVec::new(
            Opts::new(
                "catchall_domains",
                "Domains in the store, by verdict; of all servers that share it.",
            ),
            &["verdict"],
        )?;
        metrics.register(domains.clone())?;
        let limit = gauge(
            "catchall_http_bodies_limit_bytes",
            "What the bodies of all requests may hold; over it, requests are refused.",
        )?;
        limit.set(
            settings
                .max_bodies_bytes
                .get()
                .try_into()
                .unwrap_or(i64::MAX),
        );
        Ok(Self {
            keys_from: gauge(
                "catchall_keys_from_timestamp_seconds",
                "An idempotency key made from this moment on is remembered if it ever counted.",
            )?,
            catch_all: domains.with_label_values(&["catch_all"]),
            not_catch_all: domains.with_label_values(&["not_catch_all"]),
            unknown: domains.with_label_values(&["unknown"]),
            held_bytes: gauge(
                "catchall_http_bodies_bytes",
                "What the bodies of all requests hold, until they are recorded or answered.",
            )?,
            bodies,
        })
    }

    /// Brings them up to date. A store that does not answer in time leaves what it told last: its
    /// sums cost the same however many domains there are, and no scrape waits for longer.
    pub(crate) async fn take(&self, store: &EmailDomains) {
        let set = |gauge: &IntGauge, value: u64| gauge.set(value.try_into().unwrap_or(i64::MAX));
        set(&self.held_bytes, self.bodies.bytes() as u64);
        let (keys_from, totals) = tokio::join!(
            timeout(PROBE_TIMEOUT, store.keys_from()),
            timeout(PROBE_TIMEOUT, store.totals()),
        );
        if let Ok(Ok(moment)) = keys_from {
            self.keys_from.set(moment.get().into());
        }
        if let Ok(Ok(totals)) = totals {
            set(&self.catch_all, totals.catch_all);
            set(&self.not_catch_all, totals.not_catch_all);
            set(&self.unknown, totals.unknown());
        }
    }
}
