use prometheus::{
    IntCounter, IntGauge, Registry, register_int_counter_with_registry,
    register_int_gauge_with_registry,
};

/// What the shadow tells of itself.
pub(super) struct Metrics {
    pub(super) compared: IntCounter,
    pub(super) differences: IntCounter,
    pub(super) in_step: IntGauge,
    pub(super) queue_depth: IntGauge,
}

impl Metrics {
    pub(super) fn register(registry: &Registry, queue_capacity: u32) -> prometheus::Result<Self> {
        let capacity = register_int_gauge_with_registry!(
            "catchall_shadow_queue_capacity",
            "Events that may wait for the shadow; with more, it is out of step.",
            registry
        )?;
        capacity.set(queue_capacity.into());
        Ok(Self {
            compared: register_int_counter_with_registry!(
                "catchall_shadow_compared_total",
                "Domains that were read from the primary and the shadow, and compared.",
                registry
            )?,
            differences: register_int_counter_with_registry!(
                "catchall_shadow_differences_total",
                "Of these, the ones of which the two told different things.",
                registry
            )?,
            in_step: register_int_gauge_with_registry!(
                "catchall_shadow_in_step",
                "1 while the shadow gets all that the primary counts, and is compared; else 0.",
                registry
            )?,
            queue_depth: register_int_gauge_with_registry!(
                "catchall_shadow_queue_depth",
                "Events that wait for the shadow.",
                registry
            )?,
        })
    }
}
