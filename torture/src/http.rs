//! HTTP/1.1 by hand: a client that can also do what no client should.

#![allow(
    clippy::unwrap_used,
    reason = "a server that answers no HTTP must fail the test"
)]

use std::{fmt, future::Future, io, net::SocketAddr};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::TcpStream,
    time::timeout,
};

use crate::{DEADLINE, history::Kind};

/// A connection to a server. It sends any bytes, and reads answers one by one.
pub struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

/// What a server answered.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Names in lower case.
    fields: Vec<(String, String)>,
    /// The content.
    pub body: Vec<u8>,
}

impl Connection {
    /// # Errors
    /// What the system says; `TimedOut` after the deadline, here and below.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = in_time(TcpStream::connect(address)).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            read: Vec::new(),
        })
    }

    /// Counts one event as the reference's load program does: a PUT with an empty body.
    ///
    /// # Errors
    /// Without an answer, nobody knows whether it was counted.
    pub async fn put(&mut self, domain: &str, kind: Kind) -> io::Result<Answer> {
        let kind = kind.as_str();
        self.send(format!(
            "PUT /v1/events/{domain}/{kind} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"
        ))
        .await?;
        self.answer().await
    }

    /// The answer to a GET.
    pub async fn get(&mut self, target: &str) -> Answer {
        self.try_get(target, "").await.unwrap()
    }

    /// The JSON behind a GET, past every cache.
    pub async fn json(&mut self, target: &str) -> Value {
        let fields = "Cache-Control: no-cache\r\n";
        let answer = self.try_get(target, fields).await.unwrap();
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        answer.json()
    }

    /// The answer to a GET with these header fields, each with its line end.
    ///
    /// # Errors
    /// When there is none.
    pub async fn try_get(&mut self, target: &str, fields: &str) -> io::Result<Answer> {
        self.send(format!(
            "GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n"
        ))
        .await?;
        self.answer().await
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        in_time(self.stream.write_all(bytes.as_ref())).await
    }

    /// Sends nothing more, and says so.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn finish(&mut self) -> io::Result<()> {
        in_time(self.stream.shutdown()).await
    }

    /// Sends the same bytes so many times, until an answer begins or the server hangs up, and says how
    /// many were sent.
    ///
    /// # Errors
    /// `TimedOut`.
    pub async fn pour(&mut self, bytes: &[u8], times: u64) -> io::Result<u64> {
        let mut sent = 0;
        for _ in 0..times {
            let mut rest = bytes;
            while !rest.is_empty() {
                let ready = Interest::READABLE | Interest::WRITABLE;
                if in_time(self.stream.ready(ready)).await?.is_readable() {
                    return Ok(sent);
                }
                match self.stream.try_write(rest) {
                    Ok(written) => {
                        rest = &rest[written..];
                        sent += written as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // There may be an answer all the same.
                    Err(_) => return Ok(sent),
                }
            }
        }
        Ok(sent)
    }

    /// The next answer to a request that is not a HEAD.
    ///
    /// # Errors
    /// When the connection ends before.
    pub async fn answer(&mut self) -> io::Result<Answer> {
        let (mut answer, length) = self.head().await?;
        while self.read.len() < length {
            self.read_more().await?;
        }
        answer.body = self.read.drain(..length).collect();
        Ok(answer)
    }

    /// The next answer's head, and the length of the body that stands behind it, save after a HEAD.
    ///
    /// # Errors
    /// When the connection ends before.
    pub async fn head(&mut self) -> io::Result<(Answer, usize)> {
        let end = loop {
            let end = self.read.windows(4).position(|four| four == b"\r\n\r\n");
            match end {
                Some(at) => break at + 4,
                None => self.read_more().await?,
            }
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let fields = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        let answer = Answer {
            status: status.parse().unwrap(),
            fields: fields.collect(),
            body: Vec::new(),
        };
        let length = answer.field("content-length");
        let length = length.map_or(0, |length| length.parse().unwrap());
        Ok((answer, length))
    }

    /// Waits until the server hangs up, and gives what it still sent.
    pub async fn closed(&mut self) -> Vec<u8> {
        loop {
            match self.read_more().await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => panic!("still open"),
                Err(_) => return std::mem::take(&mut self.read),
            }
        }
    }

    async fn read_more(&mut self) -> io::Result<()> {
        match in_time(self.stream.read_buf(&mut self.read)).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body.escape_ascii();
        write!(f, "{} {:?} {body}", self.status, self.fields)
    }
}

impl Answer {
    /// A header field, by its name in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|field| field.0 == name);
        field.map(|field| field.1.as_str())
    }

    /// The last word of the problem's type, if it tells a problem.
    pub fn problem(&self) -> Option<String> {
        let told: Value = serde_json::from_slice(&self.body).ok()?;
        let slug = told["type"].as_str()?.rsplit(':').next()?;
        Some(slug.to_owned())
    }

    /// The content as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The content as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(DEADLINE, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
