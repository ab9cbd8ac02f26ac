//! The connections that write. They are not of the pool: a pool hands a connection whose last
//! user was cancelled, half a transaction and all, to the next.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use business::{
    email_domains::model::WriterId,
    kernel::{ErrorKind, PortError},
};
use foundation::planted::planted_bug;
use parking_lot::Mutex;
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::error::connect_error;

/// A connection that lay idle for longer is asked for a sign of life before it is used, so that
/// after a restart of the server the first group finds a new one and not an unknown outcome.
pub(super) const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// One connection a writer. It belongs to the writer's runtime, so no other writer gets it.
pub(super) struct Writers {
    options: PgConnectOptions,
    connect_timeout: Duration,
    /// One for each connection in use; the idle ones fit into what is left.
    permits: Semaphore,
    /// The longest idle first.
    idle: Mutex<VecDeque<Idle>>,
}

struct Idle {
    writer: WriterId,
    since: Instant,
    connection: PgConnection,
}

/// A connection in use. Unless it is [kept](Writers::keep), dropping it closes it, with whatever
/// was under way: so ends every call that fails or is cancelled.
pub(super) struct Lease<'a> {
    pub(super) connection: PgConnection,
    writer: Option<WriterId>,
    _permit: SemaphorePermit<'a>,
}

impl Writers {
    pub(super) fn new(options: PgConnectOptions, max: usize, connect_timeout: Duration) -> Self {
        Self {
            options,
            connect_timeout,
            permits: Semaphore::new(max),
            idle: Mutex::default(),
        }
    }

    /// The writer's connection, or a new one; always a new one for a group of no writer.
    ///
    /// # Errors
    /// `Overloaded` when all are in use for longer than the connect timeout, `Unavailable` when
    /// none can be opened. Nothing was sent that counts.
    pub(super) async fn take(&self, writer: Option<WriterId>) -> Result<Lease<'_>, PortError> {
        let permit = timeout(self.connect_timeout, self.permits.acquire())
            .await
            .map_err(|late| PortError::caused_by(ErrorKind::Overloaded, "connect", late))?
            .map_err(connect_error)?;
        let mut connection = writer.and_then(|writer| self.take_idle(writer));
        if let Some(idle) = &mut connection
            && idle.since.elapsed() > TRUSTED_IDLE
            && !matches!(
                timeout(self.connect_timeout, idle.connection.ping()).await,
                Ok(Ok(()))
            )
        {
            connection = None;
        }
        let connection = match connection {
            Some(idle) => idle.connection,
            None => {
                self.make_room();
                timeout(self.connect_timeout, open(&self.options))
                    .await
                    .map_err(connect_error)?
                    .map_err(connect_error)?
            }
        };
        Ok(Lease {
            connection,
            writer,
            _permit: permit,
        })
    }

    /// Takes back a connection on which everything went well.
    pub(super) fn keep(&self, lease: Lease<'_>) {
        if let Some(writer) = lease.writer {
            self.idle.lock().push_back(Idle {
                writer,
                since: Instant::now(),
                connection: lease.connection,
            });
        }
    }

    fn take_idle(&self, writer: WriterId) -> Option<Idle> {
        let mut idle = self.idle.lock();
        let place = idle.iter().position(|idle| idle.writer == writer)?;
        idle.remove(place)
    }

    /// Closes idle connections, so that with the one about to be opened there are not too many.
    fn make_room(&self) {
        let mut idle = self.idle.lock();
        while idle.len() > self.permits.available_permits() && idle.pop_front().is_some() {}
    }
}

/// Opens a connection on which a commit is durable, also where the server's own setting is not to
/// wait for that.
async fn open(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut connection = options.connect().await?;
    sqlx::query(
        "SELECT set_config('synchronous_commit', 'on', false)
         WHERE current_setting('synchronous_commit') = 'off'",
    )
    .execute(&mut connection)
    .await?;
    if planted_bug("asynchronous-commit") {
        sqlx::query("SET synchronous_commit = off")
            .execute(&mut connection)
            .await?;
    }
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use foundation::testing::Postgres;

    use super::*;

    #[tokio::test]
    async fn a_commit_is_waited_for_whatever_the_database_says() {
        let server = Postgres::shared();
        for (setting, expected) in [("off", "on"), ("local", "local"), ("on", "on")] {
            let url = server.create_database();
            let database = url.rsplit_once('/').unwrap().1;
            let sql = format!("ALTER DATABASE {database} SET synchronous_commit = {setting}");
            server.query(&url, &sql);
            let options = PgConnectOptions::from_str(&url).unwrap();
            let mut connection = open(&options).await.unwrap();
            let found: String = sqlx::query_scalar("SHOW synchronous_commit")
                .fetch_one(&mut connection)
                .await
                .unwrap();
            assert_eq!(found, expected);
        }
    }
}
