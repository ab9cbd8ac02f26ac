//! The network between clients and server: cut in the middle of a request and of an answer.

use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::time::sleep;

use super::{Findings, Ground, Row, clients::told};
use crate::{
    fleet::{Fleet, Plan},
    proxy::{Proxy, Rules},
    server::Server,
};

/// Connections cut at any byte.
pub const CUTS: Row = Row {
    name: "cuts in requests and answers",
    what: "Connections of clients are reset at any byte of a request, and at any byte of an answer; \
           others end in an orderly way in the middle of a body.",
    client: "the connection is lost; what it sends again under its key counts once; 400 invalid-content for \
             half a body",
    run: |ground| Box::pin(cuts(ground)),
};

async fn cuts(ground: Ground) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    let folder = tempfile::tempdir()?;
    let server = ground
        .setup("embedded")
        .set("store.embedded.path", folder.path().display())
        .start()?;
    let proxy = Proxy::start(server.address()).await?;
    let plan = Plan {
        bulk: 30,
        ..Plan::new(rng.u64(..))
    };
    let fleet = Fleet::start(&plan, &[proxy.address()]);
    for _ in 0..5 * ground.amount.rounds {
        fleet.go_on_for(rng.u64(20..100)).await?;
        // In the first request or answer of each connection, and in any of the next few.
        for most in [150, 2_000] {
            let after = Some(rng.u64(..most));
            proxy.set(match rng.bool() {
                true => Rules {
                    cut_requests_after: after,
                    ..Rules::default()
                },
                false => Rules {
                    cut_answers_after: after,
                    ..Rules::default()
                },
            });
            fleet.are_refused(rng.u64(20..60)).await?;
            sleep(Duration::from_millis(rng.u64(..20))).await;
        }
        for _ in 0..4 {
            let told = break_off(&server, &mut rng).await?;
            if told != "400 invalid-content" && told != "no answer" {
                findings.broken(format!("a body that is not whole is answered {told}"));
                return Ok(findings);
            }
            *findings
                .answers
                .entry(format!("half a body: {told}"))
                .or_default() += 1;
        }
        proxy.set(Rules::default());
        let healed = Instant::now();
        fleet.recovers(healed).await?;
        findings.recoveries.push(healed.elapsed());
    }
    findings.settle(fleet, &server, Duration::ZERO).await?;
    findings.faults = findings
        .answers
        .get("connection lost")
        .copied()
        .unwrap_or(0);
    if findings.faults == 0 {
        findings.broken("no connection was cut");
    }
    Ok(findings)
}

/// Sends a part of a body, and then nothing more. Its domain is in no history: it must not be counted.
async fn break_off(server: &Server, rng: &mut Rng) -> anyhow::Result<String> {
    let line = "{\"domain\":\"half.example\",\"type\":\"delivered\"}\n";
    let whole = line.repeat(8);
    // Often behind a line: what is there would do for a body.
    let cut = match rng.bool() {
        true => line.len() * rng.usize(1..8),
        false => rng.usize(1..whole.len()),
    };
    let mut connection = server.connect().await;
    let content = match rng.bool() {
        true => format!("Content-Length: {}\r\n\r\n{}", whole.len(), &whole[..cut]),
        false => format!(
            "Transfer-Encoding: chunked\r\n\r\n{cut:x}\r\n{}\r\n",
            &whole[..cut]
        ),
    };
    let head = "POST /v1/events HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-ndjson\r\n";
    connection.send(format!("{head}{content}")).await?;
    connection.finish().await?;
    let answer = connection.answer().await;
    Ok(answer.map_or("no answer".to_owned(), |answer| told(&answer)))
}
