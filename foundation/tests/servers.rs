//! The test servers themselves, driven over their own protocols.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::print_stdout,
    reason = "one test is the other end of another's pipe"
)]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use foundation::testing::{Postgres, Prometheus, Redis};

/// How long silence must last to be called silence.
const SILENCE: Duration = Duration::from_millis(300);

/// The longest to wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Says something on a new connection; gives the first byte of the answer, or `None` for silence.
fn ask(port: u16, question: &[u8], patience: Duration) -> Option<u8> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    connection.set_read_timeout(Some(patience)).unwrap();
    connection.write_all(question).unwrap();
    let mut answer = [0];
    match connection.read_exact(&mut answer) {
        Ok(()) => Some(answer[0]),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        Err(error) => panic!("{error}"),
    }
}

fn refuses(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err()
}

/// The question that begins a PostgreSQL connection (SSLRequest); the answer is `N`.
const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];

#[test]
fn prometheus_answers_and_comes_back() {
    let prometheus = Prometheus::start("global: { scrape_interval: 1s }");
    let is_ready = || {
        let question = b"GET /-/ready HTTP/1.0\r\n\r\n";
        ask(prometheus.port(), question, PATIENCE) == Some(b'H')
    };
    assert!(is_ready());
    prometheus.kill();
    assert!(refuses(prometheus.port()));
    prometheus.start_again();
    assert!(is_ready());
}

#[test]
fn postgres_keeps_its_data_over_a_stop_and_a_kill() {
    let postgres = Postgres::start();
    let url = postgres.create_database();
    postgres.query(
        &url,
        "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)",
    );

    postgres.stop();
    assert!(refuses(postgres.port()));
    postgres.start_again();
    postgres.query(&url, "INSERT INTO kept VALUES (2)");

    postgres.kill();
    assert!(refuses(postgres.port()));
    assert_eq!(postgres.pid(), None);
    postgres.start_again();
    assert_eq!(
        postgres.query(&url, "SELECT n FROM kept ORDER BY n"),
        "1\n2"
    );
    assert!(
        postgres.log().contains("not properly shut down"),
        "{}",
        postgres.log()
    );
}

#[test]
fn frozen_postgres_answers_neither_new_connections_nor_open_ones() {
    let postgres = Postgres::start();
    let mut session = postgres
        .psql(&postgres.url("postgres"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = session.stdin.take().unwrap();
    let output = BufReader::new(session.stdout.take().unwrap());
    let (sender, answers) = mpsc::channel();
    thread::spawn(move || {
        output
            .lines()
            .try_for_each(|line| sender.send(line.unwrap()))
    });
    input.write_all(b"SELECT 1;\n").unwrap();
    assert_eq!(answers.recv_timeout(PATIENCE).unwrap(), "1");

    postgres.freeze();
    input.write_all(b"SELECT 2;\n").unwrap();
    assert!(
        answers.recv_timeout(SILENCE).is_err(),
        "the open session answered"
    );
    assert_eq!(ask(postgres.port(), SSL_REQUEST, SILENCE), None);

    postgres.thaw();
    assert_eq!(answers.recv_timeout(PATIENCE).unwrap(), "2");
    assert_eq!(ask(postgres.port(), SSL_REQUEST, PATIENCE), Some(b'N'));
    drop(input);
    assert!(session.wait().unwrap().success());

    postgres.freeze();
    postgres.stop();
    assert!(refuses(postgres.port()));
}

#[test]
fn shared_postgres_gives_each_test_a_database_of_its_own() {
    let databases: Vec<String> = thread::scope(|scope| {
        let tests: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| Postgres::shared().create_database()))
            .collect();
        tests.into_iter().map(|test| test.join().unwrap()).collect()
    });
    for url in &databases {
        Postgres::shared().query(url, "CREATE TABLE same_name (n int)");
    }
}

#[test]
fn postgres_takes_settings_and_writes_durably() {
    let postgres = Postgres::start_with(&["max_connections=17"]);
    let shown = |name| postgres.query(&postgres.url("postgres"), &format!("SHOW {name}"));
    assert_eq!(shown("max_connections"), "17");
    assert_eq!(shown("fsync"), "on");
    assert_eq!(shown("synchronous_commit"), "on");
}

#[test]
#[should_panic(expected = "no_such_setting")]
fn a_server_that_cannot_start_shows_its_log() {
    let _ = Postgres::start_with(&["no_such_setting=1"]);
}

#[test]
fn redis_stops_dies_freezes_and_comes_back() {
    let redis = Redis::start();
    assert_eq!(ask(redis.port(), b"PING\r\n", PATIENCE), Some(b'+'));

    redis.freeze();
    assert_eq!(ask(redis.port(), b"PING\r\n", SILENCE), None);
    redis.thaw();
    assert_eq!(ask(redis.port(), b"PING\r\n", PATIENCE), Some(b'+'));

    redis.stop();
    assert!(refuses(redis.port()));
    redis.start_again();
    redis.kill();
    assert!(refuses(redis.port()));
    redis.start_again();
    assert_eq!(ask(redis.port(), b"PING\r\n", PATIENCE), Some(b'+'));
}

#[test]
fn a_port_that_is_taken_for_a_while_is_waited_for() {
    let redis = Redis::start();
    redis.stop();
    let squatter = TcpListener::bind((Ipv4Addr::LOCALHOST, redis.port())).unwrap();
    thread::scope(|scope| {
        let starting = scope.spawn(|| redis.start_again());
        let deadline = Instant::now() + PATIENCE;
        while !redis.log().contains("Address already in use") {
            assert!(Instant::now() < deadline, "it did not try: {}", redis.log());
            thread::yield_now();
        }
        drop(squatter);
        starting.join().unwrap();
    });
    assert_eq!(ask(redis.port(), b"PING\r\n", PATIENCE), Some(b'+'));
}

#[test]
fn a_server_that_is_dropped_leaves_nothing() {
    let redis = Redis::start();
    let (port, folder) = (redis.port(), redis.folder().to_owned());
    redis.freeze();
    drop(redis);
    assert!(refuses(port));
    assert!(!folder.exists());
}

/// Set in the process that is to be killed.
const VICTIM: &str = "FOUNDATION_TEST_VICTIM";

/// Not a test of its own, and over at once: the process that the next test kills.
#[test]
fn victim() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let (postgres, redis, frozen) = (Postgres::start(), Redis::start(), Postgres::start());
    frozen.freeze();
    let servers = [(&*postgres), &*redis, &*frozen];
    for server in servers {
        println!(
            "server {} {}",
            server.pid().unwrap(),
            server.folder().display()
        );
    }
    thread::sleep(PATIENCE);
}

#[test]
fn no_server_outlives_a_test_process_that_is_killed() {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(victim.stdout.take().unwrap());
    let servers: Vec<(PathBuf, PathBuf)> = output
        .lines()
        .filter_map(|line| {
            let line = line.unwrap();
            let (pid, folder) = line.split_once("server ")?.1.split_once(' ')?;
            Some((Path::new("/proc").join(pid), folder.into()))
        })
        .take(3)
        .collect();
    assert_eq!(servers.len(), 3, "the victim died by itself");
    assert!(
        servers
            .iter()
            .all(|(process, folder)| process.exists() && folder.exists())
    );

    victim.kill().unwrap();
    victim.wait().unwrap();

    let deadline = Instant::now() + PATIENCE;
    for (process, folder) in servers {
        while folder.exists() {
            assert!(
                Instant::now() < deadline,
                "{} is still there",
                folder.display()
            );
            thread::sleep(Duration::from_millis(10));
        }
        let command_line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        assert!(command_line.is_empty(), "{} still runs", process.display());
    }
}
