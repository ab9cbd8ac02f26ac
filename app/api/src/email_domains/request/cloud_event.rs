//! One event as a CloudEvent 1.0.

use std::borrow::Cow;

use actix_web::http::header::HeaderMap;
use business::email_domains::model::{EventKind, Key};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{faults::Fault, key};

/// An event as a CloudEvent. Other attributes, and its data, are ignored.
#[derive(Deserialize, ToSchema)]
pub(crate) struct CloudEvent<'a> {
    /// `1.0`.
    #[serde(borrow)]
    #[schema(value_type = String, example = "1.0")]
    specversion: Cow<'a, str>,
    /// Names the event among those of its source.
    #[serde(borrow)]
    #[schema(value_type = String, min_length = 1, example = "0190c3e2")]
    id: Cow<'a, str>,
    /// Where the event comes from.
    #[serde(borrow)]
    #[schema(value_type = String, min_length = 1, format = "uri-reference", example = "/mail/1")]
    source: Cow<'a, str>,
    /// `email.delivered` or `email.bounced`.
    #[serde(borrow, rename = "type")]
    #[schema(
        value_type = String, pattern = "^email\\.(delivered|bounced)$", example = "email.delivered"
    )]
    kind: Cow<'a, str>,
    /// A mail domain.
    #[serde(borrow)]
    #[schema(value_type = String, example = "example.com")]
    subject: Cow<'a, str>,
}

impl CloudEvent<'_> {
    /// What makes it one event, however often it is sent.
    pub(super) fn key(&self) -> Key {
        key::of_cloud_event(&self.source, &self.id)
    }

    /// The text of its domain, not looked at yet, and its kind.
    pub(super) fn event(&self) -> Result<(&str, EventKind), Fault> {
        if self.specversion != "1.0" {
            return Err(Fault::new("specversion", "must be `1.0`"));
        }
        for (field, value) in [("id", &self.id), ("source", &self.source)] {
            if value.is_empty() {
                return Err(Fault::new(field, "cannot be empty"));
            }
        }
        let kind = match &*self.kind {
            "email.delivered" => EventKind::Delivered,
            "email.bounced" => EventKind::Bounced,
            _ => {
                let reason = "must be `email.delivered` or `email.bounced`";
                return Err(Fault::new("type", reason));
            }
        };
        Ok((&self.subject, kind))
    }
}

/// Whether the header fields carry a CloudEvent: binary mode.
pub(super) fn is_in(headers: &HeaderMap) -> bool {
    ["ce-specversion", "ce-type", "ce-id", "ce-source"]
        .iter()
        .any(|name| headers.contains_key(*name))
}

/// The CloudEvent of the header fields. Whatever the content is, is its data.
pub(super) fn from_headers(headers: &HeaderMap) -> Result<CloudEvent<'static>, Fault> {
    let attribute = |name: &'static str| -> Result<Cow<'static, str>, Fault> {
        let mut values = headers.get_all(name);
        match (values.next(), values.next()) {
            (Some(value), None) => unescaped(value.as_bytes())
                .map(Cow::Owned)
                .ok_or_else(|| Fault::new(name, "is not UTF-8")),
            (None, _) => Err(Fault::new(name, "is missing")),
            (Some(_), Some(_)) => Err(Fault::new(name, "stands twice")),
        }
    };
    Ok(CloudEvent {
        specversion: attribute("ce-specversion")?,
        id: attribute("ce-id")?,
        source: attribute("ce-source")?,
        kind: attribute("ce-type")?,
        subject: attribute("ce-subject")?,
    })
}

/// The value of a header field without its quotes and percent-encoding (CloudEvents HTTP binding
/// 1.0.2, section 3.1.3.2).
fn unescaped(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    let quoted = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let text = match quoted {
        None => Cow::Borrowed(text),
        Some(quoted) => {
            let mut characters = quoted.chars();
            let unquoted = std::iter::from_fn(|| match characters.next()? {
                '\\' => characters.next(),
                other => Some(other),
            });
            Cow::Owned(unquoted.collect())
        }
    };
    let decoded = percent_decode_str(&text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_are_unescaped_once() {
        for (value, text) in [
            ("example.com", Some("example.com")),
            ("b%C3%BCcher.example", Some("bücher.example")),
            ("b\u{fc}cher", Some("bücher")),
            (r#""a\"b\\c%20d""#, Some(r#"a"b\c d"#)),
            ("%2541", Some("%41")),
            ("\"", Some("\"")),
            ("%ff", None),
        ] {
            assert_eq!(unescaped(value.as_bytes()).as_deref(), text, "{value}");
        }
        assert_eq!(unescaped(b"\xff"), None);
    }
}
