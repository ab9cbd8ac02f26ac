//! A small HTTP/1.1 client in a closed loop, for what `create-events` does not send: pipelined
//! requests and reads. One thread, a few connections, the same for controls and servers.

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::LocalSet,
};

use crate::{
    keys::{Draw, Keys},
    sample::{Latency, Run},
};

/// What is asked, and how.
#[derive(Clone, Copy)]
pub(crate) struct Requests {
    pub(crate) connections: u32,
    /// Requests in one write; then all their answers are waited for.
    pub(crate) depth: u32,
    /// The share of GETs of a verdict; the others are PUTs of an event.
    pub(crate) reads: f64,
}

/// One PUT at a time.
pub(crate) const LONE: Requests = Requests {
    connections: 1,
    depth: 1,
    reads: 0.0,
};

/// Sends `count` requests and waits for every answer. Any that is not 2xx is an error.
pub(crate) fn run(
    address: SocketAddr,
    requests: Requests,
    keys: Keys,
    count: u64,
    seed: u64,
) -> anyhow::Result<Run> {
    let (elapsed, mut took) = rounds(address, requests, keys, count, seed)?;
    Ok(Run {
        done: count,
        elapsed,
        latency: Latency::of(&mut took),
    })
}

/// The same; says how long it took, and how many milliseconds each round.
pub(crate) fn rounds(
    address: SocketAddr,
    requests: Requests,
    keys: Keys,
    count: u64,
    seed: u64,
) -> anyhow::Result<(Duration, Vec<f64>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut streams = Vec::new();
        for _ in 0..requests.connections {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        let left = Rc::new(Cell::new(count));
        let start = Instant::now();
        let tasks: Vec<_> = streams
            .into_iter()
            .zip(0..)
            .map(|(stream, number)| {
                let draw = Draw::new(keys, (seed << 16) + number);
                tokio::task::spawn_local(drive(stream, requests, draw, Rc::clone(&left)))
            })
            .collect();
        let mut took = Vec::new();
        for task in tasks {
            took.extend(task.await??);
        }
        Ok((start.elapsed(), took))
    })
}

/// One connection. Returns how long each round took, in milliseconds.
async fn drive(
    mut stream: TcpStream,
    requests: Requests,
    mut draw: Draw,
    left: Rc<Cell<u64>>,
) -> anyhow::Result<Vec<f64>> {
    let (mut out, mut inbox, mut took) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let now = left.get().min(requests.depth.into());
        if now == 0 {
            return Ok(took);
        }
        left.set(left.get() - now);
        out.clear();
        for _ in 0..now {
            write_request(&mut out, &mut draw, requests.reads);
        }
        let start = Instant::now();
        stream.write_all(&out).await?;
        read_answers(&mut stream, &mut inbox, now).await?;
        took.push(start.elapsed().as_secs_f64() * 1e3);
    }
}

fn write_request(out: &mut Vec<u8>, draw: &mut Draw, reads: f64) {
    if draw.chance(reads) {
        out.extend_from_slice(b"GET /v1/domain/");
        out.extend_from_slice(draw.name().as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\nhost: catchall\r\n\r\n");
    } else {
        out.extend_from_slice(b"PUT /v1/events/");
        out.extend_from_slice(draw.name().as_bytes());
        out.extend_from_slice(if draw.bounces() {
            b"/bounced"
        } else {
            b"/delivered".as_slice()
        });
        out.extend_from_slice(b" HTTP/1.1\r\nhost: catchall\r\ncontent-length: 0\r\n\r\n");
    }
}

/// `inbox` is empty before and after: nobody answers what was not asked.
async fn read_answers(
    stream: &mut TcpStream,
    inbox: &mut Vec<u8>,
    count: u64,
) -> anyhow::Result<()> {
    let (mut at, mut answered) = (0, 0);
    while answered < count {
        match answer_length(&inbox[at..])? {
            Some(length) => {
                at += length;
                answered += 1;
            }
            None => ensure!(
                stream.read_buf(inbox).await? > 0,
                "the server closed the connection"
            ),
        }
    }
    ensure!(at == inbox.len(), "more answers than requests");
    inbox.clear();
    Ok(())
}

/// The length of the first answer, head and body, once it is all there.
fn answer_length(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = &bytes[..end];
    let body = match head.get(9..12) {
        Some(b"204") => 0,
        Some(b"200") => content_length(head).context("an answer without a length")?,
        _ => bail!("{}", String::from_utf8_lossy(bytes)),
    };
    let length = end + 4 + body;
    Ok((bytes.len() >= length).then_some(length))
}

fn content_length(head: &[u8]) -> Option<usize> {
    const FIELD: &[u8] = b"content-length:";
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(FIELD.len())?;
        if !name.eq_ignore_ascii_case(FIELD) {
            return None;
        }
        std::str::from_utf8(value).ok()?.trim().parse().ok()
    })
}
