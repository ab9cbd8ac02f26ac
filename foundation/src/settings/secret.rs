//! Values that must not be seen.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::SettingsError;

/// The largest file taken for a secret, in bytes: a certificate chain fits, a device file does not.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// A password, a token, or a URL that holds one. It never prints, and is wiped when dropped.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(SecretString);

impl Secret {
    /// The value itself: for the one call that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Settles a secret that may be given itself (`url`) or as the path of a file that holds it
    /// (`url_file`, for secrets that are mounted). `key` is the former's name, for errors. White
    /// space at the end of the file is cut off.
    ///
    /// # Errors
    /// When both are given, or the file cannot be read, is larger than 64 KiB or is empty.
    pub fn given_or_in_file(
        key: &str,
        given: Option<Self>,
        file: Option<&Path>,
    ) -> Result<Option<Self>, SettingsError> {
        match (given, file) {
            (Some(_), Some(_)) => Err(SettingsError::Invalid(format!(
                "`{key}` and `{key}_file` are both set: keep one of them"
            ))),
            (given, None) => Ok(given),
            (None, Some(path)) => {
                read(path)
                    .map(Some)
                    .map_err(|source| SettingsError::Unreadable {
                        path: path.to_owned(),
                        source,
                    })
            }
        }
    }
}

fn read(path: &Path) -> io::Result<Secret> {
    let mut text = String::new();
    File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("it is too large to be a secret"));
    }
    match text.trim_end() {
        "" => Err(io::Error::other("it is empty")),
        secret => Ok(secret.into()),
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(secret.into())
    }
}

impl From<&str> for Secret {
    fn from(secret: &str) -> Self {
        Self(secret.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::Write;

    use super::*;

    fn file_with(text: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text).unwrap();
        file
    }

    #[test]
    fn a_file_gives_the_secret_without_its_last_newline() {
        let file = file_with(b"postgres://u:p@host/db\n");
        let secret = Secret::given_or_in_file("url", None, Some(file.path()))
            .unwrap()
            .unwrap();
        assert_eq!(secret.expose(), "postgres://u:p@host/db");
    }

    #[test]
    fn given_twice_is_refused_without_showing_either() {
        let file = file_with(b"hidden-1");
        let both =
            Secret::given_or_in_file("store.url", Some("hidden-2".into()), Some(file.path()));
        let message = both.unwrap_err().to_string();
        assert_eq!(
            message,
            "`store.url` and `store.url_file` are both set: keep one of them"
        );
    }

    #[test]
    fn a_file_that_cannot_be_a_secret_is_refused() {
        let large = vec![b'x'; usize::try_from(MAX_FILE_BYTES).unwrap() + 1];
        for (text, problem) in [(&b"\n"[..], "empty"), (&large, "too large")] {
            let file = file_with(text);
            let read = Secret::given_or_in_file("url", None, Some(file.path()));
            let error = read.unwrap_err();
            let reason = std::error::Error::source(&error).unwrap().to_string();
            assert!(reason.contains(problem), "{reason}");
            let message = error.to_string();
            assert!(message.contains(file.path().to_str().unwrap()), "{message}");
        }
        assert!(Secret::given_or_in_file("url", None, Some(Path::new("/no/such"))).is_err());
    }

    #[test]
    fn neither_is_none() {
        assert!(
            Secret::given_or_in_file("url", None, None)
                .unwrap()
                .is_none()
        );
    }
}
