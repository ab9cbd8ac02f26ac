//! Clients that send so slowly that they hold on to what others need.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use fastrand::Rng;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Findings, Ground, Row,
    clients::{Sent, Steady, ms, p99, put, told},
};
use crate::{http::Connection, server::Server};

/// Slowloris in three forms.
pub const SLOWLORIS: Row = Row {
    name: "slowloris",
    what: "Up to 1,000 connections drip, beside honest clients: in their first head, in a body, in the \
           head behind an answer.",
    client: "408 for a first head and a body; the connection ends in a later head; honest clients are \
             served",
    run: |ground| Box::pin(slowloris(ground)),
};

/// How long a head and a body may take, as it is set.
const READ_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Long after that, a connection has no deadline.
const NEVER: Duration = Duration::from_secs(8);
/// The clock that a first head is measured by may be so much late, and its deadline so much early.
const EARLY: Duration = Duration::from_millis(500);
/// Between two bytes of one that drips.
const DRIP: Duration = Duration::from_millis(100);
const HONEST: usize = 8;

/// Where a client becomes slow.
#[derive(Clone, Copy, Debug)]
enum Form {
    SecondHead,
    FirstHead,
    Body,
}

impl Form {
    const ALL: [(Self, &'static str); 3] = [
        (Self::SecondHead, "head of a second request"),
        (Self::FirstHead, "first head"),
        (Self::Body, "body"),
    ];
}

async fn slowloris(ground: Ground) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    let folder = tempfile::tempdir()?;
    let server = ground
        .setup("embedded")
        .set("store.embedded.path", folder.path().display())
        .set("http.read_timeout_ms", READ_TIMEOUT.as_millis())
        .start()?;
    let dripping = match ground.amount.rounds {
        ..4 => 200,
        _ => 1_000,
    };
    let mut sent = Vec::new();
    for (form, name) in Form::ALL {
        let [mut alone, mut beside] = [Vec::new(), Vec::new()];
        let mut cut = Vec::new();
        for _ in 0..ground.amount.rounds.div_ceil(4).max(1) {
            let honest = Steady::start(server.address(), HONEST, &mut rng);
            sleep(READ_TIMEOUT).await;
            alone.extend(honest.stop().await);

            let honest = Steady::start(server.address(), HONEST, &mut rng);
            let dripped = drip(&server, form, dripping, &mut findings).await?;
            beside.extend(honest.stop().await);
            findings.faults += dripping;
            if dripped.len() as u64 != dripping {
                let lives = dripping - dripped.len() as u64;
                findings.broken(format!("{lives} that drip in their {name} are never cut"));
                findings.judge_sent(&beside, &["204"], &server).await?;
                return Ok(findings);
            }
            cut.extend(dripped);
        }
        let of = |sent: &[Sent]| ms(p99(sent.iter().map(|sent| sent.took)));
        findings.notes.push(format!(
            "{name}: cut after {:.1} to {:.1} s, where {:.1} s are allowed; 99 of 100 honest answers \
             within {}, and within {} without them",
            cut.iter().min().copied().unwrap_or_default().as_secs_f64(),
            cut.iter().max().copied().unwrap_or_default().as_secs_f64(),
            READ_TIMEOUT.as_secs_f64(),
            of(&beside),
            of(&alone),
        ));
        sent.extend(alone);
        sent.extend(beside);
    }
    findings.judge_sent(&sent, &["204"], &server).await?;
    Ok(findings)
}

/// Lets so many drip, and says how long each that was cut had been slow by then.
async fn drip(
    server: &Server,
    form: Form,
    dripping: u64,
    findings: &mut Findings,
) -> anyhow::Result<Vec<Duration>> {
    let address = server.address();
    let clients: JoinSet<_> = (0..dripping)
        .map(|_| async move { timeout(NEVER, drip_one(address, form)).await })
        .collect();
    let mut cut = Vec::new();
    for ended in clients.join_all().await {
        let Ok(ended) = ended else { continue };
        let (after, told) = ended?;
        let is_right = match form {
            Form::SecondHead => told == "no answer",
            Form::FirstHead => told == "408",
            Form::Body => told == "408 read-timeout",
        };
        if !is_right && findings.violations.len() < 5 {
            findings.broken(format!(
                "a client that drips in its {form:?} is told {told}"
            ));
        }
        if after + EARLY < READ_TIMEOUT {
            findings.broken(format!(
                "a client is cut after {after:?}, before its time is over"
            ));
        }
        *findings
            .answers
            .entry(format!("{form:?}: {told}"))
            .or_default() += 1;
        cut.push(after);
    }
    Ok(cut)
}

/// Sends byte after byte until the server has enough of it: after how long, and with what answer.
async fn drip_one(server: SocketAddr, form: Form) -> anyhow::Result<(Duration, String)> {
    let mut connection = Connection::open(server).await?;
    if let Form::SecondHead = form {
        let answer = connection.try_get("/livez", "").await?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
    }
    let slow = Instant::now();
    let head = put(0, None);
    match form {
        Form::SecondHead | Form::FirstHead => connection.send(&head[..head.len() - 2]).await?,
        Form::Body => {
            let head = "POST /v1/events HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\
                        Content-Type: application/x-ndjson\r\n\r\n";
            connection.send(head).await?;
        }
    }
    // Nothing is to be read but the end of it.
    while connection.pour(b"x", 1).await? == 1 {
        sleep(DRIP).await;
    }
    let after = slow.elapsed();
    let answer = connection.answer().await;
    Ok((
        after,
        answer.map_or("no answer".to_owned(), |answer| told(&answer)),
    ))
}
