use prometheus::{
    IntGauge, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
    register_int_gauge_with_registry,
};
use sqlx::PgPool;

/// The connections for reads, looked at when somebody asks.
struct ReadPool {
    pool: PgPool,
    open: IntGauge,
    busy: IntGauge,
}

/// Shows the connections for reads in this registry.
///
/// # Errors
/// When they are there already.
pub(super) fn register(pool: &PgPool, registry: &Registry) -> prometheus::Result<()> {
    let limit = register_int_gauge_with_registry!(
        "catchall_postgres_read_connections_limit",
        "Connections to PostgreSQL for reads that there may be; with all busy, reads wait.",
        registry
    )?;
    limit.set(pool.options().get_max_connections().into());
    registry.register(Box::new(ReadPool {
        pool: pool.clone(),
        open: IntGauge::new(
            "catchall_postgres_read_connections",
            "Connections to PostgreSQL for reads that are open, or being opened.",
        )?,
        busy: IntGauge::new(
            "catchall_postgres_read_connections_busy",
            "Connections to PostgreSQL for reads that are in use, or being opened.",
        )?,
    }))
}

impl Collector for ReadPool {
    fn desc(&self) -> Vec<&Desc> {
        [&self.open, &self.busy]
            .into_iter()
            .flat_map(Collector::desc)
            .collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let open = i64::from(self.pool.size());
        let idle = i64::try_from(self.pool.num_idle()).unwrap_or(i64::MAX);
        self.open.set(open);
        // One may have become idle since.
        self.busy.set(open.saturating_sub(idle).max(0));
        [&self.open, &self.busy]
            .into_iter()
            .flat_map(Collector::collect)
            .collect()
    }
}
