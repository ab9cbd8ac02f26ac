//! What a request gives to be counted once, however often it is sent.

use std::future::{Ready, ready};

use actix_web::{
    FromRequest, HttpMessage as _, HttpRequest, dev::Payload, http::header::HeaderMap,
};
use business::{email_domains::model::Key, kernel::UnixSeconds};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    middleware::{IDEMPOTENCY_KEY, Keyed},
    problem::Problem,
};

/// The longest key, in characters.
const MAX_LENGTH: usize = 255;

/// The `Idempotency-Key` of a request, if it has one.
pub(crate) struct IdempotencyKey(pub(crate) Option<Key>);

impl FromRequest for IdempotencyKey {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let keyed = request.extensions().contains::<Keyed>();
        // A route that is not behind the gate would lose keys.
        debug_assert_eq!(keyed, request.headers().contains_key(&IDEMPOTENCY_KEY));
        if keyed {
            ready(read(request.headers()).map(Self))
        } else {
            ready(Ok(Self(None)))
        }
    }
}

pub(super) fn read(headers: &HeaderMap) -> Result<Option<Key>, Problem> {
    let mut values = headers.get_all(&IDEMPOTENCY_KEY);
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::invalid_key("stands twice"));
    }
    let text = unquoted(value.as_bytes()).map_err(Problem::invalid_key)?;
    let (hash, stamped_at) = (hash(b"key", &[&text]), stamp(&text));
    Ok(Some(Key {
        // In the order of time, so that an index of them grows at its end. What is left of the
        // digest tells those of one second apart.
        hash: stamped_at.map_or(hash, |stamp| u128::from(stamp.get()) << 96 | hash >> 32),
        stamped_at,
    }))
}

/// The key of the CloudEvent of this source and id. What they say of time is not looked at.
pub(super) fn of_cloud_event(source: &str, id: &str) -> Key {
    Key {
        hash: hash(b"cloudevent", &[source.as_bytes(), id.as_bytes()]),
        stamped_at: None,
    }
}

/// A structured string (RFC 9651, section 3.3.3), as the draft has it, or the same without quotes,
/// as most clients send it. Parameters behind it are not taken: nobody says what they would mean.
fn unquoted(value: &[u8]) -> Result<Vec<u8>, &'static str> {
    let value = value.trim_ascii();
    if !value.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err("has characters beyond visible ASCII");
    }
    let text = match value.strip_prefix(b"\"") {
        None => value.to_vec(),
        Some(quoted) => {
            let mut text = Vec::new();
            let mut bytes = quoted.iter();
            loop {
                match bytes.next() {
                    Some(b'\\') => match bytes.next() {
                        Some(escaped @ (b'"' | b'\\')) => text.push(*escaped),
                        _ => return Err("has a backslash that escapes nothing"),
                    },
                    Some(b'"') if bytes.as_slice().is_empty() => break text,
                    Some(b'"') => return Err("goes on behind its closing quote"),
                    Some(other) => text.push(*other),
                    None => return Err("lacks its closing quote"),
                }
            }
        }
    };
    match text.len() {
        0 => Err("is empty"),
        1..=MAX_LENGTH => Ok(text),
        _ => Err("is longer than 255 characters"),
    }
}

/// When a UUIDv7 was made.
fn stamp(text: &[u8]) -> Option<UnixSeconds> {
    let uuid = Uuid::try_parse_ascii(text).ok()?;
    let timestamp = (uuid.get_version_num() == 7).then(|| uuid.get_timestamp())??;
    Some(UnixSeconds::saturating_from(timestamp.to_unix().0))
}

/// Of parts that can be told apart, and of a namespace.
fn hash(namespace: &[u8], parts: &[&[u8]]) -> u128 {
    let mut digest = Sha256::new();
    for part in std::iter::once(&namespace).chain(parts) {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let mut half = [0; 16];
    half.copy_from_slice(&digest.finalize()[..16]);
    u128::from_le_bytes(half)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn key(value: &str) -> Result<Option<Key>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(
            IDEMPOTENCY_KEY.clone(),
            HeaderValue::from_str(value).unwrap(),
        );
        read(&headers).map_err(|problem| problem.errors()[0].reason.clone())
    }

    #[test]
    fn a_key_is_one_with_quotes_and_without() {
        for (quoted, bare) in [
            (r#""a""#, "a"),
            (r#""a b""#, "a b"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
        ] {
            assert_eq!(key(quoted), key(bare));
            assert!(key(bare).unwrap().is_some());
        }
        assert_ne!(key("a"), key("A"));
        let longest = "x".repeat(MAX_LENGTH);
        assert!(key(&longest).unwrap().is_some());
        assert_eq!(read(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn what_is_no_key_is_told() {
        let too_long = "x".repeat(MAX_LENGTH + 1);
        for (value, reason) in [
            ("", "is empty"),
            (r#""""#, "is empty"),
            (r#""a"#, "lacks its closing quote"),
            (r#""a"b"#, "goes on behind its closing quote"),
            (r#""a\b""#, "has a backslash that escapes nothing"),
            ("a\tb", "has characters beyond visible ASCII"),
            (&too_long, "is longer than 255 characters"),
        ] {
            assert_eq!(key(value), Err(reason.to_owned()), "{value}");
        }
        let mut headers = HeaderMap::new();
        for value in ["a", "a"] {
            headers.append(IDEMPOTENCY_KEY.clone(), HeaderValue::from_static(value));
        }
        assert!(read(&headers).is_err());
    }

    #[test]
    fn a_uuid_of_version_7_says_when_it_was_made() {
        let stamped = |text| key(text).unwrap().unwrap().stamped_at;
        // RFC 9562, appendix A.6.
        let example = "017F22E2-79B0-7CC3-98C4-DC0C0C07398F";
        assert_eq!(stamped(example), Some(1_645_557_742.into()));
        assert_eq!(stamped("919108f7-52d1-4320-9bac-f847db4148a8"), None);
        assert_eq!(stamped("017F22E2"), None);
    }

    #[test]
    fn keys_and_events_do_not_meet() {
        let event = |source, id| of_cloud_event(source, id).hash;
        assert_ne!(event("a", "bc"), event("ab", "c"));
        assert_ne!(event("", "a"), key("a").unwrap().unwrap().hash);
        // They are kept in stores: what they are today they have to stay.
        assert_eq!(
            key("a").unwrap().unwrap().hash,
            0x3c30_b20f_d189_2f80_3292_5c6c_c4ba_0044
        );
        assert_eq!(
            event("/mail/1", "1"),
            0xb4f1_41c2_d003_8f15_ae10_afb5_4007_6252
        );
    }
}
