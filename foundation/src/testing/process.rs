//! Processes: signals, and the processes below a process.
//!
//! PostgreSQL puts each of its processes in a group of its own, so that a signal to the group of
//! the first would not reach the rest; they are found as its children.

use std::fs;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The longest that a server may take to start, to stop or to die.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until a condition holds, and says whether it did in time.
pub(super) fn within(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal to a process, which may just have ended.
pub(super) fn send(process: u32, signal: Signal) {
    let pid = i32::try_from(process)
        .ok()
        .and_then(Pid::from_raw)
        .expect("it is a process id");
    let _ = kill_process(pid, signal);
}

/// Halts a process and then its children, which are returned: once it is halted itself, no more
/// can come.
pub(super) fn freeze(process: u32) -> Vec<u32> {
    let halt = |process| {
        send(process, Signal::STOP);
        let halted = within(PATIENCE, || {
            status(process).is_none_or(|it| it.state == 'T')
        });
        assert!(halted, "{process} goes on in spite of SIGSTOP");
    };
    halt(process);
    let children = children(process);
    children.iter().copied().for_each(halt);
    children
}

/// Lets a frozen process and its children go on.
pub(super) fn thaw(process: u32) {
    for process in children(process).into_iter().chain([process]) {
        send(process, Signal::CONT);
    }
}

/// Ends a child of ours and its children with SIGKILL, and waits until none of them runs.
pub(super) fn kill(child: &mut Child) {
    if !child.try_wait().is_ok_and(|ended| ended.is_none()) {
        return;
    }
    let family = freeze(child.id());
    for process in family.iter().copied().chain([child.id()]) {
        send(process, Signal::KILL);
    }
    let _ = child.wait();
    let gone = within(PATIENCE, || {
        family.iter().all(|process| status(*process).is_none())
    });
    assert!(gone, "some of {family:?} outlived SIGKILL");
}

fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc can be read");
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|process| status(*process).is_some_and(|it| it.parent == parent))
        .collect()
}

struct Status {
    state: char,
    parent: u32,
}

/// What proc(5) tells of a process that has not ended. The fields after its name, which stands in
/// parentheses and may hold anything, begin with the state and the parent.
fn status(process: u32) -> Option<Status> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let ended = matches!(state, 'Z' | 'X');
    (!ended).then_some(Status { state, parent })
}
