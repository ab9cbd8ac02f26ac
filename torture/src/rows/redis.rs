//! Redis as a cache: killed, frozen, emptied, restored old; and a store that is slow behind it.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::ensure;
use fastrand::Rng;
use foundation::testing::{Postgres, Redis};
use tokio::task::block_in_place;

use super::{
    Findings, Ground, Row,
    scene::{address, brief, fold, through},
};
use crate::{
    fleet::{Fleet, Plan},
    proxy::{Proxy, Rules},
    setup::Setup,
};

/// Whatever befalls Redis.
pub const FAULTS: Row = Row {
    name: "Redis killed, frozen, flushed, restored old",
    what: "Under load, one after the other; what is restored was saved a second before.",
    client: "nothing: reads are answered by the store, and none is older than promised",
    run: |ground| Box::pin(faults(ground)),
};

/// A store that is slow behind the cache.
pub const SLOW_STORE: Row = Row {
    name: "a slow store behind Redis",
    what: "Two servers with one database and one cache; the way to the database is slow for the one \
           that reads, then for the one that counts.",
    client: "its answer, later, and 503 overloaded when the oldest waits too long; no read is older than promised, and none shows what is not committed",
    run: |ground| Box::pin(slow_store(ground)),
};

const TTL: Duration = Duration::from_millis(100);

async fn faults(ground: Ground) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    let folder = tempfile::tempdir()?;
    let redis = block_in_place(Redis::start);
    // Long enough that what is restored is still fresh.
    let ttl = Duration::from_secs(3);
    let server = ground
        .setup("embedded")
        .set("store.embedded.path", folder.path().display())
        // Clients are to hear of nothing, and a disk may stall for a second.
        .set("queue.max_wait_ms", 30_000)
        .set("cache.kind", "redis")
        .set("cache.redis.url", redis.url())
        .set("cache.ttl_ms", ttl.as_millis())
        .start()?;
    let plan = Plan {
        readers: 12,
        domains: 12,
        latest: false,
        ..Plan::new(rng.u64(..))
    };
    let fleet = Fleet::start(&plan, &[server.address()]);
    for _ in 0..ground.amount.rounds {
        for fault in 0..4 {
            fleet.go_on_for(rng.u64(100..400)).await?;
            let began = Instant::now();
            match fault {
                0 => {
                    block_in_place(|| redis.kill());
                    fleet.go_on_for(100).await?;
                    block_in_place(|| redis.start_again());
                }
                1 => {
                    block_in_place(|| redis.freeze());
                    fleet.go_on_for(100).await?;
                    block_in_place(|| redis.thaw());
                }
                2 => ask(&redis, "FLUSHALL")?,
                _ => {
                    ask(&redis, "SAVE")?;
                    fleet.go_on_for(100).await?;
                    block_in_place(|| redis.kill());
                    block_in_place(|| redis.start_again());
                }
            }
            findings.faults += 1;
            fleet.recovers(Instant::now()).await?;
            findings.recoveries.push(began.elapsed());
            is_used_again(&server).await?;
        }
    }
    findings.settle(fleet, &server, ttl).await?;
    let trouble = findings
        .answers
        .keys()
        .find(|answer| !matches!(&answer[..], "200" | "204"));
    if let Some(answer) = trouble.cloned() {
        findings.broken(format!("a client heard of it: {answer}"));
    }
    Ok(findings)
}

async fn is_used_again(server: &crate::server::Server) -> anyhow::Result<()> {
    let began = Instant::now();
    while server.metric("catchall_cache_up").await != 1 {
        ensure!(
            began.elapsed() < crate::DEADLINE,
            "the cache is not used again"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn slow_store(ground: Ground) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    let (postgres, redis) = block_in_place(|| (Postgres::start(), Redis::start()));
    let to_reader = Proxy::start(address(&postgres)).await?;
    let to_writer = Proxy::start(address(&postgres)).await?;
    let setup = |proxy| {
        brief(ground.setup("postgres"), &through(proxy))
            // To connect takes several exchanges.
            .set("store.postgres.connect_timeout_ms", 10_000)
            .set("store.postgres.write_timeout_ms", 20_000)
            .set("store.postgres.max_read_connections", 16)
    };
    let cached = |setup: Setup| {
        setup
            .set("cache.kind", "redis")
            .set("cache.redis.url", redis.url())
            .set("cache.ttl_ms", TTL.as_millis())
    };
    let reader = cached(setup(&to_reader)).start()?;
    // One that does not tell Redis of what it counts: the promise must hold all the same.
    let silent = setup(&to_writer).start()?;
    let writer = cached(setup(&to_writer)).start()?;
    let plan = Plan {
        writers: 8,
        readers: 20,
        domains: 4,
        latest: false,
        apart: true,
        ..Plan::new(rng.u64(..))
    };
    let fleet = Fleet::start(&plan, &[reader.address(), silent.address()]);
    let held_up = Rules {
        delay: Duration::from_millis(150),
        ..Rules::default()
    };
    for _ in 0..ground.amount.rounds {
        for (server, proxy) in [(&silent, &to_reader), (&writer, &to_writer)] {
            fleet.turn_to(&[reader.address(), server.address()]);
            proxy.set(held_up);
            // Time for some reads, each of which takes longer than what it finds is fresh.
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(2) {
                fleet.go_on_for(10).await?;
            }
            proxy.set(Rules::default());
            findings.faults += 1;
            let healed = Instant::now();
            fleet.recovers(healed).await?;
            findings.recoveries.push(healed.elapsed());
        }
    }
    let (history, counted) = findings.settle(fleet, &writer, TTL).await?;
    fold(&mut findings, &postgres, &history, &counted)?;
    Ok(findings)
}

/// One command without an answer of interest.
fn ask(redis: &Redis, command: &str) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, redis.port()))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes())?;
    let mut told = String::new();
    stream.read_to_string(&mut told)?;
    ensure!(told.starts_with("+OK"), "{command}: {told}");
    Ok(())
}
