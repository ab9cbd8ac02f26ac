//! The server in numbers, once a second, for whoever watches. The numbers are those of the metrics,
//! and one task takes them for all; while nobody watches there is none.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use actix_web::{
    rt,
    web::{Bytes, Data},
};
use business::{email_domains::verdict::VerdictChange, kernel::UnixSeconds};
use futures_util::{Stream, stream};
use prometheus::proto::{Metric, MetricFamily};
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use utoipa::ToSchema;

use super::dto::{DomainSums, EventSums, Moment, VerdictDto};
use crate::{
    health::{PROBE_TIMEOUT, failed_checks},
    problem::FieldError,
    server::State,
    stream::{Open, event},
};

const EVERY: Duration = Duration::from_secs(1);

/// The numbers that go to all who watch.
pub(crate) struct Live {
    latest: watch::Sender<Option<Bytes>>,
    beats: AtomicBool,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            latest: watch::Sender::new(None),
            beats: AtomicBool::new(false),
        }
    }
}

/// The server at this moment.
#[derive(Serialize, ToSchema)]
#[schema(as = Live)]
pub(crate) struct LiveDto {
    /// When (RFC 3339).
    #[schema(value_type = String, format = DateTime, example = "2026-11-21T10:30:00Z")]
    as_of: Moment,
    #[schema(example = "0.1.0")]
    version: &'static str,
    /// Which store it has.
    #[schema(example = "embedded")]
    store: &'static str,
    #[schema(example = 3600)]
    uptime_s: u64,
    /// The checks of `/readyz` that fail; empty while requests should be sent here.
    not_ready: Vec<FieldError>,
    /// Events are acknowledged that reads may not show, for the store is, or was, away.
    behind: bool,
    /// Over the last second; null in the first message.
    per_s: Option<Rates>,
    /// Of requests that carry events, over the last second; null when there were none. Read from the
    /// buckets of a histogram.
    latency_ms: Option<Latency>,
    queue: QueueDto,
    /// Events that wait in the spool.
    spooled: u64,
    /// Null when the store does not answer.
    domains: Option<DomainSums>,
    /// Ever counted; null when the store does not answer.
    events: Option<EventSums>,
    /// The newest first.
    verdict_changes: Vec<VerdictChangeDto>,
}

/// Events a second by what became of them, and requests of any kind.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, ToSchema)]
struct Rates {
    counted: f64,
    duplicate: f64,
    spooled: f64,
    refused: f64,
    failed: f64,
    requests: f64,
}

/// Milliseconds within which half, and 99 of 100, were answered.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, ToSchema)]
struct Latency {
    p50: f64,
    p99: f64,
}

/// Requests that wait to be written.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, ToSchema)]
#[schema(as = Queue)]
struct QueueDto {
    depth: u64,
    /// 0 when the store writes without one.
    capacity: u64,
}

/// A domain whose verdict changed.
#[derive(Serialize, ToSchema)]
#[schema(as = VerdictChange)]
struct VerdictChangeDto {
    #[schema(value_type = String, format = DateTime, example = "2026-11-21T10:30:00Z")]
    at: Moment,
    #[schema(example = "example.com")]
    domain: String,
    /// The new one.
    verdict: VerdictDto,
}

impl From<(UnixSeconds, VerdictChange)> for VerdictChangeDto {
    fn from((at, change): (UnixSeconds, VerdictChange)) -> Self {
        Self {
            at: Moment(at),
            domain: change.domain.as_str().to_owned(),
            verdict: change.to.into(),
        }
    }
}

/// The metrics at one moment, as far as they are shown.
struct Sample {
    at: Instant,
    /// By outcome.
    events: BTreeMap<String, f64>,
    requests: u64,
    /// Of requests that carry events: upper bound in seconds, and how many took no longer.
    durations: Vec<(f64, u64)>,
    queue: QueueDto,
    spooled: u64,
}

impl Sample {
    fn of(families: &[MetricFamily]) -> Self {
        let mut sample = Self {
            at: Instant::now(),
            events: BTreeMap::new(),
            requests: 0,
            durations: Vec::new(),
            queue: QueueDto::default(),
            spooled: 0,
        };
        let gauge = |metric: &Metric| whole(metric.get_gauge().get_value());
        for family in families {
            let metrics = family.get_metric();
            let sum = || metrics.iter().map(gauge).sum::<u64>();
            match family.name() {
                "catchall_events_total" => {
                    for metric in metrics {
                        let outcome = label(metric, "outcome").to_owned();
                        let events = sample.events.entry(outcome).or_default();
                        *events += metric.get_counter().get_value();
                    }
                }
                "http_server_request_duration_seconds" => {
                    metrics.iter().for_each(|metric| sample.add(metric));
                }
                "catchall_queue_depth" => sample.queue.depth = sum(),
                "catchall_queue_capacity" => sample.queue.capacity = sum(),
                "catchall_spool_events" => sample.spooled = sum(),
                _ => {}
            }
        }
        sample
    }

    /// The requests of one route, method and status.
    fn add(&mut self, metric: &Metric) {
        let histogram = metric.get_histogram();
        self.requests += histogram.get_sample_count();
        let method = label(metric, "http_request_method");
        if !label(metric, "http_route").starts_with("/v1/events")
            || !["PUT", "POST"].contains(&method)
        {
            return;
        }
        let buckets = histogram.get_bucket().iter();
        let bounded = buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
        let all = (f64::INFINITY, histogram.get_sample_count());
        for (n, (bound, count)) in bounded.chain([all]).enumerate() {
            match self.durations.get_mut(n) {
                Some((_, sum)) => *sum += count,
                None => self.durations.push((bound, count)),
            }
        }
    }

    fn rates_since(&self, before: &Self) -> Rates {
        let seconds = self.at.duration_since(before.at).as_secs_f64().max(0.001);
        let rate =
            |now: f64, before: f64| ((now - before).max(0.0) / seconds * 10.0).round() / 10.0;
        let events = |outcome: &str| {
            let of = |sample: &Self| sample.events.get(outcome).copied().unwrap_or(0.0);
            rate(of(self), of(before))
        };
        Rates {
            counted: events("counted"),
            duplicate: events("duplicate"),
            spooled: events("spooled"),
            refused: events("refused"),
            failed: events("failed"),
            requests: rate(self.requests as f64, before.requests as f64),
        }
    }

    fn latency_since(&self, before: &Self) -> Option<Latency> {
        let earlier = |n: usize| before.durations.get(n).map_or(0, |(_, count)| *count);
        let counts = self.durations.iter().enumerate();
        let buckets: Vec<_> = counts
            .map(|(n, (bound, count))| (*bound, count.saturating_sub(earlier(n))))
            .collect();
        Some(Latency {
            p50: quantile(&buckets, 0.5)? * 1e3,
            p99: quantile(&buckets, 0.99)? * 1e3,
        })
    }
}

/// As Prometheus' `histogram_quantile`: within a bucket all lie evenly, and what lies above the last
/// bound is told as that bound.
fn quantile(buckets: &[(f64, u64)], share: f64) -> Option<f64> {
    let all = buckets
        .last()
        .map(|(_, count)| *count)
        .filter(|all| *all > 0)?;
    let rank = share * all as f64;
    let (mut from, mut below) = (0.0, 0);
    for (bound, count) in buckets {
        if *count as f64 >= rank && *count > below {
            if bound.is_infinite() {
                return Some(from);
            }
            let within = (rank - below as f64) / (*count - below) as f64;
            return Some(from + (bound - from) * within);
        }
        (from, below) = (*bound, *count);
    }
    Some(from)
}

fn label<'m>(metric: &'m Metric, name: &str) -> &'m str {
    let mut labels = metric.get_label().iter();
    labels
        .find(|label| label.name() == name)
        .map_or("", |label| label.value())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a gauge of how many there are"
)]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

/// What one who watches gets, until it goes or the server stops. Who reads slowly misses some.
pub(super) fn watch(state: Data<State>, open: Open) -> impl Stream<Item = Bytes> + use<> {
    let mut latest = state.live.latest.subscribe();
    // What others were told last.
    latest.mark_changed();
    stream::unfold(
        (state, latest, open),
        |(state, mut latest, open)| async move {
            loop {
                if state.readiness.is_draining() {
                    return None;
                }
                // Each time: the last who watched may have been about to end it.
                if !state.live.beats.swap(true, Ordering::AcqRel) {
                    rt::spawn(beat(state.clone()));
                }
                // A store that is slow to answer holds the numbers up.
                match timeout(EVERY, latest.changed()).await {
                    Err(_) => continue,
                    Ok(Err(_)) => return None,
                    Ok(Ok(())) => {}
                }
                let numbers = latest.borrow_and_update().clone();
                if let Some(numbers) = numbers {
                    return Some((numbers, (state, latest, open)));
                }
            }
        },
    )
}

/// Takes the numbers, as long as anybody watches.
async fn beat(state: Data<State>) {
    let beats = Beats(state);
    let state = &beats.0;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = None;
    loop {
        ticks.tick().await;
        if state.live.latest.receiver_count() == 0 || state.readiness.is_draining() {
            return;
        }
        let now = Sample::of(&state.metrics.registry().gather());
        let numbers = numbers(state, &now, before.as_ref()).await;
        state
            .live
            .latest
            .send_replace(Some(event("stats", &numbers)));
        before = Some(now);
    }
}

/// The task that takes the numbers. Once it is gone, the next who comes starts another.
struct Beats(Data<State>);

impl Drop for Beats {
    fn drop(&mut self) {
        self.0.live.latest.send_replace(None);
        self.0.live.beats.store(false, Ordering::Release);
    }
}

async fn numbers(state: &State, now: &Sample, before: Option<&Sample>) -> LiveDto {
    let store = &state.email_domains;
    let totals = timeout(PROBE_TIMEOUT, store.totals());
    let ((not_ready, _), totals) = tokio::join!(failed_checks(state), totals);
    let totals = totals.ok().and_then(Result::ok);
    LiveDto {
        as_of: Moment(store.now()),
        version: env!("CARGO_PKG_VERSION"),
        store: state.store_name,
        uptime_s: state.started.elapsed().as_secs(),
        not_ready,
        behind: store.behind_s().is_some(),
        per_s: before.map(|before| now.rates_since(before)),
        latency_ms: before.and_then(|before| now.latency_since(before)),
        queue: now.queue,
        spooled: now.spooled,
        domains: totals.map(DomainSums::from),
        events: totals.map(EventSums::from),
        verdict_changes: store
            .verdict_changes()
            .into_iter()
            .map(Into::into)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

    use super::*;

    #[test]
    fn a_quantile_lies_in_its_bucket() {
        let buckets = [(0.001, 50), (0.01, 99), (0.1, 100), (f64::INFINITY, 100)];
        for (share, expected) in [(0.25, 0.0005), (0.5, 0.001), (0.99, 0.01), (1.0, 0.1)] {
            let found = quantile(&buckets, share).unwrap();
            assert!((found - expected).abs() < 1e-9, "{share}: {found}");
        }
        assert_eq!(
            quantile(&[(0.001, 0), (f64::INFINITY, 3)], 0.5),
            Some(0.001)
        );
        assert_eq!(quantile(&[(0.001, 0)], 0.5), None);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn rates_and_latencies_are_those_since_the_last_look() {
        let registry = Registry::new();
        let events = Opts::new("catchall_events_total", "-");
        let events = IntCounterVec::new(events, &["kind", "outcome"]).unwrap();
        let depth = Opts::new("catchall_queue_depth", "-");
        let depth = IntGaugeVec::new(depth, &["committer"]).unwrap();
        let labels = [
            "http_request_method",
            "http_route",
            "http_response_status_code",
        ];
        let duration = HistogramOpts::new("http_server_request_duration_seconds", "-");
        let duration = HistogramVec::new(duration.buckets(vec![0.001, 0.01]), &labels).unwrap();
        registry.register(Box::new(events.clone())).unwrap();
        registry.register(Box::new(depth.clone())).unwrap();
        registry.register(Box::new(duration.clone())).unwrap();
        let count =
            |kind: &str, outcome: &str, n| events.with_label_values(&[kind, outcome]).inc_by(n);
        let observe = |method: &str, route: &str, seconds| {
            duration
                .with_label_values(&[method, route, "204"])
                .observe(seconds);
        };
        count("delivered", "counted", 1_000_000);
        observe("PUT", "/v1/events/{domain}/delivered", 0.005);
        let before = Sample::of(&registry.gather());
        count("delivered", "counted", 300);
        count("bounced", "counted", 100);
        count("bounced", "failed", 7);
        observe("PUT", "/v1/events/{domain}/delivered", 0.0005);
        observe("GET", "/v1/domain/{domain}", 0.009);
        depth.with_label_values(&["0"]).set(3);
        depth.with_label_values(&["1"]).set(4);
        let mut now = Sample::of(&registry.gather());
        now.at = before.at + Duration::from_secs(2);
        assert_eq!(
            now.rates_since(&before),
            Rates {
                counted: 200.0,
                failed: 3.5,
                requests: 1.0,
                ..Rates::default()
            }
        );
        let latency = now.latency_since(&before).unwrap();
        assert!(
            latency.p99 <= 1.0 && latency.p50 <= latency.p99,
            "{latency:?}"
        );
        assert_eq!(now.latency_since(&now), None);
        observe("PUT", "/v1/events/{domain}/bounced", 20.0);
        let slow = Sample::of(&registry.gather()).latency_since(&now).unwrap();
        assert!((slow.p50 - 10.0).abs() < 1e-9, "{slow:?}");
        assert_eq!((now.queue.depth, now.queue.capacity), (7, 0));
    }
}
