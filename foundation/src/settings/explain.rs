//! Why a value does not fit, said to the operator who set it.

use config::{ConfigError, Value, ValueKind};

/// One line: where the value was set, the key, and what was expected. Never the value itself.
pub(super) fn explain(error: &ConfigError, tree: &Value) -> String {
    let (problem, key, origin) = match error {
        ConfigError::Type {
            origin,
            expected,
            key,
            ..
        } => (
            format!("expected {expected}"),
            key.as_deref(),
            origin.as_deref(),
        ),
        ConfigError::At { error, origin, key } => (
            without_value(error.to_string()),
            key.as_deref(),
            origin.as_deref(),
        ),
        other => (without_value(other.to_string()), None, None),
    };

    let (key, problem) = match unknown_field(&problem) {
        Some((field, expected)) => {
            let path: Vec<&str> = key.into_iter().chain([field]).collect();
            (Some(path.join(".")), format!("unknown key{expected}"))
        }
        None => (key.map(str::to_owned), problem),
    };
    let Some(key) = key else { return problem };
    match origin.or_else(|| origin_of(tree, &key)) {
        Some(origin) => format!("{origin}: `{key}`: {problem}"),
        None => format!("`{key}`: {problem}"),
    }
}

/// Splits what serde says of a field it does not know into the field and the rest.
fn unknown_field(problem: &str) -> Option<(&str, &str)> {
    problem.strip_prefix("unknown field `")?.split_once('`')
}

/// What serde says of a value that does not fit, from where it has quoted the value.
fn without_value(problem: String) -> String {
    if !problem.starts_with("invalid ") {
        return problem;
    }
    match problem.rsplit_once(", expected ") {
        Some((_, expected)) => format!("expected {expected}"),
        None => problem,
    }
}

/// Where the value at a dotted path was set.
fn origin_of<'a>(tree: &'a Value, path: &str) -> Option<&'a str> {
    let value = path
        .split('.')
        .try_fold(tree, |value, name| match &value.kind {
            ValueKind::Table(table) => table.get(name),
            _ => None,
        })?;
    sole_origin(value)
}

/// The origin of a value; of a table only when all its keys were set in the same place, for it
/// may be merged from several.
fn sole_origin(value: &Value) -> Option<&str> {
    let ValueKind::Table(table) = &value.kind else {
        return value.origin();
    };
    let mut origins = table.values().map(sole_origin);
    let first = origins.next()??;
    origins.all(|origin| origin == Some(first)).then_some(first)
}
