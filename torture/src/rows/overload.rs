//! More than a store takes.

use std::time::{Duration, Instant};

use anyhow::ensure;
use fastrand::Rng;
use foundation::testing::Postgres;
use tokio::{task::block_in_place, time::sleep};

use super::{
    Findings, Ground, Row,
    clients::{Client, Sent, Steady, ms, offer, p99, resident},
    scene::{address, through},
};
use crate::{
    DEADLINE,
    proxy::{Proxy, Rules},
    report::{rate, thousands},
    server::Server,
};

/// A slow disk.
pub const EMBEDDED: Row = Row {
    name: "overload",
    what: "The disk syncs 100 ms late, so that the store takes about 3,000 events a second, and ten \
           times as much is offered as it just took at saturation: some 3,000 requests a second, of ten \
           events each, for the clients share the cores with the server. How much was offered is told \
           below.",
    client: "503 overloaded at once, with `Retry-After`",
    run: |ground| Box::pin(embedded(ground)),
};

/// A slow network to the database.
pub const POSTGRES: Row = Row {
    name: "overload of PostgreSQL",
    what: "All to and from PostgreSQL is held back by 45 ms, and one committer writes to it, so that it \
           takes about 3,000 events a second, and ten times as much is offered as it just took at \
           saturation, in the same way.",
    client: "503 overloaded at once, with `Retry-After`",
    run: |ground| Box::pin(postgres(ground)),
};

/// A disk that stands still again and again.
pub const STALLS: Row = Row {
    name: "stalls",
    what: "The disk syncs 500 ms late, and nobody is to wait behind one that waits for 100 ms.",
    client: "503 overloaded at once, with `Retry-After`, until the disk has moved",
    run: |ground| Box::pin(stalls(ground)),
};

/// How many may wait.
const CAPACITY: u64 = 30;
/// As many as fill the queue while a group as large is written.
const CLIENTS: usize = 60;
/// In each request. The stores are slowed to some 300 requests a second, and more than ten times as
/// many are a trial of this machine, on which all clients run too, and not of the server.
const EVENTS: usize = 10;
/// The fastest that is offered, in requests a second.
const MOST: f64 = 4_000.0;
const REFUSED: &str = "503 overloaded";
/// What overload may cost in memory, whatever is offered.
const MEMORY: u64 = 64 << 20;

async fn embedded(ground: Ground) -> anyhow::Result<Findings> {
    let folder = tempfile::tempdir()?;
    let server = ground
        .setup("embedded")
        .set("store.embedded.path", folder.path().display())
        .set("store.embedded.added_sync_delay_us", 100_000)
        .set("queue.capacity", CAPACITY)
        .start()?;
    overload(&ground, &server).await
}

async fn postgres(ground: Ground) -> anyhow::Result<Findings> {
    let postgres = block_in_place(Postgres::start);
    let proxy = Proxy::start(address(&postgres)).await?;
    let server = ground
        .setup("postgres")
        .set("store.postgres.url", through(&proxy))
        // As many clients as saturate one.
        .set("store.postgres.committers", 1)
        .set("queue.capacity", CAPACITY)
        .start()?;
    proxy.set(Rules {
        delay: Duration::from_millis(45),
        ..Rules::default()
    });
    overload(&ground, &server).await
}

/// Saturates a server, then offers it ten times what it took, again and again.
async fn overload(ground: &Ground, server: &Server) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    let lasting = Duration::from_millis(500 * ground.amount.rounds.clamp(2, 10));
    let mut all = Vec::new();
    let mut refused = Vec::new();
    let [mut at_peak, mut overloaded, mut offers] = [0.0; 3];
    let [before, _] = resident(server)?;
    // Its first group may have a connection to wait for.
    recovers(server, &mut all).await?;
    for _ in 0..ground.amount.rounds.clamp(1, 4) {
        let clients = Steady::start(server.address(), CLIENTS, EVENTS, &mut rng);
        let began = Instant::now();
        sleep(lasting).await;
        let sent = clients.stop().await;
        let peak = acknowledged(&sent) as f64 / began.elapsed().as_secs_f64();
        all.extend(sent);

        let offered = (10.0 * peak / EVENTS as f64).min(MOST);
        let began = Instant::now();
        let (sent, deepest) = deepest_while(
            server,
            offer(server.address(), offered, EVENTS, lasting, &mut rng),
        )
        .await?;
        overloaded += acknowledged(&sent) as f64 / began.elapsed().as_secs_f64();
        at_peak += peak;
        offers += (EVENTS * sent.len()) as f64 / began.elapsed().as_secs_f64();
        findings.faults += 1;
        refused.extend(
            sent.iter()
                .filter(|sent| sent.told == REFUSED)
                .map(|sent| sent.took),
        );
        all.extend(sent);
        // Those that the committer is taking are told for a moment beside those that follow.
        if deepest > 2 * CAPACITY {
            findings.broken(format!("{deepest} wait, of {CAPACITY} at the most"));
        }
        findings.recoveries.push(recovers(server, &mut all).await?);
        if !findings.violations.is_empty() {
            break;
        }
    }
    if refused.is_empty() {
        findings.broken("nobody was refused");
    }
    let [_, peak] = resident(server)?;
    let grown = peak.saturating_sub(before);
    if grown > MEMORY {
        findings.broken(format!("the server grew by {} MiB", grown >> 20));
    }
    findings.judge_sent(&all, &["200", REFUSED], server).await?;
    let times = findings.recoveries.len() as f64;
    let told = format!(
        "{:.0} % of the goodput at saturation ({} events a second) when {:.1} times that was sent ({} a \
         second); 99 of 100 refusals within {}; the server grew by {:.1} MiB, to {:.1} MiB",
        100.0 * overloaded / at_peak,
        rate(at_peak / times),
        offers / at_peak,
        rate(offers / times),
        ms(p99(refused.into_iter())),
        grown as f64 / f64::from(1 << 20),
        peak as f64 / f64::from(1 << 20),
    );
    findings.note("", told);
    Ok(findings)
}

async fn stalls(ground: Ground) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    let folder = tempfile::tempdir()?;
    let server = ground
        .setup("embedded")
        .set("store.embedded.path", folder.path().display())
        .set("store.embedded.added_sync_delay_us", 500_000)
        .set("queue.max_wait_ms", 100)
        .start()?;
    let lasting = Duration::from_secs(1 + ground.amount.rounds.min(9));
    let sent = offer(server.address(), 200.0, 1, lasting, &mut rng).await;
    let refused: Vec<_> = sent.iter().filter(|sent| sent.told == REFUSED).collect();
    if refused.is_empty() {
        findings.broken("whoever came behind one that waited for too long waited too");
    }
    findings.faults = 2 * lasting.as_secs();
    let told = format!(
        "{} of {} refused, 99 of 100 of them within {}",
        thousands(refused.len() as u64),
        thousands(sent.len() as u64),
        ms(p99(refused.iter().map(|sent| sent.took)))
    );
    findings.note("", told);
    findings
        .judge_sent(&sent, &["204", REFUSED], &server)
        .await?;
    Ok(findings)
}

/// How many events were acknowledged.
fn acknowledged(sent: &[Sent]) -> usize {
    EVENTS * sent.iter().filter(|sent| sent.is_acknowledged()).count()
}

/// How many waited for the committer at the most, meanwhile.
async fn deepest_while<T>(
    server: &Server,
    work: impl Future<Output = T>,
) -> anyhow::Result<(T, u64)> {
    tokio::pin!(work);
    let mut deepest = 0;
    loop {
        let depth = async {
            sleep(Duration::from_millis(5)).await;
            server.metric("catchall_queue_depth{committer=\"0\"}").await
        };
        tokio::select! {
            done = &mut work => return Ok((done, deepest)),
            depth = depth => deepest = deepest.max(depth),
        }
    }
}

/// Sends one event after the other until one is acknowledged, and says how long that took.
async fn recovers(server: &Server, sent: &mut Vec<Sent>) -> anyhow::Result<Duration> {
    let mut client = Client::of(server.address());
    let since = Instant::now();
    loop {
        let probe = client.count(0, EVENTS).await;
        let is_over = probe.is_acknowledged();
        sent.push(probe);
        if is_over {
            return Ok(since.elapsed());
        }
        ensure!(since.elapsed() < DEADLINE, "it does not recover");
        sleep(Duration::from_millis(2)).await;
    }
}
