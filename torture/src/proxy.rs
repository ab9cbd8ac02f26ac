//! A TCP proxy that can be told to be slow, to be silent, or to cut what passes it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

/// What happens to what passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// For so long each piece is held back.
    pub delay: Duration,
    /// No more than this passes in a second, by each connection and direction.
    pub bytes_per_s: Option<u32>,
    /// What clients send does not pass, nor is it refused.
    pub requests_vanish: bool,
    /// What the server sends does not.
    pub answers_vanish: bool,
    /// A connection is reset once so many bytes of its client have passed.
    pub cut_requests_after: Option<u64>,
    /// A connection is reset once so many bytes of the server have passed.
    pub cut_answers_after: Option<u64>,
}

/// A proxy on a port of its own. It ends, with its connections, when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    target: SocketAddr,
    rules: Rules,
    /// Counts how often all connections were reset.
    resets: u64,
}

impl Proxy {
    /// A proxy that passes everything on to a server.
    ///
    /// # Errors
    /// When there is no port for it.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let rules = Rules::default();
        let state = watch::Sender::new(State {
            target,
            rules,
            resets: 0,
        });
        let accepting = tokio::spawn(accept(listener, state.clone()));
        Ok(Self {
            address,
            state,
            accepting,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on these rules hold, for what is open too.
    pub fn set(&self, rules: Rules) {
        self.state.send_modify(|state| state.rules = rules);
    }

    /// Resets all connections.
    pub fn reset(&self) {
        self.state.send_modify(|state| state.resets += 1);
    }

    /// New connections go to another server.
    pub fn turn_to(&self, target: SocketAddr) {
        self.state.send_modify(|state| state.target = target);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: watch::Sender<State>) {
    let mut open = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            return;
        };
        while open.try_join_next().is_some() {}
        open.spawn(pass(client, state.subscribe()));
    }
}

/// Passes on one connection, until either side ends it or it is cut.
async fn pass(mut client: TcpStream, state: watch::Receiver<State>) -> io::Result<()> {
    let State { target, resets, .. } = *state.borrow();
    let mut server = TcpStream::connect(target).await?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        // To drop it is to reset it: neither side takes it for an end. An owned half of it would say
        // that nothing more comes when it is dropped.
        stream.set_zero_linger()?;
    }
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let mut until_reset = state.clone();
    tokio::select! {
        // What was held up does not slip through.
        biased;
        _ = until_reset.wait_for(|state| state.resets > resets) => Ok(()),
        ended = pump(from_client, to_server, state.clone(), Direction::Requests) => ended,
        ended = pump(from_server, to_client, state, Direction::Answers) => ended,
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Requests,
    Answers,
}

impl Direction {
    fn vanish(self, rules: &Rules) -> bool {
        match self {
            Self::Requests => rules.requests_vanish,
            Self::Answers => rules.answers_vanish,
        }
    }

    fn cut_after(self, rules: &Rules) -> Option<u64> {
        match self {
            Self::Requests => rules.cut_requests_after,
            Self::Answers => rules.cut_answers_after,
        }
    }
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut state: watch::Receiver<State>,
    direction: Direction,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    let mut passed = 0;
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..length];
        if state
            .wait_for(|state| !direction.vanish(&state.rules))
            .await
            .is_err()
        {
            return Ok(());
        }
        let rules = state.borrow().rules;
        if !rules.delay.is_zero() {
            sleep(rules.delay).await;
        }
        if let Some(most) = direction.cut_after(&rules) {
            let left = usize::try_from(most.saturating_sub(passed)).unwrap_or(usize::MAX);
            if left < rest.len() {
                to.write_all(&rest[..left]).await?;
                return Ok(());
            }
        }
        passed += length as u64;
        while !rest.is_empty() {
            let piece = match rules.bytes_per_s {
                Some(bytes_per_s) => {
                    sleep(Duration::from_millis(10)).await;
                    rest.len().min((bytes_per_s / 100).max(1) as usize)
                }
                None => rest.len(),
            };
            to.write_all(&rest[..piece]).await?;
            rest = &rest[piece..];
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn connected(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(proxy.address()).await.unwrap()
    }

    async fn goes_round(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
        stream.write_all(bytes).await?;
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).await?;
        assert_eq!(back, bytes);
        Ok(())
    }

    #[tokio::test]
    async fn it_passes_everything_on_and_can_be_slow() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut stream = connected(&proxy).await;
        goes_round(&mut stream, &[7; 100_000]).await.unwrap();
        let delay = Duration::from_millis(50);
        proxy.set(Rules {
            delay,
            ..Rules::default()
        });
        let sent = Instant::now();
        goes_round(&mut stream, b"slow").await.unwrap();
        assert!(sent.elapsed() >= 2 * delay);
        proxy.set(Rules {
            bytes_per_s: Some(1_000),
            ..Rules::default()
        });
        let sent = Instant::now();
        goes_round(&mut stream, &[1; 100]).await.unwrap();
        assert!(sent.elapsed() >= Duration::from_millis(100));
    }

    #[tokio::test]
    async fn it_cuts_where_it_is_told_to() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        for rules in [
            Rules {
                cut_requests_after: Some(3),
                ..Rules::default()
            },
            Rules {
                cut_answers_after: Some(3),
                ..Rules::default()
            },
        ] {
            proxy.set(rules);
            let mut stream = connected(&proxy).await;
            stream.write_all(b"abcdef").await.unwrap();
            let mut back = Vec::new();
            let ended = stream.read_to_end(&mut back).await;
            assert!(ended.is_err() && back.len() <= 3, "{back:?}");
        }
    }

    #[tokio::test]
    async fn what_vanished_comes_after_all_and_what_was_reset_does_not() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        proxy.set(Rules {
            answers_vanish: true,
            ..Rules::default()
        });
        let mut stream = connected(&proxy).await;
        stream.write_all(b"abc").await.unwrap();
        let mut back = [0; 3];
        let silent = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut back)).await;
        assert!(silent.is_err());
        proxy.set(Rules::default());
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"abc");
        proxy.reset();
        assert!(goes_round(&mut stream, b"abc").await.is_err());
        let mut stream = connected(&proxy).await;
        goes_round(&mut stream, b"abc").await.unwrap();
    }
}
