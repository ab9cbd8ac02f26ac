//! Limits the operating system puts on the process.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The soft limit on open files, before and after [`raise_open_files`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// What the process was started with.
    pub soft_before: u64,
    /// What it has now: the hard limit.
    pub soft_now: u64,
}

/// Raises the soft limit on open files to the hard one.
///
/// Every connection is an open file, and a login shell often allows 1,024 of them. No privilege
/// is needed to go up to the hard limit. An unlimited value is given as [`u64::MAX`].
///
/// # Errors
/// When the system refuses; the limit is then as it was.
pub fn raise_open_files() -> io::Result<OpenFiles> {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        ..before
    };
    if before.current != raised.current {
        setrlimit(Resource::Nofile, raised)?;
    }
    Ok(OpenFiles {
        soft_before: before.current.unwrap_or(u64::MAX),
        soft_now: raised.current.unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum;
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(512),
                maximum: hard,
            },
        )
        .unwrap();

        let files = raise_open_files().unwrap();

        assert_eq!(files.soft_before, 512);
        assert_eq!(files.soft_now, hard.unwrap_or(u64::MAX));
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    }
}
