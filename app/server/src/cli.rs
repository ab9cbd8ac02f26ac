//! The commands.

use std::{
    io::{Write, stderr, stdout},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Parser;
use foundation::{
    limits,
    supervision::{Cause, Shutdown},
    telemetry::{self, Metrics},
};

use crate::{
    args::{Arguments, Command, Flags},
    settings::{DEFAULTS, Settings},
    wiring,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long what still works in the background is waited for at the very end.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Does what the command line says.
pub fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Command::Serve(flags) => run(flags, serve),
        Command::Migrate(flags) => run(flags, migrate),
        Command::Defaults => stdout().write_all(DEFAULTS.as_bytes()).map_err(Into::into),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line with all the causes. Should nobody read it, the exit code tells.
            let _ = writeln!(stderr(), "catchall: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(
    flags: Flags,
    command: impl AsyncFnOnce(Settings, Shutdown) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let file = flags.config.clone();
    let settings = Settings::load(file.as_deref(), flags.overrides())?;
    // Requests are served, and groups committed, by threads of their own; what remains is little.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("background")
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let telemetry = telemetry::init(&settings.telemetry, VERSION)?;
        let shutdown = Shutdown::on_signals().context("cannot listen for signals")?;
        let result = command(settings, shutdown).await;
        telemetry.shutdown().await;
        result
    });
    // What is stuck there does not keep the process from ending.
    runtime.shutdown_timeout(LAST_WAIT);
    ended
}

async fn migrate(settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    tokio::select! {
        migrated = wiring::migrate(&settings) => migrated?,
        // What is not committed is undone when the connection is dropped.
        cause = shutdown.requested() => bail!("not migrated: {cause}"),
    }
    tracing::info!("the schema is up to date");
    Ok(())
}

async fn serve(settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    match limits::raise_open_files() {
        Ok(limit) => tracing::debug!(?limit, "raised the limit of open files"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
    let metrics = Metrics::new()?;
    metrics.build_info("catchall", VERSION)?;
    shutdown.register(&metrics)?;

    let wired = tokio::select! {
        wired = wiring::wire(&settings, &shutdown, &metrics) => wired?,
        // A database that does not answer must not hold up who wants to stop.
        cause = shutdown.requested() => return ended(Some(cause)),
    };
    let app = api::App {
        email_domains: wired.email_domains.clone(),
        store_name: settings.store.kind.as_str(),
        metrics,
        readiness: api::Readiness::of(&shutdown),
    };
    let server = api::Server::bind(&[settings.listen], &settings.http, app)
        .with_context(|| format!("cannot listen on {}", settings.listen))?;
    for address in server.addresses() {
        tracing::info!(%address, version = VERSION, "serving");
    }
    let stop = async {
        match shutdown.requested().await {
            Cause::Requested(_) => api::Stop::Orderly,
            Cause::Fatal(_) => api::Stop::AtOnce,
        }
    };
    server.run(stop).await?;
    // No request is served any more; what they queued is committed.
    wired.close().await;
    ended(shutdown.cause())
}

fn ended(cause: Option<Cause>) -> anyhow::Result<()> {
    match cause {
        Some(Cause::Requested(_)) => Ok(()),
        Some(Cause::Fatal(reason)) => bail!("stopped: {reason}"),
        None => bail!("the HTTP server ended by itself"),
    }
}
