use std::time::Duration;

use foundation::telemetry::metrics::DURATION_SECONDS;
use prometheus::{
    Histogram, HistogramTimer, IntCounter, IntGauge, Registry, register_histogram_with_registry,
    register_int_counter_with_registry, register_int_gauge_with_registry,
};

use super::writer::Writer;

pub(super) struct Metrics {
    appended_bytes: IntCounter,
    append_seconds: Histogram,
    journal_bytes: IntGauge,
    segments: IntGauge,
    snapshot_bytes: IntGauge,
    snapshot_seconds: Histogram,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            appended_bytes: register_int_counter_with_registry!(
                "catchall_journal_appended_bytes_total",
                "Bytes appended to the journal and synced.",
                registry
            )?,
            append_seconds: register_histogram_with_registry!(
                "catchall_journal_append_seconds",
                "How long it takes to append one record to the journal and sync it.",
                DURATION_SECONDS.to_vec(),
                registry
            )?,
            journal_bytes: register_int_gauge_with_registry!(
                "catchall_journal_bytes",
                "Length of the records in the journal that no snapshot covers yet.",
                registry
            )?,
            segments: register_int_gauge_with_registry!(
                "catchall_journal_segments",
                "Segments of the journal that no snapshot covers yet.",
                registry
            )?,
            snapshot_bytes: register_int_gauge_with_registry!(
                "catchall_snapshot_bytes",
                "Length of the last snapshot.",
                registry
            )?,
            snapshot_seconds: register_histogram_with_registry!(
                "catchall_snapshot_seconds",
                "How long it takes to write a snapshot.",
                vec![0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0],
                registry
            )?,
        })
    }

    pub(super) fn appended(&self, bytes: usize, took: Duration) {
        self.appended_bytes.inc_by(bytes as u64);
        self.append_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn sized(&self, writer: &Writer) {
        self.journal_bytes.set(writer.journal_bytes().cast_signed());
        self.segments
            .set((writer.full.len() as u64 + 1).cast_signed());
        self.snapshot_bytes.set(writer.snapshot_bytes.cast_signed());
    }

    pub(super) fn snapshot_timer(&self) -> HistogramTimer {
        self.snapshot_seconds.start_timer()
    }
}
