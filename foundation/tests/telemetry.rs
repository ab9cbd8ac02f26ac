//! Telemetry is set up once for a process, so each test here looks at a process of its own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use foundation::telemetry::{self, LogFormat, LogSettings, TelemetrySettings, TraceSettings};

const ENDPOINT: &str = "TEST_ENDPOINT";

/// Set when lines are to be text.
const TEXT: &str = "TEST_TEXT";

/// Set in the process that the tests look at.
const SUBJECT: &str = "FOUNDATION_TEST_SUBJECT";

/// Not a test of its own, and over at once: the process that the others look at.
#[tokio::test]
async fn subject() {
    if std::env::var_os(SUBJECT).is_none() {
        return;
    }
    let settings = TelemetrySettings {
        logs: LogSettings {
            format: match std::env::var_os(TEXT) {
                Some(_) => LogFormat::Text,
                None => LogFormat::Auto,
            },
            filter: "info,telemetry::quiet=warn".into(),
        },
        traces: TraceSettings {
            endpoint: std::env::var(ENDPOINT).ok(),
            service_name: "the-service".into(),
            sample_ratio: 1.0,
            filter: "info".to_owned(),
        },
    };
    let guard = telemetry::init(&settings, "1.2.3").unwrap();
    assert!(
        telemetry::init(&settings, "1.2.3").is_err(),
        "it was set up twice"
    );
    let span = || tracing::info_span!("the-span", answer = 42);
    telemetry::root_span(span).in_scope(|| tracing::info!("heard"));
    tracing::debug!("unheard");
    tracing::info!(target: "telemetry::quiet", "unheard");
    guard.shutdown().await;
}

fn run_subject(endpoint: Option<&str>, text: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "subject", "--nocapture"])
        .env(SUBJECT, "1");
    if let Some(endpoint) = endpoint {
        command.env(ENDPOINT, endpoint);
    }
    if text {
        command.env(TEXT, "1");
    }
    command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn logs_are_filtered_lines_of_json_on_stderr() {
    let output = run_subject(None, false).wait_with_output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    let lines: Vec<&str> = log.lines().filter(|line| line.starts_with('{')).collect();
    assert_eq!(lines.len(), 1, "{log}");
    for part in [
        r#""level":"INFO""#,
        r#""message":"heard""#,
        r#""answer":42"#,
    ] {
        assert!(lines[0].contains(part), "{log}");
    }
    assert!(!log.contains("trace_id"), "{log}");
}

#[test]
fn the_last_spans_reach_the_collector_before_the_end() {
    let collector = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let subject = run_subject(Some(&endpoint), false);

    // A collector that only listens: what it is sent holds these texts as they are.
    let (mut connection, _) = collector.accept().unwrap();
    connection
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut heard = Vec::new();
    let said = |heard: &[u8], text: &str| heard.windows(text.len()).any(|it| it == text.as_bytes());
    while !["the-service", "1.2.3", "the-span"]
        .iter()
        .all(|text| said(&heard, text))
    {
        let mut chunk = [0; 4096];
        let length = connection.read(&mut chunk).unwrap();
        assert_ne!(length, 0, "the subject left without sending its span");
        heard.extend_from_slice(&chunk[..length]);
    }
    // It never answers, and still the subject comes to its end.
    let line = heard_line(subject);
    let (_, ids) = line.split_once(r#""trace_id":""#).unwrap();
    assert!(is_hex(&ids[..32]), "{line}");
    let span = ids[32..].strip_prefix(r#"","span_id":""#).unwrap();
    let span = span.strip_suffix(r#""}"#).unwrap();
    assert!(span.len() == 16 && is_hex(span), "{line}");
}

#[test]
fn a_line_of_text_ends_with_its_trace() {
    // Nobody listens there, and nothing depends on it.
    let line = heard_line(run_subject(Some("http://127.0.0.1:9"), true));
    let (said, ids) = line.split_once(" trace_id=").unwrap();
    let (trace, span) = ids.split_once(" span_id=").unwrap();
    assert!(said.ends_with("heard"), "{line}");
    assert!(trace.len() == 32 && is_hex(trace), "{line}");
    assert!(span.len() == 16 && is_hex(span), "{line}");
}

/// What a subject logged inside its span.
fn heard_line(subject: Child) -> String {
    let output = subject.wait_with_output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    let line = log.lines().find(|line| line.contains("heard"));
    line.unwrap().to_owned()
}

fn is_hex(id: &str) -> bool {
    id.bytes().all(|digit| digit.is_ascii_hexdigit())
}
