//! One event as JSON.

use std::borrow::Cow;

use business::email_domains::model::EventKind;
use serde::Deserialize;
use utoipa::ToSchema;

use super::faults::Fault;

/// One event. Other members are ignored.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Event<'a> {
    /// A mail domain.
    #[serde(borrow)]
    #[schema(value_type = String, example = "example.com")]
    domain: Cow<'a, str>,
    /// What happened: `delivered` or `bounced`.
    #[serde(borrow, rename = "type")]
    #[schema(value_type = String, pattern = "^(delivered|bounced)$", example = "delivered")]
    kind: Cow<'a, str>,
}

/// One event, or an array of them.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is described, and read element by element")]
pub(crate) enum Events {
    One(Event<'static>),
    Many(Vec<Event<'static>>),
}

/// Reads one event: the text of its domain, not looked at yet, and its kind.
pub(super) fn parse(text: &str) -> Result<(Cow<'_, str>, EventKind), Fault> {
    match canonical(text) {
        Some((domain, kind)) => Ok((Cow::Borrowed(domain), kind)),
        None => general(text),
    }
}

/// Any JSON object with the two members.
fn general(text: &str) -> Result<(Cow<'_, str>, EventKind), Fault> {
    let Event { domain, kind } = from_object(text)?;
    let kind =
        kind_named(&kind).ok_or_else(|| Fault::new("type", "must be `delivered` or `bounced`"))?;
    Ok((domain, kind))
}

/// Reads a JSON object. An array of a struct's fields, which serde takes for one, is none.
pub(super) fn from_object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Fault> {
    if !text.trim_start_matches(is_blank).starts_with('{') {
        return Err(Fault::new("event", "must be a JSON object"));
    }
    serde_json::from_str(text).map_err(|error| Fault::in_json("event", error))
}

pub(super) fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\n')
}

fn kind_named(name: &str) -> Option<EventKind> {
    match name {
        "delivered" => Some(EventKind::Delivered),
        "bounced" => Some(EventKind::Bounced),
        _ => None,
    }
}

/// The event as nearly everyone writes it: an object with these two members, in any order, without
/// escapes. It saves most of the time a general parser takes. `None` says that the general parser
/// has to look at it, not that it is wrong.
fn canonical(text: &str) -> Option<(&str, EventKind)> {
    let rest = blanks(text).strip_prefix('{')?;
    let (first, rest) = member(rest)?;
    let (second, rest) = member(rest.strip_prefix(',')?)?;
    if !blanks(rest.strip_prefix('}')?).is_empty() {
        return None;
    }
    match (first, second) {
        (("domain", domain), ("type", kind)) | (("type", kind), ("domain", domain)) => {
            Some((domain, kind_named(kind)?))
        }
        _ => None,
    }
}

/// A name and a value that is a text, and what follows them.
fn member(text: &str) -> Option<((&str, &str), &str)> {
    let (name, rest) = string(blanks(text))?;
    let (value, rest) = string(blanks(blanks(rest).strip_prefix(':')?))?;
    Some(((name, value), blanks(rest)))
}

/// A string that means what it says: no escape, no control character.
fn string(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('"')?;
    let end = text
        .bytes()
        .position(|byte| matches!(byte, b'"' | b'\\' | ..0x20))?;
    let (string, rest) = text.split_at_checked(end)?;
    Some((string, rest.strip_prefix('"')?))
}

fn blanks(text: &str) -> &str {
    text.trim_start_matches(is_blank)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_common_takes_the_short_way() {
        for text in [
            r#"{"domain":"a.example","type":"delivered"}"#,
            r#"{"type":"delivered","domain":"a.example"}"#,
            " { \"domain\" : \"a.example\" ,\t\"type\" : \"delivered\" } \r",
        ] {
            assert_eq!(
                canonical(text),
                Some(("a.example", EventKind::Delivered)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_is_read_all_the_same() {
        for text in [
            r#"{"domain":"\u0061.example","type":"delivered"}"#,
            r#"{"id":[{"domain":1}],"domain":"a.example","n":null,"type":"delivered"}"#,
            r#"{"dom\u0061in":"a.example","type":"deliver\u0065d"}"#,
        ] {
            assert_eq!(canonical(text), None, "{text}");
            let (domain, kind) = parse(text).unwrap();
            assert_eq!(
                (&*domain, kind),
                ("a.example", EventKind::Delivered),
                "{text}"
            );
        }
    }

    #[test]
    fn refused_with_a_reason() {
        for (text, field, reason) in [
            ("", "event", "must be a JSON object"),
            (
                r#"["a.example","delivered"]"#,
                "event",
                "must be a JSON object",
            ),
            ("{", "event", "EOF while parsing an object"),
            (r#"{"domain":"a"}"#, "event", "missing field `type`"),
            (r#"{"type":"bounced"}"#, "event", "missing field `domain`"),
            (
                r#"{"domain":"a","domain":"b","type":"bounced"}"#,
                "event",
                "duplicate field `domain`",
            ),
            (
                r#"{"domain":5,"type":"bounced"}"#,
                "event",
                "invalid type: integer `5`, expected a string",
            ),
            (
                r#"{"domain":"a","type":"bounced"}{"#,
                "event",
                "trailing characters",
            ),
            (
                "{\"domain\":\"a\u{1f}\",\"type\":\"bounced\"}",
                "event",
                "control character (\\u0000-\\u001F) found while parsing a string",
            ),
            (
                r#"{"domain":"a","type":"Bounced"}"#,
                "type",
                "must be `delivered` or `bounced`",
            ),
        ] {
            assert_eq!(parse(text), Err(Fault::new(field, reason)), "{text}");
        }
    }

    /// Texts that are events, nearly so, or not at all.
    fn texts() -> impl Strategy<Value = String> {
        let blank = || "[ \t\r\n\u{a0}]{0,2}";
        let name = prop_oneof![
            4 => Just("domain".to_owned()), 4 => Just("type".to_owned()),
            1 => Just("typ\\u0065".to_owned()), 1 => "[a-z]{0,3}",
        ];
        let value = prop_oneof![
            4 => "\"[a-z.]{0,9}\"", 3 => Just("\"delivered\"".to_owned()),
            3 => Just("\"bounced\"".to_owned()),
            2 => "\"[a-z\\\\\\\\\"u0-9\u{0}-\u{1f}é\u{7f}☕]{0,7}\"",
            1 => "[0-9a-z\\[\\]{}.-]{0,5}",
        ];
        let member = (blank(), name, blank(), blank(), value, blank());
        let text = |(a, name, b, c, value, d)| format!("{a}\"{name}\"{b}:{c}{value}{d}");
        let members = prop::collection::vec(member.prop_map(text), 0..4);
        let object = (blank(), members, blank(), "[,}x]{0,1}")
            .prop_map(|(a, members, b, end)| format!("{a}{{{}}}{b}{end}", members.join(",")));
        // Sound, but for what may stand in the name.
        let kind = prop_oneof![Just("delivered"), Just("bounced")];
        let name = "[a-z.\u{0}-\u{1f}\u{7f}é☕\\\\\"]{0,5}";
        let nearly = (blank(), name, kind, any::<bool>()).prop_map(|(blank, name, kind, first)| {
            let (domain, kind) = (
                format!("\"domain\":\"{name}\""),
                format!("\"type\":\"{kind}\""),
            );
            let (one, two) = if first {
                (domain, kind)
            } else {
                (kind, domain)
            };
            format!("{{{one},{blank}{two}}}")
        });
        prop_oneof![5 => object, 4 => nearly, 1 => ".{0,20}"]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]
        #[test]
        fn the_short_way_leads_where_the_long_one_does(text in texts()) {
            if let Some((domain, kind)) = canonical(&text) {
                prop_assert_eq!(general(&text), Ok((Cow::Borrowed(domain), kind)));
            }
            prop_assert_eq!(parse(&text), general(&text));
            // And the long one does what JSON says.
            let value = serde_json::from_str::<serde_json::Value>(&text);
            if let Ok((domain, kind)) = parse(&text) {
                let value = value.unwrap();
                prop_assert_eq!(value["domain"].as_str(), Some(&*domain));
                prop_assert_eq!(value["type"].as_str(), Some(kind.as_str()));
            }
        }
    }
}
