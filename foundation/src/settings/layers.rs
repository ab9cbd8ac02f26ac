//! One source of settings: keys with their values, each knowing where it was set.

use std::ffi::OsString;

use config::{ConfigError, FileFormat, Format, Map, Source, Value, ValueKind};

use super::SettingsError;

/// The keys of one source. A key is a dotted path, or a name whose value is a table.
#[derive(Debug, Clone)]
pub(super) struct Layer(Map<String, Value>);

impl Layer {
    /// A TOML document; `origin` names it in errors.
    pub(super) fn toml(origin: &str, text: &str) -> Result<Self, SettingsError> {
        FileFormat::Toml
            .parse(Some(&origin.to_owned()), text)
            .map(Self)
            .map_err(|error| SettingsError::Malformed {
                origin: origin.to_owned(),
                problem: without_excerpt(&error.to_string()),
            })
    }

    /// The variables named `PREFIX__TABLE__KEY`; each is the origin of its value.
    pub(super) fn environment(
        prefix: &str,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        let prefix = format!("{}__", prefix.to_lowercase());
        let mut keys = Map::new();
        for (name, value) in variables {
            let Ok(name) = name.into_string() else {
                continue;
            };
            let lower = name.to_lowercase();
            let Some(path) = lower.strip_prefix(&prefix) else {
                continue;
            };
            if value.is_empty() {
                continue;
            }
            let value = value.into_string().map_err(|_| SettingsError::Malformed {
                origin: name.clone(),
                problem: "the value is not UTF-8".into(),
            })?;
            keys.insert(
                path.replace("__", "."),
                Value::new(Some(&name), typed(value)),
            );
        }
        Ok(Self(keys))
    }

    /// Dotted keys with values as text.
    pub(super) fn pairs(origin: &str, pairs: Vec<(String, String)>) -> Self {
        let origin = origin.to_owned();
        let value = |text| Value::new(Some(&origin), typed(text));
        Self(
            pairs
                .into_iter()
                .map(|(key, text)| (key, value(text)))
                .collect(),
        )
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

/// Gives text a type only when nothing is lost by it, for a field of text gets the text back from
/// the value: `123` can be a number and still end up as the name `123`, but `007`, `1e3` and
/// `TRUE` would not come back as they were. A field that is a number takes those too.
fn typed(text: String) -> ValueKind {
    fn exact<T: std::str::FromStr + ToString>(text: &str) -> Option<T> {
        text.parse()
            .ok()
            .filter(|value: &T| value.to_string() == text)
    }
    if let Some(whole) = exact::<i64>(&text) {
        ValueKind::I64(whole)
    } else if let Some(yes) = exact::<bool>(&text) {
        ValueKind::Boolean(yes)
    } else if let Some(number) = exact::<f64>(&text).filter(|number| number.is_finite()) {
        ValueKind::Float(number)
    } else {
        ValueKind::String(text)
    }
}

/// A TOML error as one line, without the lines it quotes: they may hold a secret.
fn without_excerpt(error: &str) -> String {
    let quoted = |line: &&str| {
        line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit())
            .starts_with('|')
    };
    let lines: Vec<&str> = error.lines().filter(|line| !quoted(line)).collect();
    lines.join(": ")
}
