//! What one run yields, and how many become one figure.

use std::time::Duration;

/// Milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Latency {
    /// Of what took so many milliseconds each.
    pub(crate) fn of(ms: &mut [f64]) -> Self {
        Self {
            p50: percentile(ms, 0.5),
            p95: percentile(ms, 0.95),
            p99: percentile(ms, 0.99),
            max: percentile(ms, 1.0),
        }
    }
}

/// One run, seen from the client.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    /// Events or requests that were answered 2xx.
    pub(crate) done: u64,
    pub(crate) elapsed: Duration,
    pub(crate) latency: Latency,
}

impl Run {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(crate) fn rate(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64()
    }
}

/// One run, with what it cost the server.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) run: Run,
    pub(crate) cpu_s_per_million: Option<f64>,
    pub(crate) peak_mib: Option<f64>,
}

/// The figure that a share of all does not exceed. Sorts them.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a length is one"
)]
pub(crate) fn percentile(figures: &mut [f64], share: f64) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    let rank = (figures.len() as f64 * share).ceil() as usize;
    figures
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    percentile(&mut figures.into_iter().collect::<Vec<_>>(), 0.5)
}
