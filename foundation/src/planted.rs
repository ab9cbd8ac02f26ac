//! Bugs that are put in on purpose, to try those who look for bugs.
//!
//! At a planted point the code asks whether the bug of this name is the one that the process was
//! started with, and if so does the wrong thing. Without the feature `planted-bugs` the answer is
//! always no and the points compile to nothing. No program that ships has the feature.
//!
//! A process has one bug at most, named by `CATCHALL_PLANTED_BUG`. `CATCHALL_KILL_AT=point:3` ends it
//! by SIGKILL the third time it comes to that point, and `CATCHALL_FAIL_AT=point:3` lets what is done
//! there fail. `CATCHALL_CLOCK_FILE` names a file with the seconds by which its clock is wrong.

#[cfg(not(feature = "planted-bugs"))]
pub use off::{clock_error_s, fail_point, kill_point, planted_bug};
#[cfg(feature = "planted-bugs")]
pub use on::{clock_error_s, fail_point, kill_point, planted_bug};

/// Whether this build can have a bug planted. A program that ships asserts that it cannot.
pub const POSSIBLE: bool = cfg!(feature = "planted-bugs");

#[cfg(not(feature = "planted-bugs"))]
mod off {
    /// Whether this bug is planted.
    #[must_use]
    pub const fn planted_bug(_: &str) -> bool {
        false
    }

    /// Where the process may be told to die.
    pub const fn kill_point(_: &str) {}

    /// Whether what is done here fails this time.
    #[must_use]
    pub const fn fail_point(_: &str) -> bool {
        false
    }

    /// By how many seconds the clock is wrong.
    #[must_use]
    pub const fn clock_error_s() -> i64 {
        0
    }
}

#[cfg(feature = "planted-bugs")]
mod on {
    use std::env;
    use std::fs;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    static BUG: LazyLock<Option<String>> = LazyLock::new(|| env::var("CATCHALL_PLANTED_BUG").ok());

    static KILL_AT: LazyLock<Option<At>> = LazyLock::new(|| At::told_by("CATCHALL_KILL_AT"));
    static FAIL_AT: LazyLock<Option<At>> = LazyLock::new(|| At::told_by("CATCHALL_FAIL_AT"));

    /// A point, and how often the process still comes to it until then.
    struct At {
        point: String,
        times: AtomicU64,
    }

    impl At {
        fn told_by(variable: &str) -> Option<Self> {
            let told = env::var(variable).ok()?;
            let (point, times) = told.rsplit_once(':')?;
            Some(Self {
                point: point.to_owned(),
                times: AtomicU64::new(times.parse().ok()?),
            })
        }

        fn is_now(&self, point: &str) -> bool {
            self.point == point && self.times.fetch_sub(1, Ordering::Relaxed) == 1
        }
    }

    static CLOCK_FILE: LazyLock<Option<String>> =
        LazyLock::new(|| env::var("CATCHALL_CLOCK_FILE").ok());

    /// Whether this bug is planted.
    #[must_use]
    pub fn planted_bug(name: &str) -> bool {
        BUG.as_deref() == Some(name)
    }

    /// Where the process may be told to die.
    pub fn kill_point(name: &str) {
        if KILL_AT.as_ref().is_some_and(|at| at.is_now(name)) {
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }

    /// Whether what is done here fails this time.
    #[must_use]
    pub fn fail_point(name: &str) -> bool {
        FAIL_AT.as_ref().is_some_and(|at| at.is_now(name))
    }

    /// By how many seconds the clock is wrong.
    #[must_use]
    pub fn clock_error_s() -> i64 {
        let told = CLOCK_FILE
            .as_ref()
            .and_then(|file| fs::read_to_string(file).ok());
        told.and_then(|told| told.trim().parse().ok()).unwrap_or(0)
    }
}
