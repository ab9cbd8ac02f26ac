//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Counts what happened to mail, domain by domain, and tells which domains are catch-alls.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve.
    Serve(Flags),
    /// Bring the schema of the PostgreSQL store up to date, and end.
    Migrate(Flags),
    /// Print all settings with their defaults, as a file to start from.
    Defaults,
}

/// The settings most often changed. All others go in a file, or in the environment:
/// CATCHALL__HTTP__WORKERS=2 is http.workers.
#[derive(Args)]
pub(crate) struct Flags {
    /// A file with settings (TOML).
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The address to serve on.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Where tallies are kept.
    #[arg(long)]
    store: Option<Store>,
    /// The folder of the embedded store.
    #[arg(long, value_name = "FOLDER")]
    data: Option<String>,
    /// The database of the postgres store. Everybody on this machine can read a command line:
    /// prefer the environment (CATCHALL__STORE__POSTGRES__URL) where it has a password.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// What answers reads before the store does.
    #[arg(long)]
    cache: Option<Cache>,
    /// The Redis of the cache.
    #[arg(long, value_name = "URL")]
    redis_url: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Store {
    Memory,
    Embedded,
    Postgres,
}

#[derive(Clone, Copy, ValueEnum)]
enum Cache {
    None,
    Redis,
}

impl Flags {
    /// The flags that were given, by the settings they set.
    pub(crate) fn overrides(self) -> impl Iterator<Item = (&'static str, String)> {
        fn name<V: ValueEnum + Copy>(value: V) -> Option<String> {
            value
                .to_possible_value()
                .map(|value| value.get_name().to_owned())
        }
        [
            ("listen", self.listen),
            ("store.kind", self.store.and_then(name)),
            ("store.embedded.path", self.data),
            ("store.postgres.url", self.database_url),
            ("cache.kind", self.cache.and_then(name)),
            ("cache.redis.url", self.redis_url),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
    }
}
