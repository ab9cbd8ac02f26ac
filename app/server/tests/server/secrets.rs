//! Passwords are never printed: not in the log, however much it tells, and not in a refusal.

use foundation::testing::{Postgres, Redis};

use crate::support::{Kind, Setup};

const SECRET: &str = "hunter2-Secret";

#[track_caller]
fn assert_hidden(said: &str) {
    assert!(!said.contains(SECRET), "{said}");
}

/// With a password in the URL, which is what the server that trusts everybody ignores.
fn with_password(url: &str, user: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let rest = rest.split_once('@').map_or(rest, |(_, rest)| rest);
    format!("{scheme}://{user}:{SECRET}@{rest}")
}

#[tokio::test]
async fn a_server_that_tells_all_does_not_tell_them() {
    let database = with_password(&Postgres::shared().create_database(), "postgres");
    // Redis refuses it, as it has no passwords.
    let cache = with_password(&Redis::shared().url(), "");
    let setup = Setup::postgres(&database).cached(&cache);
    let server = setup.set("telemetry.logs.filter", "trace").start();
    let mut connection = server.connect().await;
    let answer = connection.put("a.example", Kind::Delivered).await.unwrap();
    assert_eq!(answer.status, 204);
    assert_eq!(server.json("/v1/domain/a.example").await, "unknown");
    assert_hidden(&server.metrics().await);
    let log = server.stop();
    let tried = log.iter().any(|line| line.contains("Redis is away"));
    assert!(tried, "{log:#?}");
    assert_hidden(&log.join("\n"));
}

#[test]
fn a_refusal_does_not_tell_them() {
    let impatient = |url: &str| {
        Setup::postgres(url)
            .set("telemetry.logs.filter", "trace")
            .set("store.postgres.migrate_at_start", false)
            .set("store.postgres.connect_timeout_ms", 200)
    };
    for url in [
        "postgres://user:SECRET@127.0.0.1:1/database",
        "postgres://user:SECRET@127.0.0.1:1/database?sslmode=sometimes",
        "postgres://user:SECRET@127.0.0.1:port/database",
        "postgres://user:SECRET@[127.0.0.1/database",
        "postgres://user:SECRET@no such host/database",
        "SECRET",
    ] {
        assert_hidden(&impatient(&url.replace("SECRET", SECRET)).refused());
    }
    for url in [
        "redis://:SECRET@127.0.0.1:port/",
        "redis://:SECRET@127.0.0.1:1/database",
        "http://:SECRET@127.0.0.1/",
        "SECRET",
    ] {
        let url = url.replace("SECRET", SECRET);
        assert_hidden(&Setup::memory().cached(&url).refused());
    }
}

/// In a place where it cannot be taken for what it is.
#[test]
fn a_secret_in_the_wrong_place_is_not_told_either() {
    for key in [
        "verdict.threshold",
        "listen",
        "cache.ttl_ms",
        "http.workers",
    ] {
        let reason = Setup::memory().set(key, SECRET).refused();
        assert_hidden(&reason);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("catchall.toml");
    std::fs::write(&file, format!("[store.postgres]\nurl = {SECRET}\n")).unwrap();
    let refusal = Setup::memory().run(&["serve", "--config", file.to_str().unwrap()]);
    assert_hidden(&refusal.reason());
}

#[test]
fn a_mounted_secret_is_read_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    let url = with_password(&Postgres::shared().create_database(), "postgres");
    std::fs::write(&file, format!("{url}\n")).unwrap();
    let setup = Setup::memory().set("store.kind", "postgres");
    let log = setup
        .set("store.postgres.url_file", file.display())
        .start()
        .stop();
    assert_hidden(&log.join("\n"));
}
