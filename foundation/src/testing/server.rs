//! A server process that cannot outlive the tests.
//!
//! Beside each server stands a guardian: a small shell script that reads from a pipe which only
//! the test process holds. When the test process is gone, however it went, the pipe ends; the
//! guardian then ends the server and removes its folder. (Linux can signal a process on the death
//! of its parent, but that means the death of the *thread* that started it.)

use std::fmt;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;

use super::account::{Account, temporary_folder};
use super::ports::free_port;
use super::process::{self, PATIENCE, within};
use super::programs::command;

/// The signal on which all of them cut their connections and end in an orderly way.
const ORDERLY: Signal = Signal::INT;

/// The file in the folder with the server's process id, there while it may run.
const PID_FILE: &str = "server.pid";

/// `$0` is the folder. A frozen server must go on to hear of its end. Five seconds of patience,
/// then SIGKILL; a process that waits for its parent to collect it (`Z`) has ended.
const GUARDIAN: &str = r#"
trap '' HUP INT TERM QUIT
cat >/dev/null
alive() { grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$1/status"; }
children() { grep -ls "^PPid:[[:space:]]*$1\$" /proc/[0-9]*/status | cut -d/ -f3; }
if read -r server <"$0/server.pid"; then
    kill -s CONT $(children "$server") "$server"
    kill -s INT "$server"
    tries=0
    while alive "$server" && [ "$tries" -lt 100 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
    family=$(children "$server")
    alive "$server" && kill -s KILL "$server" $family
fi
cd / && rm -rf "$0"
"#;

/// `$0` is the file for the process id, the rest the server's command line. The id is written
/// before the shell becomes the server, so that the guardian never misses one that runs.
const BECOME_SERVER: &str = r#"echo $$ >"$0" && exec "$@""#;

/// What sort of server it is.
pub(super) trait Program: fmt::Debug + Send + Sync {
    /// The command that runs the server in the foreground.
    fn command(&self, folder: &Path, port: u16) -> Command;

    /// Whether the server with this process id accepts connections. To knock at the port is not
    /// enough: another server may have taken it.
    fn is_ready(&self, folder: &Path, port: u16, pid: u32) -> bool;
}

/// What a test may do to a server's process, whichever server it is.
#[derive(Debug)]
pub struct Server {
    program: Box<dyn Program>,
    account: Option<Account>,
    folder: PathBuf,
    port: u16,
    guardian: Child,
    pipe: Option<ChildStdin>,
    running: Mutex<Option<Child>>,
}

enum StartFailure {
    PortTaken,
    Other(String),
}

impl Server {
    /// Makes the folder, with a name that begins as given, and sets the guardian over it.
    pub(super) fn new(name: &str, account: Option<Account>, program: Box<dyn Program>) -> Self {
        let folder = tempfile::Builder::new()
            .prefix(&format!("test-{name}-"))
            .tempdir_in(temporary_folder())
            .expect("a temporary folder can be made")
            .keep();
        if let Some(account) = account {
            account.own(&folder);
        }
        // A process group of its own, so that Ctrl-C in the terminal does not reach it.
        let mut guardian = command("sh")
            .args(["-c", GUARDIAN])
            .arg(&folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh can be started");
        let pipe = guardian.stdin.take();
        let running = Mutex::new(None);
        Self {
            program,
            account,
            folder,
            port: 0,
            guardian,
            pipe,
            running,
        }
    }

    /// Runs a program that prepares the folder, to its end.
    pub(super) fn prepare(&self, program: &mut Command) {
        let output = self
            .as_account(program)
            .output()
            .expect("the program can be started");
        let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (said(&output.stdout), said(&output.stderr));
        assert!(
            output.status.success(),
            "{program:?} failed: {}\n{out}{err}",
            output.status
        );
    }

    /// Starts the server for the first time, on a port that is free.
    pub(super) fn start(&mut self) {
        for _ in 0..5 {
            self.port = free_port();
            match self.try_start() {
                Ok(()) => return,
                Err(StartFailure::PortTaken) => {}
                Err(StartFailure::Other(problem)) => panic!("{problem}"),
            }
        }
        panic!("five ports in a row were taken just before the server could use them");
    }

    /// Starts it again after [`stop`](Self::stop) or [`kill`](Self::kill), on the same port and
    /// folder.
    ///
    /// # Panics
    /// When it runs already or does not come up.
    pub fn start_again(&self) {
        let mut outcome = Err(StartFailure::PortTaken);
        within(PATIENCE, || {
            outcome = self.try_start();
            !matches!(outcome, Err(StartFailure::PortTaken))
        });
        match outcome {
            Ok(()) => {}
            Err(StartFailure::PortTaken) => panic!("somebody keeps port {}", self.port),
            Err(StartFailure::Other(problem)) => panic!("{problem}"),
        }
    }

    /// Stops it in an orderly way: connections are cut, what is under way is rolled back, data is
    /// flushed.
    ///
    /// # Panics
    /// When it does not run or does not stop.
    pub fn stop(&self) {
        let mut child = self.lock().take().expect("the server runs");
        let stopped = stop(&mut child, PATIENCE);
        self.clean_up(&mut child);
        assert!(stopped, "the server did not stop:\n{}", self.log());
    }

    /// Ends all its processes at once with SIGKILL. Does nothing when it does not run.
    ///
    /// # Panics
    /// When they outlive it.
    pub fn kill(&self) {
        if let Some(mut child) = self.lock().take() {
            self.clean_up(&mut child);
        }
    }

    /// Halts all its processes: connections stay open, new ones are made, nothing is answered.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&self) {
        process::freeze(self.pid().expect("the server runs"));
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    ///
    /// # Panics
    /// When it does not run.
    pub fn thaw(&self) {
        process::thaw(self.pid().expect("the server runs"));
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The id of its first process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(Child::id)
    }

    /// Its temporary folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it has logged since its last start.
    #[must_use]
    pub fn log(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn try_start(&self) -> Result<(), StartFailure> {
        let mut running = self.lock();
        assert!(
            running.is_none(),
            "the server on port {} runs already",
            self.port
        );
        let server = self.program.command(&self.folder, self.port);
        let log = fs::File::create(self.log_path()).expect("the log can be written");
        let mut shell = command("sh");
        shell
            .args(["-c", BECOME_SERVER])
            .arg(self.folder.join(PID_FILE));
        shell.arg(server.get_program()).args(server.get_args());
        let mut child = self
            .as_account(&mut shell)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be opened twice"))
            .stderr(log)
            .spawn()
            .expect("sh can be started");

        let pid = child.id();
        let mut ready = false;
        within(PATIENCE, || {
            ready = self.program.is_ready(&self.folder, self.port, pid);
            ready || !child.try_wait().is_ok_and(|ended| ended.is_none())
        });
        if ready {
            *running = Some(child);
            return Ok(());
        }
        self.clean_up(&mut child);
        let log = self.log();
        // Programs differ in the first letter.
        Err(if log.contains("ddress already in use") {
            StartFailure::PortTaken
        } else {
            StartFailure::Other(format!("{server:?} did not come up:\n{log}"))
        })
    }

    /// Leaves no process, and nothing for the guardian to end.
    fn clean_up(&self, child: &mut Child) {
        process::kill(child);
        let _ = fs::remove_file(self.folder.join(PID_FILE));
    }

    fn as_account<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        if let Some(account) = self.account {
            account.run(command);
        }
        command.current_dir(&self.folder)
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// A test that panicked with the lock has left nothing half done.
    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Not by SIGKILL, which would leave PostgreSQL's shared memory behind.
impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.lock().take() {
            stop(&mut child, Duration::from_secs(10));
            self.clean_up(&mut child);
        }
        // The guardian sees the end of the pipe and removes the folder.
        self.pipe.take();
        let _ = self.guardian.wait();
    }
}

/// Asks a server to end, frozen or not, and says whether it did in time.
fn stop(child: &mut Child, patience: Duration) -> bool {
    process::thaw(child.id());
    process::send(child.id(), ORDERLY);
    within(patience, || {
        child.try_wait().is_ok_and(|ended| ended.is_some())
    })
}
