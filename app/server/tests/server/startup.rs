//! What is needed to serve, and what is said when it is not there.

use std::{fs, net::TcpListener, path::PathBuf};

use foundation::testing::Postgres;

use crate::support::{Kind, Setup};

#[track_caller]
fn assert_names(reason: &str, parts: &[&str]) {
    for part in parts {
        assert!(reason.contains(part), "{part:?} is not named in: {reason}");
    }
}

#[test]
fn an_unknown_setting_is_named_with_its_place() {
    let reason = Setup::memory().set("store.kidn", "memory").refused();
    assert_names(
        &reason,
        &["CATCHALL__STORE__KIDN", "`store.kidn`", "unknown key"],
    );

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("catchall.toml");
    fs::write(&file, "[http]\nworkerz = 2\n").unwrap();
    let file = file.to_str().unwrap();
    let refusal = Setup::memory().run(&["serve", "--config", file]);
    assert_names(&refusal.reason(), &[file, "`http.workerz`", "unknown key"]);

    let refusal = Setup::memory().run(&["serve", "--config", "/no/such/file"]);
    assert_names(&refusal.reason(), &["/no/such/file", "No such file"]);

    fs::write(file, "[http\n").unwrap();
    let refusal = Setup::memory().run(&["serve", "--config", file]);
    assert_names(&refusal.reason(), &[file]);
}

#[test]
fn a_value_that_does_not_fit_is_named_with_its_place() {
    for (key, value) in [
        ("listen", "somewhere"),
        ("store.kind", "mysql"),
        ("verdict.threshold", "0"),
        ("verdict.threshold", "-1"),
        ("http.max_body_bytes", "much"),
        ("cache.ttl_ms", "0"),
    ] {
        let reason = Setup::memory().set(key, value).refused();
        assert_names(&reason, &[&format!("`{key}`")]);
    }
}

#[test]
fn a_missing_url_is_named_with_the_ways_to_give_it() {
    let setup = Setup::memory().set("store.kind", "postgres");
    for refusal in [setup.run(&["serve"]), setup.run(&["migrate"])] {
        assert_names(&refusal.reason(), &["store.postgres.url", "--database-url"]);
    }
    let reason = Setup::memory().set("cache.kind", "redis").refused();
    assert_names(&reason, &["cache.redis.url", "--redis-url"]);
}

#[test]
fn a_database_has_to_be_migrated_first_if_the_server_may_not_do_it() {
    let url = Postgres::shared().create_database();
    let setup = Setup::postgres(&url).set("store.postgres.migrate_at_start", false);
    assert_names(&setup.refused(), &["catchall migrate"]);

    // Once or often, it is all the same.
    for _ in 0..2 {
        let migrated = setup.run(&["migrate"]);
        assert_eq!(migrated.code, Some(0), "{migrated:?}");
        assert_names(&migrated.stderr, &["the schema is up to date"]);
    }
    setup.start().stop();

    let other = setup.set("verdict.threshold", 7);
    assert_names(&other.refused(), &["1000", "7", "catchall migrate"]);
    assert_eq!(other.run(&["migrate"]).code, Some(0));
    other.start().stop();
}

#[test]
fn a_database_that_cannot_be_reached() {
    // Nobody listens; somebody does, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for address in ["127.0.0.1:1", &silent.local_addr().unwrap().to_string()] {
        let setup = Setup::postgres(&format!("postgres://postgres@{address}/x"))
            .set("store.postgres.migrate_at_start", false)
            .set("store.postgres.connect_timeout_ms", 200);
        assert_names(&setup.refused(), &["PostgreSQL", "unavailable"]);
    }
}

#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let reason = Setup::memory().set("listen", &address).refused();
    assert_names(&reason, &[&address, "Address already in use"]);
}

#[tokio::test]
async fn a_folder_that_another_server_has() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(folder.path());
    let server = setup.start();
    let path = folder.path().to_str().unwrap();
    assert_names(&setup.refused(), &[path, "another process"]);

    // The first one has not suffered, and the next one may have it after a kill too.
    let mut connection = server.connect().await;
    let answer = connection.put("a.example", Kind::Delivered).await.unwrap();
    assert_eq!(answer.status, 204);
    drop(server);
    let server = setup.start();
    let told = server.json("/v1/domains/a.example").await;
    assert_eq!(told["delivered"], 1);
    server.stop();
}

#[test]
fn a_folder_that_cannot_be_made() {
    let reason = Setup::embedded("/proc/no-such-folder".as_ref()).refused();
    assert_names(&reason, &["/proc/no-such-folder"]);
}

#[tokio::test]
async fn syncs_are_slowed_down_when_set_and_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(folder.path());
    let delayed =
        |micros| Setup::embedded(folder.path()).set("store.embedded.added_sync_delay_us", micros);
    let reason = delayed(1_000_001).refused();
    assert_names(&reason, &["added_sync_delay_us", "1000000"]);
    let server = setup.start();
    assert!(!server.log().concat().contains("slowed down"));
    server.stop();

    let server = delayed(20_000).start();
    assert!(server.log().concat().contains("slowed down"));
    let mut connection = server.connect().await;
    let answer = connection.put("a.example", Kind::Delivered).await.unwrap();
    assert_eq!(answer.status, 204);
    let quick = "catchall_journal_append_seconds_bucket{le=\"0.01\"}";
    assert_eq!(server.metric(quick).await, 0, "a sync that was not slowed");
    server.stop();
}

#[tokio::test]
async fn a_journal_that_is_damaged_is_named_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(folder.path());
    let server = setup.start();
    let mut connection = server.connect().await;
    for n in 0..40 {
        let answer = connection
            .put(&format!("d{n}.example"), Kind::Delivered)
            .await;
        assert_eq!(answer.unwrap().status, 204);
    }
    server.stop();

    let journal = longest_journal(folder.path().into());
    let sound = fs::read(&journal).unwrap();
    // Behind the last record stand zeros.
    let middle = sound.iter().rposition(|byte| *byte != 0).unwrap() / 2;
    let mut damaged = sound.clone();
    damaged[middle] ^= 1;
    fs::write(&journal, &damaged).unwrap();
    let reason = setup.refused();
    let name = journal.file_name().unwrap().to_str().unwrap();
    assert_names(&reason, &[name, "corrupt at byte"]);
    // It is where the record with the byte begins; one takes less than 100 bytes here.
    let offset = reason.split("corrupt at byte ").nth(1).unwrap();
    let offset: usize = offset.split(':').next().unwrap().parse().unwrap();
    assert!(
        (middle - 100..=middle).contains(&offset),
        "{middle}: {reason}"
    );
    // Nothing was thrown away: once the byte is as it was, all is there.
    assert_eq!(fs::read(&journal).unwrap(), damaged);
    fs::write(&journal, &sound).unwrap();
    let server = setup.start();
    let stats = server.json("/v1/stats").await;
    assert_eq!(stats["events"]["delivered"], 40);
    server.stop();
}

fn longest_journal(folder: PathBuf) -> PathBuf {
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let journals = files.filter(|file| file.extension().is_some_and(|it| it == "log"));
    journals
        .max_by_key(|file| fs::metadata(file).unwrap().len())
        .unwrap()
}

#[test]
fn the_defaults_are_a_file_to_start_from() {
    let printed = Setup::memory().run(&["defaults"]);
    assert_eq!((printed.code, printed.stderr.as_str()), (Some(0), ""));
    assert_names(&printed.stdout, &["[store]", "threshold = 1000", "# "]);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("catchall.toml");
    // Taken up as far as something that it says is refused for another reason.
    let text = printed
        .stdout
        .replace("kind = \"embedded\"", "kind = \"postgres\"");
    fs::write(&file, text).unwrap();
    let setup = Setup::defaults();
    let refusal = setup.run(&["serve", "--config", file.to_str().unwrap()]);
    assert_names(&refusal.reason(), &["store.postgres.url"]);

    fs::write(&file, &printed.stdout).unwrap();
    let data = folder.path().join("data");
    let server = setup.set("listen", "127.0.0.1:0").start_with(&[
        "--config",
        file.to_str().unwrap(),
        "--data",
        data.to_str().unwrap(),
    ]);
    server.stop();
    assert!(data.is_dir());
}
