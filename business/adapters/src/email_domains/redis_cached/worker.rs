use std::{
    mem,
    sync::{Arc, Weak},
    time::Duration,
};

use business::email_domains::ports::DomainTallies;
use deadpool_redis::Pool;
use foundation::supervision::Heart;
use tokio::{
    sync::{Mutex, mpsc},
    time::{sleep, timeout},
};

use super::{
    MillisClock,
    metrics::Metrics,
    session::{Failure, Link, Order, Session, within},
};

/// The most orders carried out in one round trip.
const MAX_BATCH: usize = 512;

/// The task that alone connects to Redis and writes to it. It ends with the policy, whose end of
/// the queue it reads.
pub(super) struct Worker {
    /// Asked for its id. Not held: a store that is closed has to be gone.
    pub(super) store: Weak<dyn DomainTallies>,
    pub(super) pool: Pool,
    pub(super) link: Arc<Link>,
    pub(super) orders: Mutex<mpsc::Receiver<Order>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: MillisClock,
    pub(super) ttl_ms: u64,
    pub(super) deadline: Duration,
    pub(super) retry_after: Duration,
}

impl Worker {
    pub(super) async fn run(self: Arc<Self>, heart: Heart) {
        let mut orders = self.orders.lock().await;
        let mut failed_before = false;
        loop {
            heart.beats();
            match self.connect().await {
                Ok(session) => {
                    let session = Arc::new(session);
                    self.link.begin(Arc::clone(&session));
                    self.serve(&mut orders, &session, &heart).await;
                    failed_before = true;
                }
                Err(failure) if !mem::replace(&mut failed_before, true) => {
                    tracing::warn!(error = %failure, "Redis is away: reads go to the store");
                }
                Err(failure) => tracing::debug!(error = %failure, "Redis is still away"),
            }
            if orders.is_closed() {
                return;
            }
            heart.rests();
            sleep(self.retry_after).await;
        }
    }

    /// A session on connections that answered just now.
    async fn connect(&self) -> Result<Session, Failure> {
        let store = self.store.upgrade().ok_or(Failure::StoreUnknown)?;
        let probe = timeout(self.retry_after, store.probe()).await;
        drop(store);
        let Ok(Ok(probe)) = probe else {
            return Err(Failure::StoreUnknown);
        };
        let borrowed = within(self.deadline, async {
            let mut borrowed = Vec::new();
            while borrowed.len() < self.pool.status().max_size {
                borrowed.push(self.pool.get().await?);
            }
            Ok::<_, Failure>(borrowed)
        });
        Ok(Session::new(borrowed.await?, probe.store, self.deadline))
    }

    /// Carries out what is ordered, until the session or the policy ends.
    async fn serve(
        &self,
        orders: &mut mpsc::Receiver<Order>,
        session: &Arc<Session>,
        heart: &Heart,
    ) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            batch.clear();
            heart.rests();
            tokio::select! {
                () = self.link.ended() => return,
                received = orders.recv_many(&mut batch, MAX_BATCH) => {
                    if received == 0 {
                        return;
                    }
                }
            }
            heart.beats();
            let now_ms = (self.clock)();
            if let Err(failure) = session.carry_out(&batch, now_ms, self.ttl_ms).await {
                let dropped = batch.iter().filter(|order| matches!(order, Order::Drop(_)));
                self.metrics
                    .invalidations_dropped
                    .inc_by(dropped.count() as u64);
                self.link.end(session, &failure);
            }
        }
    }
}
