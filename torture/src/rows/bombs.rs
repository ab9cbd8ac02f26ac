//! Bodies that are far larger than they look, or never end.

use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::Arc,
};

use fastrand::Rng;
use flate2::{Compression, write::GzEncoder};
use tokio::task::JoinSet;

use super::{
    Findings, Ground, Row,
    clients::{Steady, resident, told},
};
use crate::http::Connection;

/// All of them at once.
pub const BOMBS: Row = Row {
    name: "bombs",
    what: "Many at once: gzip of 4 GiB, zstd of 16 GiB, zstd that asks for a window of 2 GiB, and 10 GB \
           in chunks; beside honest clients.",
    client: "413 content-too-large at the limit, 400 invalid-encoding for the window, 503 overloaded \
             where all bodies together take too much",
    run: |ground| Box::pin(bombs(ground)),
};

/// What all bodies may take together, as it is set.
const BODIES: u64 = 64 << 20;
/// What the server may grow by at the most. Several times that: a buffer that grows stands beside the one
/// it grew out of, and the allocator keeps for a while what is freed.
const MEMORY: u64 = 5 * BODIES;
/// What of an endless body may be on its way when the answer comes: the limit, and buffers.
const MOST_TAKEN: u64 = 64 << 20;

/// What is sent, and what may be answered.
struct Bomb {
    name: &'static str,
    encoding: &'static str,
    content: Vec<u8>,
    expected: &'static str,
}

async fn bombs(ground: Ground) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = Rng::with_seed(ground.seed);
    let folder = tempfile::tempdir()?;
    let server = ground
        .setup("embedded")
        .set("store.embedded.path", folder.path().display())
        .set("http.max_bodies_bytes", BODIES)
        // A disk may stall for a second.
        .set("queue.max_wait_ms", 30_000)
        .start()?;
    let bombs = tokio::task::spawn_blocking(all_bombs).await??;
    let honest = Steady::start(server.address(), 4, 1, &mut rng);
    let [before, _] = resident(&server)?;
    // Each kind by itself first, so that it is known to be met at its own limit.
    for bomb in &bombs {
        let answered = throw(server.address(), bomb).await?;
        if answered != bomb.expected {
            findings.broken(format!("{} is answered {answered}", bomb.name));
        }
        note(&mut findings, bomb.name, &answered);
    }
    let (answered, taken) = pour(server.address()).await?;
    if answered != "413 content-too-large" || taken > MOST_TAKEN {
        findings.broken(format!(
            "{taken} bytes in chunks are taken, and answered {answered}"
        ));
    }
    note(&mut findings, "chunks", &answered);

    let bombs: Arc<[Bomb]> = bombs.into();
    for _ in 0..ground.amount.rounds {
        let mut thrown: JoinSet<anyhow::Result<(&'static str, String)>> = JoinSet::new();
        for _ in 0..40 {
            let (bombs, address) = (Arc::clone(&bombs), server.address());
            let kind = rng.usize(..=bombs.len());
            thrown.spawn(async move {
                match bombs.get(kind) {
                    Some(bomb) => Ok((bomb.name, throw(address, bomb).await?)),
                    None => Ok(("chunks", pour(address).await?.0)),
                }
            });
        }
        while let Some(joined) = thrown.join_next().await {
            let (name, answered) = joined??;
            let expected = match bombs.iter().find(|bomb| bomb.name == name) {
                Some(bomb) => bomb.expected,
                None => "413 content-too-large",
            };
            if answered != expected && answered != "503 overloaded" {
                findings.broken(format!("one {name} of many is answered {answered}"));
            }
            note(&mut findings, name, &answered);
        }
    }
    let [_, peak] = resident(&server)?;
    let grown = peak.saturating_sub(before);
    if grown > MEMORY {
        findings.broken(format!("the server grew by {} MiB", grown >> 20));
    }
    let sent = honest.stop().await;
    findings.judge_sent(&sent, &["204"], &server).await?;
    let told = format!(
        "the server grew by {} MiB, to {} MiB, where all bodies may take {} MiB; {:.1} MiB of 10 GB in \
         chunks were sent until the answer",
        grown >> 20,
        peak >> 20,
        BODIES >> 20,
        taken as f64 / f64::from(1 << 20)
    );
    findings.note("", told);
    Ok(findings)
}

fn note(findings: &mut Findings, name: &str, answered: &str) {
    findings.faults += 1;
    *findings
        .answers
        .entry(format!("{name}: {answered}"))
        .or_default() += 1;
}

fn all_bombs() -> io::Result<Vec<Bomb>> {
    const TOO_LARGE: &str = "413 content-too-large";
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(&vec![b'\n'; 64 << 20])?;
    Ok(vec![
        Bomb {
            name: "gzip",
            encoding: "gzip",
            // One member behind the other is content too.
            content: gzip.finish()?.repeat(64),
            expected: TOO_LARGE,
        },
        Bomb {
            name: "zstd",
            encoding: "zstd",
            content: zstd(23, 131_072),
            expected: TOO_LARGE,
        },
        Bomb {
            name: "zstd window",
            encoding: "zstd",
            content: zstd(31, 1),
            expected: "400 invalid-encoding",
        },
    ])
}

/// A frame with a window of this power of two, and so many blocks of 128 KiB (RFC 8878, section 3.1.1).
fn zstd(window_log: u8, blocks: u32) -> Vec<u8> {
    const BLOCK: u32 = 128 << 10;
    const REPEATED: u32 = 1 << 1;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (window_log - 10) << 3];
    for block in 1..=blocks {
        let head = BLOCK << 3 | REPEATED | u32::from(block == blocks);
        frame.extend_from_slice(&head.to_le_bytes()[..3]);
        frame.push(b'\n');
    }
    frame
}

/// What it is answered.
async fn throw(server: SocketAddr, bomb: &Bomb) -> anyhow::Result<String> {
    let mut connection = Connection::open(server).await?;
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-ndjson\r\n\
         Content-Encoding: {}\r\nContent-Length: {}\r\n\r\n",
        bomb.encoding,
        bomb.content.len()
    );
    connection.send(head).await?;
    connection.pour(&bomb.content, 1).await?;
    Ok(told(&connection.answer().await?))
}

/// What 10 GB in chunks are answered, and how much of them was sent until then.
async fn pour(server: SocketAddr) -> anyhow::Result<(String, u64)> {
    let mut connection = Connection::open(server).await?;
    let head = "POST /v1/events HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-ndjson\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    connection.send(head).await?;
    let chunk = format!("{:x}\r\n{}\r\n", 100_000, "\n".repeat(100_000));
    let sent = connection.pour(chunk.as_bytes(), 100_000).await?;
    Ok((told(&connection.answer().await?), sent))
}
