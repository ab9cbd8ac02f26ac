use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::task::JoinSet;

use super::{Account, Answer, Connection, Kind, until};

/// What each client of a load does, over and over, on a connection of its own.
#[derive(Clone, Copy)]
pub(crate) enum Job {
    /// Counts an event of any kind for any of the domains.
    Write,
    /// Reads any of the domains by either route, as a cache may tell it.
    Read,
}

/// Clients at work.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<Account>,
    domains: Arc<[String]>,
}

struct Shared {
    stopping: AtomicBool,
    /// How many requests were answered as they should be.
    answered: AtomicU64,
    /// The first answer that was another one.
    refusal: OnceLock<String>,
}

impl Load {
    pub(crate) fn start(address: SocketAddr, clients: usize, job: Job, domains: &[String]) -> Self {
        let shared = Arc::new(Shared {
            stopping: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            refusal: OnceLock::new(),
        });
        let domains: Arc<[String]> = domains.into();
        let client = |_| Client {
            shared: Arc::clone(&shared),
            domains: Arc::clone(&domains),
            account: Account::new(&domains),
            random: fastrand::Rng::new(),
        };
        let clients = (0..clients).map(client);
        Self {
            clients: clients.map(|client| client.run(address, job)).collect(),
            shared,
            domains,
        }
    }

    /// Waits until so many more requests are answered.
    ///
    /// # Panics
    /// When a client was told anything but success.
    pub(crate) async fn go_on_for(&self, requests: u64) {
        let answered = || self.shared.answered.load(Ordering::Relaxed);
        let enough = answered() + requests;
        until("the load has gone on", async || {
            assert_eq!(self.shared.refusal.get(), None);
            answered() >= enough
        })
        .await;
    }

    /// Lets the clients finish what they are at, and gives what they know.
    ///
    /// # Panics
    /// When a client was told anything but success, or nothing in time.
    pub(crate) async fn finish(self) -> Account {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let mut sum = Account::new(&self.domains);
        for account in self.clients.join_all().await {
            sum.add(&account);
        }
        assert_eq!(self.shared.refusal.get(), None);
        sum
    }
}

struct Client {
    shared: Arc<Shared>,
    domains: Arc<[String]>,
    account: Account,
    random: fastrand::Rng,
}

impl Client {
    /// Works until it is to stop, or until the connection ends.
    async fn run(mut self, address: SocketAddr, job: Job) -> Account {
        let Ok(mut connection) = Connection::open(address).await else {
            return self.account;
        };
        while !self.shared.stopping.load(Ordering::Relaxed) {
            let domain = self.random.usize(..self.domains.len());
            let (answer, expected) = match job {
                Job::Write => (self.write(&mut connection, domain).await, 204),
                Job::Read => (self.read(&mut connection, domain).await, 200),
            };
            match answer {
                Ok(answer) if answer.status != expected => {
                    let _ = self.shared.refusal.set(format!("{answer:?}"));
                    break;
                }
                Ok(answer) => {
                    self.shared.answered.fetch_add(1, Ordering::Relaxed);
                    if answer.field("connection") == Some("close") {
                        break;
                    }
                }
                Err(error) => {
                    assert_ne!(error.kind(), io::ErrorKind::TimedOut, "no answer in time");
                    break;
                }
            }
        }
        self.account
    }

    async fn write(&mut self, connection: &mut Connection, domain: usize) -> io::Result<Answer> {
        let kind = match self.random.u8(..8) {
            0 => Kind::Bounced,
            _ => Kind::Delivered,
        };
        let answer = connection.put(&self.domains[domain], kind).await;
        match &answer {
            Ok(answer) if answer.status == 204 => self.account.acknowledge(domain, kind),
            _ => self.account.leave_open(domain, kind),
        }
        answer
    }

    async fn read(&mut self, connection: &mut Connection, domain: usize) -> io::Result<Answer> {
        let route = ["domain", "domains"][self.random.usize(..2)];
        let target = format!("/v1/{route}/{}", self.domains[domain]);
        connection.try_get(&target, "").await
    }
}
