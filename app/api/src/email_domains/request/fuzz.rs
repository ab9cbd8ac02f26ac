//! What holds for any bytes that a client may send: tried at random by this crate's tests, and for as
//! long as one likes by `fuzz/`.

use actix_web::http::header::{HeaderMap, HeaderValue};
use business::email_domains::model::{DomainName, EventKind};

use super::{
    bulk::{Events, Format},
    event, key, parse_domain,
};
use crate::middleware::IDEMPOTENCY_KEY;

/// A segment of a path. The name of a domain is its own name.
///
/// # Panics
/// When that does not hold.
pub fn path(segment: &[u8]) {
    let Ok(domain) = parse_domain(segment) else {
        return;
    };
    let name = domain.as_str();
    assert!((1..=253).contains(&name.len()), "{name:?}");
    assert_eq!(DomainName::parse(name).as_ref(), Ok(&domain), "{name:?}");
    assert_eq!(parse_domain(name.as_bytes()).ok(), Some(domain.clone()));
}

/// The content of a bulk request, in a format that the first byte chooses. Every event is told of,
/// as counted or as wrong; and what the quick way reads, the general one reads alike.
///
/// # Panics
/// When that does not hold.
pub fn bulk(bytes: &[u8]) {
    let Some((choice, body)) = bytes.split_first() else {
        return;
    };
    let format = match choice % 4 {
        0 => Format::Lines,
        1 => Format::Json,
        2 => Format::CloudEvent,
        _ => Format::CloudEvents,
    };
    let Ok(events) = Events::read(format, &HeaderMap::new(), body) else {
        return;
    };
    let count = events.together.len() + events.members.len();
    let told = count as u64 + events.faults.count;
    if format == Format::Lines {
        let lines = body.split(|byte| *byte == b'\n');
        let blank = |line: &[u8]| line.iter().all(|byte| b" \t\r".contains(byte));
        let lines = lines.filter(|line| !blank(line)).count();
        assert_eq!(told, lines as u64);
    }
    for change in events.together.iter() {
        let name = change.domain.as_str();
        assert_eq!(
            DomainName::parse(name).map(|name| name.borrowed() == change.domain),
            Ok(true)
        );
        assert_eq!(change.delivered + change.bounced, 1);
    }
    for line in body.split(|byte| *byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else {
            continue;
        };
        if let Ok((domain, kind)) = event::parse(line) {
            let value: serde_json::Value = match serde_json::from_str(line) {
                Ok(value) => value,
                Err(error) => panic!("{line:?} is read though {error}"),
            };
            assert_eq!(value["domain"], *domain, "{line:?}");
            let delivered = value["type"] == "delivered";
            assert_eq!(kind == EventKind::Delivered, delivered, "{line:?}");
        }
    }
}

/// The value of an `Idempotency-Key`. It is the same key with quotes and without.
///
/// # Panics
/// When that does not hold.
pub fn idempotency_key(bytes: &[u8]) {
    let read = |bytes: &[u8]| {
        let mut headers = HeaderMap::new();
        headers.insert(
            IDEMPOTENCY_KEY.clone(),
            HeaderValue::from_bytes(bytes).ok()?,
        );
        key::read(&headers).ok()?
    };
    let Some(bare) = read(bytes) else { return };
    if bytes.trim_ascii().starts_with(b"\"") {
        return;
    }
    let mut quoted = vec![b'"'];
    for byte in bytes.trim_ascii() {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(*byte);
    }
    quoted.push(b'"');
    assert_eq!(read(&quoted), Some(bare));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// Bytes, mostly those that mean something.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop_oneof![
            Just(&b"{\"domain\":\"a.example\",\"type\":\"delivered\"}"[..]),
            Just(&b"{\"type\" : \"bounced\", \"domain\":\"\\u0061.example\"}"[..]),
            Just(&b"\n"[..]),
            Just(&b"\r\n"[..]),
            Just(&b"["[..]),
            Just(&b"]"[..]),
            Just(&b","[..]),
            Just(&b"\"domain\""[..]),
            Just(&b"\""[..]),
            Just(&b"\\"[..]),
            Just(&b"%61%2e"[..]),
            Just(&b"xn--a"[..]),
            Just(&b"0190c3e2-5a3b-7c11-8a1e-3f0f8fad5bd9"[..]),
        ];
        let pieces = prop_oneof![
            3 => pieces.prop_map(<[u8]>::to_vec),
            2 => prop::collection::vec(any::<u8>(), 0..6),
            2 => "[ -~]{0,9}".prop_map(String::into_bytes),
        ];
        let all = prop::collection::vec(pieces, 0..8);
        (any::<u8>(), all).prop_map(|(first, all)| [vec![first], all.concat()].concat())
    }

    proptest! {
        #[test]
        fn whatever_a_path_is(bytes in bytes()) {
            super::path(&bytes[1..]);
        }

        #[test]
        fn whatever_the_content_is(bytes in bytes()) {
            super::bulk(&bytes);
        }

        #[test]
        fn whatever_the_key_is(bytes in bytes()) {
            super::idempotency_key(&bytes[1..]);
        }
    }
}
