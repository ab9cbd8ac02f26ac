//! The binary with many events a request, against servers that do what they should and some that
//! do not.

use crate::fixture::{Reaction, Server, only, report, run};

const FORMATS: [&str; 2] = ["ndjson", "cloudevents"];

#[test]
fn every_shape_passes_in_both_formats_and_both_loops() {
    for format in FORMATS {
        // One server for all: no CloudEvent of one stream is taken for one of another.
        let server = Server::start(|_| Reaction::Count);
        for flags in [
            "--connections 1",
            "--seed 2 --connections 7 --threads 3",
            "--domains 700 --bounce-rate 0.1",
            "--domains 700 --zipf 1.1",
            "--seed 3 --rate 20000 --connections 8",
            "--seed 4 --rate 20000 --connections 8 --threads 2",
        ] {
            let before = server.requests();
            let bulk = format!("--bulk 400 --format {format} --events 1500 --verify");
            let (status, json) = report(&server, &format!("{flags} {bulk}"));
            assert_eq!(status, 0, "{format} {flags}: {json}");
            assert_eq!(json["acknowledged"], 1_500);
            // Three that are full, and one with what is left.
            assert_eq!(json["requests"], 4);
            assert_eq!(server.requests() - before, 4);
            assert_eq!(json["bulk"]["events_per_request"], 400);
            assert_eq!(json["bulk"]["format"], format);
            assert_eq!(json["verification"]["counted"], 1_500);
        }
        assert_eq!(server.totals().iter().sum::<u64>(), 9_000);
    }
}

#[test]
fn the_events_are_those_of_single_requests_in_their_order() {
    let sent = |flags: &str| {
        let server = Server::start(|_| Reaction::Count);
        let flags = format!("--events 1000 --connections 1 --seed 5 {flags}");
        assert!(run(&server.url, &flags).status.success());
        server.events()
    };
    let single = sent("");
    assert_eq!(single.len(), 1_000);
    for flags in ["--bulk 1", "--bulk 300", "--bulk 40000"] {
        for format in FORMATS {
            assert_eq!(single, sent(&format!("{flags} --format {format}")));
        }
    }
}

#[test]
fn in_order_as_many_events_as_domains_are_each_domain_once() {
    let server = Server::start(|_| Reaction::Count);
    let flags = "--domains 1500 --in-order --events 1500 --bulk 400 --connections 3 --verify";
    let (status, json) = report(&server, flags);
    assert_eq!(status, 0, "{json}");
    assert_eq!(json["stream"]["in_order"], true);
    assert_eq!(json["verification"]["domains"], 1_500);
    assert_eq!(json["verification"]["exact"], 1_500);
}

#[test]
fn the_largest_request_passes() {
    for format in FORMATS {
        let server = Server::start(|_| Reaction::Count);
        let flags = format!("--bulk 40000 --format {format} --events 100000 --connections 2");
        let (status, json) = report(&server, &format!("{flags} --timeout-ms 60000"));
        assert_eq!(status, 0, "{json}");
        assert_eq!(json["requests"], 3);
        assert_eq!(server.totals().iter().sum::<u64>(), 100_000);
    }
}

#[test]
fn cloud_events_of_another_run_are_others() {
    let server = Server::start(|_| Reaction::Count);
    let flags = "--bulk 100 --format cloudevents --events 1000 --verify";
    for counted in [1_000, 2_000] {
        let (status, json) = report(&server, flags);
        assert_eq!(status, 0, "{json}");
        assert_eq!(server.totals().iter().sum::<u64>(), counted);
    }
}

#[test]
fn what_is_sent_again_counts_once_in_either_format() {
    for format in FORMATS {
        // Every third answer is lost, every fourth a refusal that may end.
        let server = Server::start(|n| match n {
            n if n % 3 == 2 => Reaction::CountAndHangUp,
            n if n % 4 == 3 => Reaction::Refuse(503),
            _ => Reaction::Count,
        });
        let flags = "--bulk 100 --events 3000 --connections 4 --retries 50 --verify";
        let (status, json) = report(&server, &format!("{flags} --format {format}"));
        assert_eq!(status, 0, "{json}");
        assert!(json["retries"].as_u64().unwrap() > 5, "{json}");
        assert_eq!(json["acknowledged"], 3_000);
        let verification = &json["verification"];
        assert_eq!(verification["exact"], verification["domains"]);
        assert_eq!(server.totals().iter().sum::<u64>(), 3_000);
    }
}

#[test]
fn a_refusal_is_one_of_every_event_of_its_request() {
    let server = Server::start(|n| match n {
        2 => Reaction::Refuse(422),
        4 => Reaction::Refuse(503),
        _ => Reaction::Count,
    });
    let flags = "--bulk 100 --events 1000 --connections 1 --verify";
    let (status, json) = report(&server, flags);
    assert_eq!(status, 1);
    assert_eq!(json["sent"], 1_000);
    assert_eq!(json["requests"], 10);
    assert_eq!(json["acknowledged"], 800);
    assert_eq!(json["refused_by_status"]["422"], 100);
    assert_eq!(json["refused_by_status"]["503"], 100);
    assert_eq!(json["verification"]["different"], 0, "{json}");
    assert_eq!(json["verification"]["counted"], 800);
}

#[test]
fn a_request_without_an_answer_leaves_all_its_events_unanswered() {
    let server = Server::start(|n| match n {
        1 => Reaction::CountAndHangUp,
        2 => Reaction::HangUp,
        3 => Reaction::Stall,
        _ => Reaction::Count,
    });
    let flags = "--bulk 100 --events 1000 --connections 1 --timeout-ms 5000 --verify";
    let (status, json) = report(&server, flags);
    assert_eq!(status, 1);
    assert_eq!(json["acknowledged"], 700);
    assert_eq!(json["failed_by_reason"]["connection lost"], 200);
    assert_eq!(json["failed_by_reason"]["timed out"], 100);
    let verification = &json["verification"];
    assert_eq!(verification["different"], 0, "{json}");
    assert!(verification["within_bounds"].as_u64().unwrap() >= 1);
    assert_eq!(verification["counted"], 800);
}

#[test]
fn fewer_accepted_than_sent_is_no_acknowledgement() {
    for (reaction, counted) in [(Reaction::Skip, 999), (Reaction::Mumble, 1_000)] {
        let server = Server::start(only(4, reaction));
        let (status, json) = report(&server, "--bulk 100 --events 1000 --verify");
        assert_eq!(status, 1);
        assert_eq!(json["ok"], false);
        assert_eq!(json["acknowledged"], 900);
        assert_eq!(json["failed_by_reason"]["not confirmed"], 100);
        assert_eq!(json["verification"]["different"], 0, "{json}");
        assert_eq!(json["verification"]["counted"], counted);
    }
}

#[test]
fn one_event_lost_or_counted_twice_within_a_request_is_found() {
    for (reaction, counted) in [(Reaction::Lose, 999), (Reaction::CountTwice, 1_001)] {
        for format in FORMATS {
            let server = Server::start(only(4, reaction));
            let flags = format!("--bulk 100 --format {format} --events 1000 --verify");
            let (status, json) = report(&server, &flags);
            assert_eq!(status, 1);
            assert_eq!(json["acknowledged"], 1_000);
            assert_eq!(json["verification"]["different"], 1, "{json}");
            assert_eq!(json["verification"]["counted"], counted);
        }
    }
}

#[test]
fn a_server_that_closes_its_connections_costs_no_event() {
    let server = Server::start(|n| {
        if n % 3 == 2 {
            Reaction::CountAndClose
        } else {
            Reaction::Count
        }
    });
    let flags = "--bulk 100 --events 2000 --connections 2 --verify";
    let (status, json) = report(&server, flags);
    assert_eq!(status, 0, "{json}");
}

#[test]
fn an_open_loop_counts_the_wait_for_a_request_to_fill_up() {
    let server = Server::start(|_| Reaction::Count);
    let (status, json) = report(&server, "--bulk 50 --rate 1000 --events 220");
    assert_eq!(status, 0, "{json}");
    assert_eq!(json["requests"], 5);
    // The last of 220 events is due after 219 ms.
    assert!(json["elapsed_s"].as_f64().unwrap() >= 0.219, "{json}");
    // A request leaves when its last event is due, 49 ms after its first.
    assert!(
        json["latency_ms"]["max"].as_f64().unwrap() >= 49.0,
        "{json}"
    );
    assert!(
        json["latency_ms"]["mean"].as_f64().unwrap() >= 20.0,
        "{json}"
    );
}

#[test]
fn more_events_at_a_time_than_memory_should_hold_are_not_possible() {
    let server = Server::start(|_| Reaction::Count);
    let output = run(&server.url, "--bulk 40000 --connections 101");
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("more than 4000000 events"), "{errors}");
    assert_eq!(server.requests(), 0);
}
