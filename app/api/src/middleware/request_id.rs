use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The header that carries it, in and out.
static HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is taken over.
const MAX_LENGTH: usize = 128;
/// What is escaped in a URN: all but the unreserved characters (RFC 3986, section 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Names one request in answers, logs and traces: 1 to 128 visible ASCII characters.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    /// The caller's own, or a new one if it has none that can be used.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        headers
            .get(&HEADER)
            .filter(|id| {
                (1..=MAX_LENGTH).contains(&id.len())
                    && id.as_bytes().iter().all(u8::is_ascii_graphic)
            })
            .map_or_else(Self::new, |id| Self(id.clone()))
    }

    /// 128 random bits in hexadecimal. They name, they do not protect: not from a secure source.
    #[expect(
        clippy::expect_used,
        reason = "hexadecimal digits are always a header value"
    )]
    pub(crate) fn new() -> Self {
        // Every request without an id gets one, and a formatter takes longer than the rest of it.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut id = [0; 32];
        for (digits, byte) in id.chunks_exact_mut(2).zip(fastrand::u128(..).to_le_bytes()) {
            digits[0] = DIGITS[usize::from(byte >> 4)];
            digits[1] = DIGITS[usize::from(byte & 15)];
        }
        Self(HeaderValue::from_bytes(&id).expect("hexadecimal digits"))
    }

    /// One to show.
    pub(crate) fn example() -> Self {
        Self(HeaderValue::from_static("0f8fad5bd9cb469fa16570867728950e"))
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub(super) fn attach_to(self, headers: &mut HeaderMap) {
        headers.insert(HEADER.clone(), self.0);
    }

    /// As the `instance` of a problem document.
    pub(crate) fn to_urn(&self) -> String {
        format!(
            "urn:catchall:request:{}",
            utf8_percent_encode(self.as_str(), ESCAPED)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(sent: &[u8]) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER.clone(), HeaderValue::from_bytes(sent).unwrap());
        RequestId::of(&headers)
    }

    #[test]
    fn the_callers_id_is_kept_if_it_can_be() {
        let longest = "x".repeat(MAX_LENGTH);
        for kept in ["1", "a-b_c:d/e", longest.as_str()] {
            assert_eq!(id_for(kept.as_bytes()).as_str(), kept);
        }
        let too_long = "x".repeat(MAX_LENGTH + 1);
        for refused in ["", "a b", "a\tb", "bü", too_long.as_str()] {
            let id = id_for(refused.as_bytes());
            assert_ne!(id.as_str(), refused);
            assert_eq!(id.as_str().len(), 32, "{id:?}");
        }
    }

    #[test]
    fn an_instance_is_a_uri_whatever_the_id() {
        assert_eq!(
            id_for(b"a\"<%>#b").to_urn(),
            "urn:catchall:request:a%22%3C%25%3E%23b"
        );
    }
}
