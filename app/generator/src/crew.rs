//! The connections of a run, spread over threads with one single-threaded runtime each.

use std::future::Future;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::progress::Progress;
use crate::target::Endpoint;

/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(100);

/// Who does the work: so many connections on so many threads.
#[derive(Debug, Clone)]
pub(crate) struct Crew {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) threads: usize,
    pub(crate) connections: usize,
    /// Bounds each request.
    pub(crate) timeout: Duration,
}

impl Crew {
    /// Gives every connection to `work`, with the index of its thread, and returns when all have
    /// come to their end. Meanwhile shows what `position` says.
    ///
    /// # Errors
    /// A runtime could not be built, or the work of a connection panicked.
    pub(crate) fn run<W, F>(
        &self,
        progress: &Progress,
        position: impl Fn() -> u64,
        work: W,
    ) -> anyhow::Result<()>
    where
        W: Fn(Client, usize) -> F + Sync,
        F: Future<Output = ()> + Send + 'static,
    {
        let runtimes = (0..self.threads)
            .map(|_| Builder::new_current_thread().enable_all().build())
            .collect::<Result<Vec<_>, _>>()
            .context("cannot build a runtime")?;
        let work = &work;
        let done = thread::scope(|scope| {
            let (alive, all_done) = mpsc::channel::<()>();
            let threads: Vec<_> = runtimes
                .into_iter()
                .enumerate()
                .map(|(thread, runtime)| {
                    let alive = alive.clone();
                    scope.spawn(move || {
                        let done = self.run_thread(&runtime, thread, work);
                        drop(alive);
                        done
                    })
                })
                .collect();
            drop(alive);
            while all_done.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                progress.show(position());
            }
            threads.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
            })
        });
        progress.finish(position());
        done
    }

    fn run_thread<W, F>(&self, runtime: &Runtime, thread: usize, work: &W) -> anyhow::Result<()>
    where
        W: Fn(Client, usize) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let remainder = usize::from(thread < self.connections % self.threads);
        let share = self.connections / self.threads + remainder;
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..share {
                let client = Client::new(Arc::clone(&self.endpoint), self.timeout);
                tasks.spawn(work(client, thread));
            }
            while let Some(ended) = tasks.join_next().await {
                ended.context("the work of a connection panicked")?;
            }
            Ok(())
        })
    }
}
