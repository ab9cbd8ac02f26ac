//! Clients that send so slowly that they hold on to what others need.

use std::{
    net::SocketAddr,
    ops::Range,
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
use crate::{http::Connection, report::thousands, server::Server};

/// Slowloris in three forms.
pub const SLOWLORIS: Row = Row {
    name: "slowloris",
    what: "1,000 connections drip, beside 8 honest clients: in their first head, in a body, in the head \
           behind an answer. The aim is that 99 of 100 honest answers come within 1.2 times what they \
           take alone. Both are measured in turn, beside those that drip while all 1,000 are open, five \
           times each, of which the median is told. All clients share the cores with the server, and those \
           that drip take their part: so only what is over 1.2 times and 5 ms later too is taken for \
           broken.",
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
/// How much later than alone the slowest of a hundred honest answers may come.
const ALLOWED: f64 = 1.2;
/// From the first connection on: when all are open, and none is cut yet.
const ALL_DRIP: Range<Duration> = Duration::from_millis(250)..Duration::from_millis(500);
/// By so much it has to be later besides: a fifth of a millisecond is less than it takes the system to
/// give a core, which all clients share with the server, to the next.
const NOTICEABLE: Duration = Duration::from_millis(5);
/// So many are judged by that; fewer are the short form, where a build that is not optimized may share
/// the machine with other tests.
const JUDGED: u64 = 1_000;

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
        // A disk may stall for a second.
        .set("queue.max_wait_ms", 30_000)
        .start()?;
    // Odd, for the one in the middle.
    let (dripping, pairs) = match ground.amount.rounds {
        ..4 => (200, 3),
        _ => (JUDGED, 5),
    };
    let mut sent = Vec::new();
    for (form, name) in Form::ALL {
        let [mut alone, mut beside] = [Vec::new(), Vec::new()];
        let mut cut = Vec::new();
        // One after the other, again and again: whatever else the machine does befalls both.
        for _ in 0..pairs {
            let honest = Steady::start(server.address(), HONEST, 1, &mut rng);
            sleep(READ_TIMEOUT).await;
            alone.push(honest.stop().await);

            let honest = Steady::start(server.address(), HONEST, 1, &mut rng);
            let began = Instant::now();
            let dripped = drip(&server, form, dripping, &mut findings).await?;
            let answered = honest.stop().await;
            let meanwhile =
                |sent: &&Sent| ALL_DRIP.contains(&sent.at.saturating_duration_since(began));
            beside.push(answered.iter().filter(meanwhile).cloned().collect());
            sent.extend(answered);
            findings.faults += dripping;
            if dripped.len() as u64 != dripping {
                let lives = dripping - dripped.len() as u64;
                findings.broken(format!("{lives} that drip in their {name} are never cut"));
                findings.judge_sent(&sent, &["204"], &server).await?;
                return Ok(findings);
            }
            cut.extend(dripped);
        }
        let [with, without] = [median_p99(&beside), median_p99(&alone)];
        let ratio = with.as_secs_f64() / without.as_secs_f64();
        if dripping == JUDGED && ratio > ALLOWED && with > without + NOTICEABLE {
            findings.broken(format!(
                "99 of 100 honest answers within {} beside {dripping} that drip in their {name}, and \
                 within {} without them",
                ms(with),
                ms(without)
            ));
        }
        let told = format!(
            "{} drip, and are cut after {:.1} to {:.1} s, where {:.1} s are allowed; 99 of 100 honest \
             answers within {:.2} ms, and within {:.2} ms without them: {ratio:.2} times",
            thousands(dripping),
            cut.iter().min().copied().unwrap_or_default().as_secs_f64(),
            cut.iter().max().copied().unwrap_or_default().as_secs_f64(),
            READ_TIMEOUT.as_secs_f64(),
            with.as_secs_f64() * 1_000.0,
            without.as_secs_f64() * 1_000.0,
        );
        findings.note(name, told);
        sent.extend(alone.into_iter().flatten());
    }
    findings.judge_sent(&sent, &["204"], &server).await?;
    Ok(findings)
}

/// Of the times that 99 of 100 answers did not take longer than, run by run, the one in the middle.
fn median_p99(runs: &[Vec<Sent>]) -> Duration {
    let p99s = runs
        .iter()
        .map(|sent| p99(sent.iter().map(|sent| sent.took)));
    let mut p99s: Vec<_> = p99s.collect();
    p99s.sort_unstable();
    p99s[p99s.len() / 2]
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
    // Not after the server may have begun to count.
    let mut slow = Instant::now();
    let mut connection = Connection::open(server).await?;
    if let Form::SecondHead = form {
        slow = Instant::now();
        let answer = connection.try_get("/livez", "").await?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
    }
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
