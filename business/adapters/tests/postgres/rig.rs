//! Databases, sessions and groups for the tests.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use adapters::email_domains::{MarkLimits, Postgres, PostgresOptions, postgres};
use business::{
    email_domains::{
        model::{Changes, DomainName, Group, GroupId, Key, Mark, Member, WriterId},
        ports::{DomainTallies, Freshness, Recorded, Totals},
    },
    kernel::{PortError, UnixSeconds},
};
use conformance::email_domains::{POLICY, WINDOW_S};
use foundation::testing;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinHandle;

/// For a connection, when many tests run.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A database that is migrated and empty.
pub(crate) fn database(server: &testing::Postgres) -> impl Future<Output = String> + use<> {
    let url = server.create_database();
    async move {
        postgres::migrate(&url.as_str().into(), POLICY, PATIENCE)
            .await
            .unwrap();
        url
    }
}

/// Impatient in nothing, and with room for the suite's 64 writers to meet.
pub(crate) fn options(url: &str) -> PostgresOptions {
    PostgresOptions {
        max_write_connections: 16.try_into().unwrap(),
        connect_timeout: Duration::from_secs(60),
        read_timeout: Duration::from_secs(60),
        write_timeout: Duration::from_secs(60),
        lock_timeout: Duration::from_secs(60),
        url: url.into(),
        max_read_connections: 4.try_into().unwrap(),
        marks: MarkLimits {
            window_s: WINDOW_S,
            max_count: NonZeroU32::MAX,
        },
    }
}

pub(crate) async fn connect(options: PostgresOptions) -> Arc<Postgres> {
    Arc::new(Postgres::connect(options, POLICY).await.unwrap())
}

/// A session beside the store's.
pub(crate) async fn session(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

/// Each a domain, deliveries and bounces.
pub(crate) type Changed<'a> = &'a [(&'a str, u32, u32)];

pub(crate) fn member(mark: Option<(u128, u64)>, changed: Changed<'_>) -> Arc<Member> {
    let mut changes = Changes::default();
    for (domain, delivered, bounced) in changed {
        changes.push(name(domain).borrowed(), *delivered, *bounced);
    }
    let mark = mark.map(|(hash, fingerprint)| Mark {
        key: Key {
            hash,
            stamped_at: None,
        },
        fingerprint,
    });
    Arc::new(Member { mark, changes })
}

pub(crate) fn group(
    writer: u128,
    sequence: u64,
    members: impl IntoIterator<Item = Arc<Member>>,
) -> Group {
    Group {
        id: Some(GroupId {
            writer: WriterId(writer),
            sequence,
        }),
        formed_at: UnixSeconds::from(1_800_000_000),
        members: members.into_iter().collect(),
    }
}

pub(crate) fn name(domain: &str) -> DomainName {
    DomainName::parse(domain).unwrap()
}

/// Delivered and bounced.
pub(crate) async fn counts(store: &Postgres, domain: &str) -> (u64, u64) {
    let tallies = store.get(&[name(domain)], Freshness::Latest).await.unwrap();
    (tallies[0].delivered, tallies[0].bounced)
}

/// Records a group in a task of its own.
pub(crate) fn spawn_record(
    store: &Arc<Postgres>,
    group: &Group,
) -> JoinHandle<Result<Recorded, PortError>> {
    let (store, group) = (Arc::clone(store), group.clone());
    tokio::spawn(async move { store.record(&group).await })
}

/// Waits until a session of the store waits for a lock in this database, and gives its process id.
pub(crate) async fn blocked(url: &str) -> i32 {
    // Not in the transaction of whoever holds the lock: there the list of sessions never changes.
    let mut session = session(url).await;
    let mut pid = None;
    eventually("somebody waits for a lock", async || {
        pid = sqlx::query_scalar(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'
             AND datname = current_database() AND application_name = 'catchall'",
        )
        .fetch_optional(&mut session)
        .await
        .unwrap();
        pid.is_some()
    })
    .await;
    pid.unwrap()
}

/// The totals, counted from the rows.
pub(crate) async fn recounted(session: &mut PgConnection) -> Totals {
    let (delivered, bounced, domains, catch_all, not_catch_all): (i64, i64, i64, i64, i64) =
        sqlx::query_as(
            "SELECT coalesce(sum(delivered), 0)::bigint, coalesce(sum(bounced), 0)::bigint,
                 count(*), count(*) FILTER (WHERE bounced = 0 AND delivered >= threshold),
                 count(*) FILTER (WHERE bounced > 0)
             FROM domain_tallies CROSS JOIN store",
        )
        .fetch_one(session)
        .await
        .unwrap();
    let [delivered, bounced, domains, catch_all, not_catch_all] =
        [delivered, bounced, domains, catch_all, not_catch_all].map(|n| u64::try_from(n).unwrap());
    Totals {
        delivered,
        bounced,
        domains,
        catch_all,
        not_catch_all,
    }
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "waited in vain: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
