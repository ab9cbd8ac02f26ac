//! A clock that was set back.

use std::{num::NonZeroU32, path::Path, sync::Arc};

use adapters::{
    SystemClock,
    email_domains::{
        Embedded, MarkLimits,
        embedded::{EmbeddedOptions, disk::Directory},
    },
};
use business::{
    email_domains::{
        model::{Changes, DomainName, EventKind, Group, Member},
        ports::DomainTallies,
        verdict::VerdictPolicy,
    },
    kernel::{Clock, UnixSeconds},
};
use foundation::{supervision::Shutdown, telemetry::Metrics, testing::Postgres};

use crate::support::{Kind, Setup};

#[tokio::test]
async fn a_clock_behind_the_newest_record_is_told_and_can_be_overruled() {
    let folder = tempfile::tempdir().unwrap();
    record_tomorrow(folder.path()).await;
    let setup = Setup::embedded(folder.path());
    let reason = setup.refused();
    for part in ["the clock is 86", "store.max_clock_lag_s"] {
        assert!(reason.contains(part), "{reason}");
    }
    let server = setup.set("store.max_clock_lag_s", 100_000).start();
    let told = server.json("/v1/domains/a.example").await;
    assert_eq!(told["delivered"], 1);
    server.stop();
}

#[tokio::test]
async fn in_postgres_it_is_compared_with_the_last_group_of_any_server() {
    let url = Postgres::shared().create_database();
    let setup = Setup::postgres(&url);
    let server = setup.start();
    let mut connection = server.connect().await;
    let answer = connection.put("a.example", Kind::Delivered).await;
    assert_eq!(answer.unwrap().status, 204);
    server.stop();
    setup.start().stop();
    let tomorrow = "UPDATE writers SET recorded_at = recorded_at + 86400";
    Postgres::shared().query(&url, tomorrow);
    let reason = setup.refused();
    for part in ["the clock is 86", "store.max_clock_lag_s"] {
        assert!(reason.contains(part), "{reason}");
    }
    setup.set("store.max_clock_lag_s", 100_000).start().stop();
}

/// As a server does whose clock is a day ahead.
async fn record_tomorrow(folder: &Path) {
    let options = EmbeddedOptions {
        segment_bytes: 1 << 16,
        snapshot_after_bytes: 1 << 20,
        marks: MarkLimits {
            window_s: NonZeroU32::MIN,
            max_count: NonZeroU32::MIN,
        },
        min_free_bytes: 0,
    };
    let (store, _) = Embedded::open(
        Arc::new(Directory::new(folder).unwrap()),
        options,
        VerdictPolicy::default(),
        &Shutdown::new(),
        Metrics::new().unwrap().registry(),
    )
    .unwrap();
    let name = DomainName::parse("a.example").unwrap();
    let member = Member {
        mark: None,
        changes: Changes::event(name, EventKind::Delivered),
    };
    let group = Group {
        id: None,
        formed_at: UnixSeconds::from(SystemClock.now().get() + 86_400),
        members: [Arc::new(member)].into_iter().collect(),
    };
    store.record(&group).await.unwrap();
}
