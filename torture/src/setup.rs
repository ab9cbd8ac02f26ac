//! How a server is set up: on a free port, and otherwise by its defaults.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::server::Server;

/// A server that can be started again and again.
#[derive(Clone, Debug)]
pub struct Setup {
    program: PathBuf,
    /// Keys as in `default.toml`. They reach the program by its environment.
    settings: Vec<(String, String)>,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// The program, with this store.
    pub fn of(program: &Path, store: &str) -> Self {
        let setup = Self {
            program: program.to_owned(),
            settings: Vec::new(),
            environment: Vec::new(),
        };
        setup
            .set("listen", "127.0.0.1:0")
            .set("telemetry.logs.format", "json")
            .set("http.unready_ms", 0)
            .set("store.kind", store)
    }

    /// With one more setting, or another value of one.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "so that numbers can be given as they are"
    )]
    #[must_use]
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.retain(|(other, _)| other != key);
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    /// With one more variable in its environment.
    #[must_use]
    pub fn with(mut self, variable: &str, value: &str) -> Self {
        self.environment
            .push((variable.to_owned(), value.to_owned()));
        self
    }

    /// Starts the server, and returns once it serves.
    ///
    /// # Errors
    /// [`NotServing`](crate::server::NotServing), when it does not.
    pub fn start(&self) -> anyhow::Result<Server> {
        let started = tokio::task::block_in_place(|| Server::try_start(self.command()));
        Ok(started?)
    }

    /// The program with nothing in its environment but these settings.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().arg("serve");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        let name = |key: &str| format!("CATCHALL__{}", key.replace('.', "__").to_uppercase());
        command.envs(self.settings.iter().map(|(key, value)| (name(key), value)));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}
