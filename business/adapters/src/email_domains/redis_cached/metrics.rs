use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// What the cache tells of itself.
pub(super) struct Metrics {
    pub(super) hits: IntCounter,
    pub(super) misses: IntCounter,
    pub(super) bypasses: IntCounter,
    pub(super) errors: IntCounter,
    pub(super) invalidations_dropped: IntCounter,
    /// 1 while Redis is used, 0 while it is left alone.
    pub(super) up: IntGauge,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let requests = IntCounterVec::new(
            Opts::new(
                "catchall_cache_requests_total",
                "Domains read, by what the cache did: hit, miss, bypass (not asked), error.",
            ),
            &["result"],
        )?;
        let invalidations_dropped = IntCounter::new(
            "catchall_cache_invalidations_dropped_total",
            "Domains whose entry was left to expire instead of being dropped after a commit.",
        )?;
        let up = IntGauge::new(
            "catchall_cache_up",
            "Whether the cache is used: 1, or 0 while Redis is away or not known to be back.",
        )?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(invalidations_dropped.clone()))?;
        registry.register(Box::new(up.clone()))?;
        Ok(Self {
            hits: requests.with_label_values(&["hit"]),
            misses: requests.with_label_values(&["miss"]),
            bypasses: requests.with_label_values(&["bypass"]),
            errors: requests.with_label_values(&["error"]),
            invalidations_dropped,
            up,
        })
    }
}
