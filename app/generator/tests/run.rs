//! The binary against a server that does what it should, and against some that do not.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod bulk;
mod fixture;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use fixture::{Reaction, Server, begin, only, report, run};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The whole answer to a GET.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn an_honest_server_passes() {
    let server = Server::start(|_| Reaction::Count);
    let (status, json) = report(&server, "--events 3000 --connections 16 --verify");
    assert_eq!(status, 0, "{json}");
    assert_eq!(json["ok"], true);
    for field in ["sent", "acknowledged"] {
        assert_eq!(json[field], 3_000, "{json}");
    }
    assert_eq!(server.totals().iter().sum::<u64>(), 3_000);
    let verification = &json["verification"];
    assert_eq!(verification["counted"], 3_000);
    assert_eq!(verification["threshold"], 1_000);
    assert_eq!(verification["exact"], verification["domains"]);
    assert!(json["latency_ms"]["p50"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_store_with_a_history_passes_too() {
    let server = Server::start(|_| Reaction::Count);
    for _ in 0..2 {
        let (status, json) = report(&server, "--events 2000 --verify");
        assert_eq!(status, 0, "{json}");
        assert_eq!(json["verification"]["counted"], 2_000);
    }
    assert_eq!(server.totals().iter().sum::<u64>(), 4_000);
}

#[test]
fn every_shape_passes_over_threads_and_in_an_open_loop() {
    let server = Server::start(|_| Reaction::Count);
    for flags in [
        "--domains 700 --bounce-rate 0.1",
        "--domains 700 --zipf 1.1",
        "--threads 3 --connections 7",
        "--rate 20000 --connections 8",
        "--rate 20000 --connections 8 --threads 2",
    ] {
        let (status, json) = report(&server, &format!("{flags} --events 1500 --verify"));
        assert_eq!(status, 0, "{flags}: {json}");
        assert_eq!(json["acknowledged"], 1_500);
    }
}

#[test]
fn the_seed_decides_the_events_whatever_the_connections() {
    let sent = |flags: &str| {
        let server = Server::start(|_| Reaction::Count);
        assert!(
            run(&server.url, &format!("--events 1000 {flags}"))
                .status
                .success()
        );
        server.events()
    };
    let sorted = |mut events: Vec<String>| {
        events.sort_unstable();
        events
    };
    let one = sent("--seed 5 --connections 1");
    assert_eq!(one, sent("--seed 5 --connections 1"));
    let many = sorted(sent("--seed 5 --connections 32 --threads 2"));
    assert_eq!(sorted(one), many);
    assert_ne!(many, sorted(sent("--seed 6")));
}

#[test]
fn an_open_loop_keeps_its_schedule() {
    let server = Server::start(|_| Reaction::Count);
    let (status, json) = report(&server, "--events 101 --rate 500 --connections 4");
    assert_eq!(status, 0, "{json}");
    // The last of 101 events is due after 200 ms: it cannot have ended before.
    assert!(json["elapsed_s"].as_f64().unwrap() >= 0.2, "{json}");
    assert_eq!(json["target_events_per_s"], 500);
}

#[test]
fn a_stall_is_felt_by_the_events_that_were_due_meanwhile() {
    // One connection, one event that takes all the time it is allowed.
    let server = Server::start(only(10, Reaction::Stall));
    let flags = "--events 600 --rate 200 --connections 1 --timeout-ms 3000";
    let (status, json) = report(&server, flags);
    assert_eq!(status, 1);
    assert_eq!(json["failed_by_reason"]["timed out"], 1);
    // Sent back to back, each of the others took no time; but half of them were due long before.
    assert!(json["latency_ms"]["p50"].as_f64().unwrap() > 50.0, "{json}");
}

#[test]
fn a_run_is_shown_as_it_goes() {
    // The last request of the run takes the whole time it is allowed.
    let server = Server::start(|n| match n {
        3 | 5 => Reaction::Refuse(503),
        7 => Reaction::Refuse(429),
        99 => Reaction::Stall,
        _ => Reaction::Count,
    });
    let flags = "--events 100 --connections 1 --timeout-ms 10000 --metrics-addr 127.0.0.1:0";
    let mut run = begin(&server.url, flags);
    let mut said = BufReader::new(run.stderr.take().unwrap()).lines();
    let address = said.find_map(|line| {
        let line = line.unwrap();
        let address = line.strip_prefix("metrics: http://")?;
        Some(address.strip_suffix("/metrics")?.to_owned())
    });
    let address = address.unwrap();
    let deadline = Instant::now() + Duration::from_secs(9);
    let lines = [
        "create_events_events_total{outcome=\"acknowledged\"} 96",
        "create_events_events_total{outcome=\"refused\"} 3",
        "create_events_requests_total{status=\"204\"} 96",
        "create_events_requests_total{status=\"429\"} 1",
        "create_events_requests_total{status=\"503\"} 2",
        "create_events_request_duration_seconds_count 99",
        "create_events_requests_in_flight 1",
        "create_events_retries_total 0",
        "create_events_target_rate 0",
    ];
    // All at once, for as long as the last one waits.
    let shown = loop {
        let shown = get(&address, "/metrics");
        let missing = |line: &&&str| !shown.contains(&format!("\n{line}\n"));
        let Some(missing) = lines.iter().find(missing) else {
            break shown;
        };
        assert!(Instant::now() < deadline, "{missing}: {shown}");
        std::thread::sleep(Duration::from_millis(5));
    };
    let docs = include_str!("../../../docs/operations.md");
    let types = shown
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE create_events_"));
    for name in types.map(|typed| typed.split(' ').next().unwrap()) {
        assert!(docs.contains(&format!("`create_events_{name}`")), "{name}");
    }
    assert!(get(&address, "/").starts_with("HTTP/1.1 404"));
    run.kill().unwrap();
    run.wait().unwrap();
}

#[test]
fn refusals_are_counted_by_status_and_fail_the_run() {
    let server = Server::start(|n| match n {
        3 | 5 | 900 => Reaction::Refuse(503),
        7 => Reaction::Refuse(429),
        _ => Reaction::Count,
    });
    let (status, json) = report(&server, "--events 1000 --verify");
    assert_eq!(status, 1);
    assert_eq!(json["ok"], false);
    assert_eq!(json["sent"], 1_000);
    assert_eq!(json["acknowledged"], 996);
    assert_eq!(json["refused"], 4);
    assert_eq!(json["refused_by_status"]["503"], 3);
    assert_eq!(json["refused_by_status"]["429"], 1);
    assert_eq!(json["verification"]["different"], 0, "{json}");
}

#[test]
fn events_without_an_answer_may_have_counted_or_not() {
    let server = Server::start(|n| match n {
        10 => Reaction::CountAndHangUp,
        20 => Reaction::HangUp,
        30 => Reaction::Stall,
        _ => Reaction::Count,
    });
    let (status, json) = report(
        &server,
        "--events 1000 --connections 4 --timeout-ms 5000 --verify",
    );
    assert_eq!(status, 1);
    assert_eq!(json["acknowledged"], 997);
    assert_eq!(json["failed_by_reason"]["connection lost"], 2);
    assert_eq!(json["failed_by_reason"]["timed out"], 1);
    let verification = &json["verification"];
    assert_eq!(verification["different"], 0, "{json}");
    assert!(verification["within_bounds"].as_u64().unwrap() >= 1);
    assert_eq!(verification["counted"], 998);
}

#[test]
fn a_server_that_closes_its_connections_costs_no_event() {
    let server = Server::start(|n| {
        if n % 10 == 9 {
            Reaction::CountAndClose
        } else {
            Reaction::Count
        }
    });
    let (status, json) = report(&server, "--events 500 --connections 4 --verify");
    assert_eq!(status, 0, "{json}");
    assert_eq!(json["acknowledged"], 500);
}

#[test]
fn one_lost_event_is_found() {
    let server = Server::start(only(500, Reaction::Lose));
    let (status, json) = report(&server, "--events 1000 --verify");
    assert_eq!(status, 1);
    assert_eq!(json["acknowledged"], 1_000);
    assert_eq!(json["verification"]["different"], 1, "{json}");
    assert_eq!(json["verification"]["counted"], 999);
}

#[test]
fn one_event_counted_twice_is_found() {
    let server = Server::start(only(500, Reaction::CountTwice));
    let output = run(&server.url, "--events 1000 --verify");
    assert_eq!(output.status.code(), Some(1));
    let report = text(&output.stdout);
    let lost: Vec<&str> = report
        .lines()
        .filter(|line| line.contains(" instead of "))
        .collect();
    assert_eq!(lost.len(), 1, "{report}");
    assert!(report.contains("Not good: 1 domain different."), "{report}");
}

#[test]
fn many_differences_are_told_in_part() {
    let server = Server::start(|_| Reaction::Lose);
    let output = run(&server.url, "--events 1000 --domains 100000 --verify");
    assert_eq!(output.status.code(), Some(1));
    let domains = server.events().iter().collect::<HashSet<_>>().len();
    let report = text(&output.stdout);
    assert_eq!(report.matches(" instead of ").count(), 20, "{report}");
    assert!(
        report.contains(&format!("and {} more", domains - 20)),
        "{report}"
    );
}

#[test]
fn a_server_that_forgets_what_it_held_is_found() {
    // As one does that is restarted upon an empty store.
    let server = Server::start(only(900, Reaction::Forget));
    let (status, json) = report(&server, "--events 1000 --verify");
    assert_eq!(status, 1);
    assert_eq!(json["acknowledged"], 1_000);
    assert_eq!(json["verification"]["exact"], 0, "{json}");
}

#[test]
fn nobody_to_send_to_is_an_error() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let output = run(&url, "--events 10");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot connect to 127.0.0.1:"));
    assert!(output.stdout.is_empty());
}

#[test]
fn a_command_line_that_makes_no_sense_is_told_apart() {
    let output = run("http://127.0.0.1:1", "--events 0");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn what_is_sent_again_counts_once() {
    let server = Server::start(|n| match n {
        n if n % 5 == 2 => Reaction::CountAndHangUp,
        n if n % 7 == 3 => Reaction::Refuse(503),
        n if n % 11 == 5 => Reaction::HangUp,
        _ => Reaction::Count,
    });
    let flags = "--events 1000 --connections 8 --retries 50 --verify";
    let (status, json) = report(&server, flags);
    assert_eq!(status, 0, "{json}");
    assert_eq!(json["acknowledged"], 1_000);
    assert!(json["retries"].as_u64().unwrap() > 200, "{json}");
    assert_eq!(
        json["verification"]["exact"],
        json["verification"]["domains"]
    );
    assert_eq!(server.totals().iter().sum::<u64>(), 1_000);
}

#[test]
fn what_is_refused_is_not_sent_again_and_retries_come_to_an_end() {
    for (reaction, requests) in [(Reaction::Refuse(400), 1), (Reaction::Refuse(503), 4)] {
        let server = Server::start(move |_| reaction);
        let (status, json) = report(&server, "--events 1 --retries 3 --verify");
        assert_eq!(status, 1, "{json}");
        assert_eq!(server.requests(), requests);
        assert_eq!(json["retries"], requests - 1);
    }
}

/// An attempt that may have counted is not forgotten over one that certainly did not.
#[test]
fn of_several_attempts_one_may_have_counted() {
    let server = Server::start(|n| match n {
        0 => Reaction::CountAndHangUp,
        _ => Reaction::Refuse(400),
    });
    let (status, json) = report(&server, "--events 1 --retries 3 --verify");
    assert_eq!(status, 1, "{json}");
    assert_eq!(json["verification"]["different"], 0, "{json}");
}
