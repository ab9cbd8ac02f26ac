//! Metrics for Prometheus: the registry, its text form, and the buckets everybody shares.
//!
//! Names are `{prefix}_{what}_{unit}` in base units (`_seconds`, `_bytes`), counters end in
//! `_total`, and no label may take more than a few dozen values.

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, MetricFamily};
use prometheus::{IntGauge, Opts, Registry, TextEncoder};
use rustix::time::{ClockId, clock_gettime};

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
        metrics.register(Process(ProcessCollector::for_self()))?;
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

/// The metrics of the process, with its CPU time in full: the library's own has whole seconds, and a rate
/// over a minute would be jagged.
struct Process(ProcessCollector);

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.collect();
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        let family = families
            .iter_mut()
            .find(|family| family.name() == "process_cpu_seconds_total");
        for metric in family.into_iter().flat_map(MetricFamily::mut_metric) {
            let mut counter = Counter::default();
            counter.set_value(seconds);
            metric.set_counter(counter);
        }
        families
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
        let value = |text: &str, name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim_start().parse().unwrap()
        };
        assert!(value(&text, "process_resident_memory_bytes ") > 0.0);
        assert!(value(&text, "process_open_fds ") >= 3.0);
        let cpu = value(&text, "process_cpu_seconds_total ");
        assert!(cpu > 0.0 && cpu.fract() > 0.0, "whole seconds: {cpu}");
        assert!(value(&metrics.render(), "process_cpu_seconds_total ") > cpu);
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
