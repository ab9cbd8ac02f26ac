//! The user a server runs as: PostgreSQL refuses to run as root.

use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A user and group without privileges.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    user: u32,
    group: u32,
}

impl Account {
    /// `postgres`, else `nobody`, when the tests run as root; `None` when they do not: the
    /// server is then theirs.
    pub(super) fn without_privileges() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let users = fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
        let account = ["postgres", "nobody"]
            .iter()
            .find_map(|name| find(&users, name));
        Some(account.expect("/etc/passwd has a user `postgres` or `nobody`"))
    }

    /// Runs a command as this user.
    pub(super) fn run(self, command: &mut Command) {
        command.gid(self.group).uid(self.user);
    }

    /// Gives a file or folder to this user.
    pub(super) fn own(self, path: &Path) {
        chown(path, Some(self.user), Some(self.group)).expect("root can give a folder away");
    }
}

/// A user's entry in the format of passwd(5).
fn find(users: &str, name: &str) -> Option<Account> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let user = fields.nth(1)?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        Some(Account { user, group })
    })
}

/// Where folders for servers are made: the temporary folder, unless another user could not reach
/// what is inside it.
pub(super) fn temporary_folder() -> PathBuf {
    [env::temp_dir(), "/tmp".into(), "/var/tmp".into()]
        .into_iter()
        .find(|folder| folder.ancestors().all(anybody_may_enter))
        .unwrap_or_else(env::temp_dir)
}

fn anybody_may_enter(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|metadata| metadata.mode() & 0o001 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let users = "root:x:0:0::/root:/bin/sh\nnobody2:x:7:8::/:/x\nnobody:x:65534:65533::/:/x\n";
        let account = find(users, "nobody").expect("there is one");
        assert_eq!((account.user, account.group), (65534, 65533));
        assert!(find(users, "postgres").is_none());
    }
}
