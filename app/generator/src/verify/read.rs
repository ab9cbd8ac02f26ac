//! Reads the server's state, all connections at once.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use hyper::StatusCode;
use hyper::http::uri::PathAndQuery;
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Counts;
use super::plan::Plan;
use crate::client::Client;
use crate::crew::Crew;
use crate::progress::Progress;
use crate::routes;
use crate::verdict::Verdict;

/// Pauses before the attempts to read one resource. A read can be repeated without harm.
const ATTEMPTS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
];

/// How long the server may be behind what it acknowledged.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// What the server says about a domain.
#[derive(Debug, Deserialize)]
pub(super) struct DomainState {
    pub(super) domain: String,
    pub(super) verdict: Verdict,
    delivered: u64,
    bounced: u64,
}

impl DomainState {
    pub(super) fn counts(&self) -> Counts {
        Counts {
            delivered: self.delivered,
            bounced: self.bounced,
        }
    }
}

#[derive(Deserialize)]
struct Stats {
    threshold: u64,
    /// Some of what was acknowledged does not show yet.
    #[serde(default)]
    behind: bool,
}

/// Asks the server for its threshold, once it shows all that it acknowledged.
pub(super) fn threshold(crew: &Crew) -> anyhow::Result<u64> {
    let one = Crew {
        threads: 1,
        connections: 1,
        ..crew.clone()
    };
    let answer = Arc::new(Mutex::new(None));
    one.run(
        &Progress::hidden(),
        || 0,
        |mut client, _| {
            let answer = Arc::clone(&answer);
            async move {
                let stats = settled(&mut client).await;
                *answer.lock() = Some(stats);
            }
        },
    )?;
    let stats = answer.lock().take().context("no answer")?;
    Ok(stats.context("cannot read /v1/stats")?.threshold)
}

/// Reads the server's state once it shows all that was acknowledged: what the server keeps while its
/// store is away counts when that is back.
async fn settled(client: &mut Client) -> anyhow::Result<Stats> {
    let deadline = Instant::now() + SETTLED_WITHIN;
    loop {
        let stats = json::<Stats>(client, routes::stats()).await?;
        if !stats.behind {
            return Ok(stats);
        }
        if Instant::now() > deadline {
            bail!("the server is behind what it acknowledged");
        }
        tokio::time::sleep(ATTEMPTS[1]).await;
    }
}

/// Reads every domain of the plan and gives each to `visit`, with its place, until that says
/// `Break`.
pub(super) fn every_domain<V>(
    crew: &Crew,
    label: &'static str,
    plan: &Arc<Plan>,
    visit: V,
) -> anyhow::Result<()>
where
    V: Fn(usize, anyhow::Result<DomainState>) -> ControlFlow<()> + Send + Sync + 'static,
{
    let count = plan.domains().len();
    let progress = Progress::start(label, "domains", count as u64);
    let next = Arc::new(AtomicUsize::new(0));
    let visit = Arc::new(visit);
    crew.run(
        &progress,
        || next.load(Relaxed).min(count) as u64,
        |mut client, _| {
            let (plan, next, visit) = (Arc::clone(plan), Arc::clone(&next), Arc::clone(&visit));
            async move {
                loop {
                    let place = next.fetch_add(1, Relaxed);
                    if place >= count {
                        return;
                    }
                    let state = json(&mut client, routes::domain(plan.name(place))).await;
                    if visit(place, state).is_break() {
                        next.store(count, Relaxed);
                    }
                }
            }
        },
    )
}

/// Reads one resource, and again where that may help.
async fn json<T: DeserializeOwned>(client: &mut Client, path: PathAndQuery) -> anyhow::Result<T> {
    let mut last = anyhow!("not tried");
    for pause in ATTEMPTS {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        match client.get(path.clone()).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                return serde_json::from_slice(&answer.body).context("an answer of another form");
            }
            Ok(answer) if answer.status.is_server_error() => last = anyhow!("{}", answer.status),
            Ok(answer) => bail!("{}", answer.status),
            Err(failure) => last = anyhow!(failure.as_str()),
        }
    }
    Err(last)
}
