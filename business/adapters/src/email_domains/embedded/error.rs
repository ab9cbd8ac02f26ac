use std::io;

/// Why an embedded store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds it.
    #[error("another process has this store open")]
    Locked,
    /// The file system failed.
    #[error("{file}: cannot {action}")]
    Io {
        /// Which file.
        file: String,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// There is hardly any room left on the disk.
    #[error("not enough room")]
    Full(#[source] io::Error),
    /// A file of another version of catchall.
    #[error("{file}: format version {version} is not known to this version of catchall")]
    UnknownVersion {
        /// Which file.
        file: String,
        /// Its version.
        version: u32,
    },
    /// A file that this store never wrote so.
    #[error("{file}: corrupt at byte {offset}: {reason}")]
    Corrupt {
        /// Which file.
        file: String,
        /// Where in it, in bytes from its beginning.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// Another store has registered its metrics there already.
    #[error("cannot register metrics")]
    Metrics(#[from] prometheus::Error),
}

impl OpenError {
    pub(in crate::email_domains) fn io(
        file: &str,
        action: &'static str,
    ) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io {
            file,
            action,
            source,
        }
    }

    pub(in crate::email_domains) fn corrupt(
        file: &str,
        offset: usize,
        reason: &'static str,
    ) -> Self {
        Self::Corrupt {
            file: file.to_owned(),
            offset: offset as u64,
            reason,
        }
    }
}
