//! What a server says of all events that came in: each is rejected, settled, in flight or waits in the
//! spool, and nothing is missing or there twice.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context, bail};

use crate::{DEADLINE, server::Server};

/// The metrics of one server that are whole numbers, summed by name.
#[derive(Debug)]
pub struct Ledger {
    sums: BTreeMap<String, i64>,
    outcomes: BTreeMap<String, i64>,
}

const SETTLED: &str = "catchall_store_events_total";

impl Ledger {
    /// As it is now.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn of(server: &Server) -> anyhow::Result<Self> {
        let mut connection = server.connect().await;
        let answer = connection.try_get("/metrics", "").await?;
        let mut ledger = Self {
            sums: BTreeMap::new(),
            outcomes: BTreeMap::new(),
        };
        for line in answer.text().lines() {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            // What has fractions is no count of events.
            let Ok(value) = value.parse::<i64>() else {
                continue;
            };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            *ledger.sums.entry(name.to_owned()).or_default() += value;
            if let (SETTLED, Some(outcome)) = (name, labels.split('"').nth(1)) {
                ledger.outcomes.insert(outcome.to_owned(), value);
            }
        }
        Ok(ledger)
    }

    /// Once nothing moves.
    ///
    /// # Errors
    /// When something moves for too long.
    pub async fn at_rest(server: &Server) -> anyhow::Result<Self> {
        let began = Instant::now();
        loop {
            let ledger = Self::of(server).await?;
            // The one that asks is being answered.
            let active = ledger.sum("http_server_active_requests")?;
            let in_flight = ledger.sum("catchall_events_in_flight")?;
            if active == 1 && in_flight == 0 {
                return Ok(ledger);
            }
            if began.elapsed() > DEADLINE {
                bail!("{active} requests are being answered, {in_flight} events are in flight");
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// The sum over all series of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn sum(&self, name: &str) -> anyhow::Result<i64> {
        let sum = self.sums.get(name).copied();
        sum.with_context(|| format!("no {name} in {:#?}", self.sums))
    }

    /// How many events the store settled so.
    pub fn settled(&self, outcome: &str) -> i64 {
        self.outcomes.get(outcome).copied().unwrap_or(0)
    }

    /// How many events are missing, or there twice when it is negative: as the rule for Prometheus
    /// has it, the spool by itself, and against what clients were told.
    ///
    /// # Errors
    /// When a metric is not there.
    pub fn imbalances(&self) -> anyhow::Result<[i64; 3]> {
        let sum = |name| self.sum(name);
        let received = sum("catchall_events_received_total")?;
        let recovered = sum("catchall_spool_recovered_events_total")?;
        let waiting = sum("catchall_spool_events")?;
        let all = received + recovered
            - sum("catchall_events_rejected_total")?
            - sum(SETTLED)?
            - sum("catchall_events_in_flight")?
            - waiting;
        let spooled = match sum("catchall_spooled_events_total") {
            Ok(spooled) => {
                spooled + recovered - sum("catchall_spool_drained_events_total")? - waiting
            }
            // There is no spool.
            Err(_) => 0,
        };
        Ok([all, spooled, received - sum("catchall_events_total")?])
    }
}
