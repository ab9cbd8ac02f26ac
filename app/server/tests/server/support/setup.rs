use std::{
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{DEADLINE, Server};

/// The program.
const CATCHALL: &str = env!("CARGO_BIN_EXE_catchall");

/// How a server is set up: on a free port, and otherwise by its defaults. It can be started again
/// and again.
#[derive(Clone)]
pub(crate) struct Setup {
    /// Keys as in `default.toml`. They reach the program by its environment.
    settings: Vec<(String, String)>,
    soft_open_files: Option<u32>,
}

/// How a program that was run to its end has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Setup {
    pub(crate) fn memory() -> Self {
        Self::of("memory")
    }

    pub(crate) fn embedded(folder: &Path) -> Self {
        Self::of("embedded").set("store.embedded.path", folder.display())
    }

    pub(crate) fn postgres(url: &str) -> Self {
        Self::of("postgres").set("store.postgres.url", url)
    }

    fn of(store: &str) -> Self {
        Self::defaults()
            .set("listen", "127.0.0.1:0")
            .set("telemetry.logs.format", "json")
            // Nobody has to notice; one test of the API is about it.
            .set("http.unready_ms", 0)
            // A disk that stalls for a second is no failure of what is tested.
            .set("queue.max_wait_ms", 30_000)
            .set("store.kind", store)
    }

    /// With nothing set at all.
    pub(crate) fn defaults() -> Self {
        Self {
            settings: Vec::new(),
            soft_open_files: None,
        }
    }

    /// With a cache in Redis.
    pub(crate) fn cached(self, redis: &str) -> Self {
        self.set("cache.kind", "redis")
            .set("cache.redis.url", redis)
    }

    /// With one more setting, or another value of one.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "so that numbers can be given as they are"
    )]
    pub(crate) fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.retain(|(other, _)| other != key);
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    /// From a shell with this soft limit on open files.
    pub(crate) fn soft_open_files(mut self, limit: u32) -> Self {
        self.soft_open_files = Some(limit);
        self
    }

    /// Starts the server, and returns once it serves.
    #[track_caller]
    pub(crate) fn start(&self) -> Server {
        self.start_with(&[])
    }

    /// The same, with flags.
    #[track_caller]
    pub(crate) fn start_with(&self, flags: &[&str]) -> Server {
        Server::start(self.command(&[&["serve"], flags].concat()))
    }

    /// Runs the program to its end, which must not be long in coming.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + DEADLINE;
        // What it says fits into a pipe.
        while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let in_time = child.try_wait().unwrap().is_some();
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        let ended = Ended::from(output);
        assert!(in_time, "{arguments:?} goes on and on: {ended:?}");
        ended
    }

    /// Checks that `serve` ends with code 1, and gives the one line in which it says why. The
    /// lines of the log before it are no reasons.
    #[track_caller]
    pub(crate) fn refused(&self) -> String {
        self.run(&["serve"]).reason()
    }

    /// The program with nothing in its environment but these settings.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match self.soft_open_files {
            None => Command::new(CATCHALL),
            Some(limit) => {
                let mut shell = Command::new("sh");
                let script = format!("ulimit -S -n {limit} && exec \"$0\" \"$@\"");
                shell.args(["-c", &script, CATCHALL]);
                shell
            }
        };
        command.env_clear().args(arguments);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        let name = |key: &str| format!("CATCHALL__{}", key.replace('.', "__").to_uppercase());
        command.envs(self.settings.iter().map(|(key, value)| (name(key), value)));
        command
    }
}

impl Ended {
    /// Checks that the program failed, and gives the one line in which it says why.
    #[track_caller]
    pub(crate) fn reason(&self) -> String {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        let is_log = |line: &&str| line.starts_with("{\"timestamp\"");
        let reasons: Vec<_> = self.stderr.lines().skip_while(is_log).collect();
        let [reason] = reasons[..] else {
            panic!("not one line: {:?}", self.stderr);
        };
        reason.to_owned()
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
