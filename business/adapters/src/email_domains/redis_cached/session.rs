//! Redis while it works: a session. The link says whether there is one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use business::email_domains::{model::DomainName, ports::StoreId};
use deadpool_redis::{
    Connection, PoolError,
    redis::{Pipeline, RedisError, aio::MultiplexedConnection, cmd},
};
use prometheus::IntGauge;
use tokio::{sync::watch, time::timeout};

use super::entry::Entry;

/// All keys begin with it, then come the store's id and the domain.
const PREFIX: &str = "catchall";

/// Connections that work, and which store's entries are read and written over them.
///
/// The pool lends a connection to one caller at a time and checks it with a PING on each loan,
/// which would double every read's way to Redis. So a session borrows its connections once, for
/// as long as it lasts, and shares them: each sends what its callers ask at once, in one stream.
pub(super) struct Session {
    connections: Vec<Connection>,
    turn: AtomicUsize,
    /// `catchall:{store id}:`, so that no store meets the entries of another.
    key_prefix: String,
    deadline: Duration,
}

/// What is to be done in Redis, in the order it is asked for.
pub(super) enum Order {
    /// Keep what a read found.
    Keep(DomainName, Entry),
    /// Drop what a commit touched.
    Drop(DomainName),
}

/// Why a session ended, or could not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Connect(#[from] PoolError),
    #[error("the store does not say which one it is")]
    StoreUnknown,
}

impl Session {
    pub(super) fn new(connections: Vec<Connection>, store: StoreId, deadline: Duration) -> Self {
        let key_prefix = format!("{PREFIX}:{:032x}:", store.0);
        Self {
            connections,
            turn: AtomicUsize::new(0),
            key_prefix,
            deadline,
        }
    }

    /// What lies under these domains, in their order.
    pub(super) async fn fetch(
        &self,
        domains: &[DomainName],
    ) -> Result<Vec<Option<Vec<u8>>>, Failure> {
        let mut mget = cmd("MGET");
        for domain in domains {
            mget.arg(self.key(domain));
        }
        let mut connection = self.connection();
        within(self.deadline, mget.query_async(&mut connection)).await
    }

    /// Carries out these orders, one after the other, in one round trip.
    pub(super) async fn carry_out(
        &self,
        orders: &[Order],
        now_ms: u64,
        ttl_ms: u64,
    ) -> Result<(), Failure> {
        let mut pipeline = Pipeline::new();
        for run in orders.chunk_by(|a, b| matches!((a, b), (Order::Drop(_), Order::Drop(_)))) {
            if let [Order::Keep(domain, entry)] = run {
                let left_ms = ttl_ms.saturating_sub(now_ms.saturating_sub(entry.read_at_ms));
                if left_ms > 0 {
                    let value = entry.encode(domain);
                    let set = pipeline.cmd("SET").arg(self.key(domain)).arg(&value[..]);
                    set.arg("PX").arg(left_ms).ignore();
                }
                continue;
            }
            let del = pipeline.cmd("DEL").ignore();
            for order in run {
                if let Order::Drop(domain) = order {
                    del.arg(self.key(domain));
                }
            }
        }
        if pipeline.is_empty() {
            return Ok(());
        }
        let mut connection = self.connection();
        within(self.deadline, pipeline.exec_async(&mut connection)).await
    }

    fn key(&self, domain: &DomainName) -> String {
        [&self.key_prefix, domain.as_str()].concat()
    }

    fn connection(&self) -> MultiplexedConnection {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        MultiplexedConnection::clone(&self.connections[turn])
    }
}

/// The answer, if it comes in time.
pub(super) async fn within<T, E: Into<Failure>>(
    deadline: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    match timeout(deadline, answer).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(Failure::Deadline(deadline)),
    }
}

/// Where the session is found, if there is one.
pub(super) struct Link {
    session: watch::Sender<Option<Arc<Session>>>,
    up: IntGauge,
}

impl Link {
    pub(super) fn down(up: IntGauge) -> Self {
        Self {
            session: watch::Sender::new(None),
            up,
        }
    }

    /// The session that may be used now.
    pub(super) fn session(&self) -> Option<Arc<Session>> {
        self.session.borrow().clone()
    }

    pub(super) fn is_up(&self) -> bool {
        self.session.borrow().is_some()
    }

    pub(super) fn begin(&self, session: Arc<Session>) {
        self.session.send_replace(Some(session));
        self.up.set(1);
        tracing::info!("Redis answers: reads are cached");
    }

    /// Nobody uses this session any more. Those who wait in it still have their own deadlines.
    pub(super) fn end(&self, session: &Arc<Session>, failure: &Failure) {
        let ended = self.session.send_if_modified(|current| {
            let is_current = current.as_ref().is_some_and(|it| Arc::ptr_eq(it, session));
            if is_current {
                *current = None;
                self.up.set(0);
            }
            is_current
        });
        if ended {
            tracing::warn!(error = %failure, "Redis failed: reads go to the store");
        }
    }

    /// Returns once there is no session.
    pub(super) async fn ended(&self) {
        // An error says that the sender is gone, which is here.
        let _ = self.session.subscribe().wait_for(Option::is_none).await;
    }
}
