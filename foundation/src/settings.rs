//! One settings struct from four layers, each stronger than the one before:
//!
//! 1. the defaults, TOML embedded in the program;
//! 2. a TOML file, when one is named;
//! 3. the environment: `APP__STORE__POOL_SIZE=8` is `store.pool_size` for the prefix `APP`;
//! 4. flags of the command line.
//!
//! Tables merge key by key. So a choice between kinds is best a `kind` beside one table a kind:
//! a table tagged by its kind would keep the keys that the defaults gave to another kind.
//!
//! The caller's structs carry `#[serde(deny_unknown_fields)]`, so that a mistyped key is refused
//! in every layer, with an error that names the key and where it was set. No error shows a value:
//! it may be a secret in the wrong place.
//!
//! ```
//! use foundation::settings::{Loader, Secret};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Settings {
//!     listen: String,
//!     token: Option<Secret>,
//! }
//!
//! let settings: Settings = Loader::new("listen = '127.0.0.1:7000'")
//!     .environment("APP")
//!     .overrides([("token", "from a flag")])
//!     .load()?;
//! # assert_eq!(settings.listen, "127.0.0.1:7000");
//! # assert_eq!(settings.token.unwrap().expose(), "from a flag");
//! # Ok::<(), foundation::settings::SettingsError>(())
//! ```

mod explain;
mod layers;
mod secret;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use config::Config;
use config::builder::{ConfigBuilder, DefaultState};
use serde::de::DeserializeOwned;

use layers::Layer;
pub use secret::Secret;

/// Why the settings are refused. Each is one line, for the operator who wrote them; print it with
/// its source.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The settings file, or the file of a secret.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A layer is not what it should be, as TOML or as text.
    #[error("{origin}: {problem}")]
    Malformed {
        /// The file or the environment variable.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A key is unknown or missing, or its value does not fit.
    #[error("{0}")]
    Invalid(String),
}

/// Gathers the layers; see the [module](self).
#[derive(Debug)]
pub struct Loader {
    defaults: &'static str,
    file: Option<PathBuf>,
    prefix: Option<String>,
    overrides: Vec<(String, String)>,
}

impl Loader {
    /// Starts from the defaults, as TOML.
    #[must_use]
    pub fn new(defaults_toml: &'static str) -> Self {
        Self {
            defaults: defaults_toml,
            file: None,
            prefix: None,
            overrides: Vec::new(),
        }
    }

    /// Adds a TOML file, which must exist when it is named.
    #[must_use]
    pub fn file(mut self, path: Option<&Path>) -> Self {
        self.file = path.map(Path::to_owned);
        self
    }

    /// Adds the variables that begin with the prefix and two underscores.
    ///
    /// The case of a name does not matter. An empty variable counts as not set. A single
    /// underscore after the prefix is not ours: Kubernetes sets `APP_PORT` for a service `app`.
    #[must_use]
    pub fn environment(mut self, prefix: &str) -> Self {
        self.prefix = Some(prefix.to_owned());
        self
    }

    /// Adds flags, as dotted key and value: `("store.kind", "postgres")`.
    #[must_use]
    pub fn overrides<K, V>(mut self, flags: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<String>,
    {
        self.overrides.extend(
            flags
                .into_iter()
                .map(|(key, value)| (key.into(), value.into())),
        );
        self
    }

    /// Reads all layers and builds the settings.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn load<T: DeserializeOwned>(self) -> Result<T, SettingsError> {
        self.load_from(std::env::vars_os())
    }

    /// [`load`](Self::load) with a given environment, so that tests need not touch the real one.
    fn load_from<T: DeserializeOwned>(
        self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<T, SettingsError> {
        let mut layers = vec![Layer::toml("the built-in defaults", self.defaults)?];
        if let Some(path) = self.file {
            let text =
                std::fs::read_to_string(&path).map_err(|source| SettingsError::Unreadable {
                    path: path.clone(),
                    source,
                })?;
            layers.push(Layer::toml(&path.display().to_string(), &text)?);
        }
        if let Some(prefix) = self.prefix {
            layers.push(Layer::environment(&prefix, variables)?);
        }
        layers.push(Layer::pairs("the command line", self.overrides));

        let merged = layers
            .into_iter()
            .fold(Config::builder(), ConfigBuilder::<DefaultState>::add_source)
            .build()
            .map_err(|error| SettingsError::Invalid(error.to_string()))?;
        let tree = merged.cache.clone();
        merged
            .try_deserialize()
            .map_err(|error| SettingsError::Invalid(explain::explain(&error, &tree)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
