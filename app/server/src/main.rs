//! The catchall server.

mod args;

use std::{
    io::{Write, stdout},
    process::ExitCode,
};

use anyhow::Context;
use catchall::{
    settings::{DEFAULTS, Settings},
    wiring,
};
use clap::Parser;
use foundation::{
    limits,
    supervision::{Cause, Shutdown},
    telemetry::{self, Metrics},
};

use crate::args::{Arguments, Command, Flags};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Serve(flags) => run(flags, serve),
        Command::Migrate(flags) => run(flags, async |settings| {
            wiring::migrate(&settings).await?;
            tracing::info!("the schema is up to date");
            Ok(ExitCode::SUCCESS)
        }),
        Command::Defaults => {
            stdout().write_all(DEFAULTS.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run(
    flags: Flags,
    command: impl AsyncFnOnce(Settings) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let file = flags.config.clone();
    let settings = Settings::load(file.as_deref(), flags.overrides())?;
    // Requests are served, and groups committed, by threads of their own; what remains is little.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("background")
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let telemetry = telemetry::init(&settings.telemetry, VERSION)?;
        let result = command(settings).await;
        telemetry.shutdown().await;
        result
    })
}

async fn serve(settings: Settings) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::on_signals().context("cannot listen for signals")?;
    match limits::raise_open_files() {
        Ok(limit) => tracing::debug!(?limit, "raised the limit of open files"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
    let metrics = Metrics::new()?;
    metrics.build_info("catchall", VERSION)?;

    let wired = wiring::wire(&settings, &shutdown, &metrics).await?;
    let app = api::App {
        email_domains: wired.email_domains.clone(),
        store_name: settings.store.kind.as_str(),
        metrics,
        readiness: api::Readiness::default(),
    };
    let server = api::Server::bind(&[settings.listen], &settings.http, app)
        .with_context(|| format!("cannot listen on {}", settings.listen))?;
    for address in server.addresses() {
        tracing::info!(%address, version = VERSION, "serving");
    }
    let stop = async {
        shutdown.requested().await;
    };
    server.run(stop).await?;
    // No request is served any more; what they queued is committed.
    wired.close().await;
    Ok(match shutdown.cause() {
        Some(Cause::Fatal(_)) => ExitCode::FAILURE,
        Some(Cause::Requested(_)) | None => ExitCode::SUCCESS,
    })
}
