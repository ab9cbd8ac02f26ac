//! Metrics for Prometheus: the registry, its text form, and the buckets everybody shares.
//!
//! Names are `{prefix}_{what}_{unit}` in base units (`_seconds`, `_bytes`), counters end in
//! `_total`, and no label may take more than a few dozen values.

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{IntGauge, Opts, Registry, TextEncoder};

/// Upper bounds for durations, in seconds: the list that OpenTelemetry advises for HTTP servers
/// (semantic conventions, `http.server.request.duration`), and finer ones below a millisecond
/// or two, where most answers are.
pub const DURATION_SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Upper bounds for how many things are handled at once: the powers of four up to 65,536.
pub const GROUP_SIZE: &[f64] = &[
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0,
];

/// The metrics of one server. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// The media type of [`render`](Self::render).
    pub const CONTENT_TYPE: &'static str = prometheus::TEXT_FORMAT;

    /// A registry with the metrics of the process: `process_cpu_seconds_total`,
    /// `process_resident_memory_bytes`, `process_open_fds` and their kin.
    ///
    /// # Errors
    /// Never in practice: these names are the first in the registry.
    pub fn new() -> prometheus::Result<Self> {
        let metrics = Self {
            registry: Registry::new(),
        };
        metrics.register(ProcessCollector::for_self())?;
        Ok(metrics)
    }

    /// Adds a metric; keep a clone of it to count with.
    ///
    /// # Errors
    /// When its name is taken.
    pub fn register(&self, metric: impl Collector + 'static) -> prometheus::Result<()> {
        self.registry.register(Box::new(metric))
    }

    /// The registry itself, for the `register_*_with_registry!` macros.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Adds `{prefix}_build_info`, which is always 1 and says in its labels what is running.
    ///
    /// # Errors
    /// When it is there already.
    pub fn build_info(&self, prefix: &str, version: &str) -> prometheus::Result<()> {
        let options = Opts::new("build_info", "What is running; always 1.")
            .namespace(prefix)
            .const_label("version", version);
        let info = IntGauge::with_opts(options)?;
        info.set(1);
        self.register(info)
    }

    /// All metrics in Prometheus's text format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics are incomplete");
        }
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use prometheus::IntCounter;

    use super::*;

    #[test]
    fn buckets_only_rise() {
        for bounds in [DURATION_SECONDS, GROUP_SIZE] {
            assert!(bounds.is_sorted_by(|a, b| a < b), "{bounds:?}");
        }
        assert!(
            GROUP_SIZE
                .windows(2)
                .all(|pair| (pair[1] / pair[0] - 4.0).abs() < 1e-9)
        );
    }

    #[test]
    fn the_process_and_the_build_are_shown() {
        let metrics = Metrics::new().unwrap();
        metrics.build_info("app", "1.2.3").unwrap();
        let text = metrics.render();
        assert!(
            text.contains("app_build_info{version=\"1.2.3\"} 1\n"),
            "{text}"
        );
        for name in ["process_cpu_seconds_total", "process_resident_memory_bytes"] {
            assert!(text.contains(&format!("\n{name} ")), "{text}");
        }
        let open = text
            .lines()
            .find_map(|line| line.strip_prefix("process_open_fds "));
        assert!(open.unwrap().parse::<u32>().unwrap() >= 3);
    }

    #[test]
    fn a_clone_counts_into_the_same_registry_and_a_name_is_taken_once() {
        let metrics = Metrics::new().unwrap();
        let counter = IntCounter::new("app_events_total", "Events.").unwrap();
        metrics.clone().register(counter.clone()).unwrap();
        counter.inc_by(7);
        assert!(metrics.render().contains("app_events_total 7\n"));
        assert!(metrics.register(counter).is_err());
    }

    #[test]
    fn two_servers_in_one_process_do_not_share() {
        let (one, other) = (Metrics::new().unwrap(), Metrics::new().unwrap());
        one.build_info("app", "1").unwrap();
        assert!(!other.render().contains("app_build_info"));
    }
}
