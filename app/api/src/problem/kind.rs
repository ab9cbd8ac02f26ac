use actix_web::http::StatusCode;

/// The kinds of problem. What clients see of one never changes its meaning: a new reason is a new
/// kind.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Kind {
    InvalidDomain,
    InvalidQuery,
    InvalidContent,
    InvalidEncoding,
    InvalidKey,
    KeyExpired,
    KeyAhead,
    NotFound,
    MethodNotAllowed,
    ReadTimeout,
    ContentTooLarge,
    PathTooLong,
    ContentNotSupported,
    MediaTypeNotSupported,
    EncodingNotSupported,
    InvalidEvents,
    InvalidLookup,
    MarkMismatch,
    HeadTooLarge,
    Internal,
    Overloaded,
    Unavailable,
    OutcomeUnknown,
    AnswerTimeout,
    ConnectionEnded,
    NotReady,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 26] = [
        Self::InvalidDomain,
        Self::InvalidQuery,
        Self::InvalidContent,
        Self::InvalidEncoding,
        Self::InvalidKey,
        Self::KeyExpired,
        Self::KeyAhead,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::ReadTimeout,
        Self::ContentTooLarge,
        Self::PathTooLong,
        Self::ContentNotSupported,
        Self::MediaTypeNotSupported,
        Self::EncodingNotSupported,
        Self::InvalidEvents,
        Self::InvalidLookup,
        Self::MarkMismatch,
        Self::HeadTooLarge,
        Self::Internal,
        Self::Overloaded,
        Self::Unavailable,
        Self::OutcomeUnknown,
        Self::AnswerTimeout,
        Self::ConnectionEnded,
        Self::NotReady,
    ];

    /// The `type` of its document.
    ///
    /// A URN, not a link: it is the same behind every host name and path prefix, and can be
    /// compared as text. RFC 9457, section 3.1.1, allows a type that cannot be fetched; the API
    /// description lists what each one means.
    pub(crate) fn type_uri(self) -> String {
        format!("urn:catchall:problem:{}", self.slug())
    }

    /// How long a client should wait before it tries again, in seconds.
    pub(crate) fn retry_after_s(self) -> Option<u64> {
        (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(1)
    }

    /// Whether the connection cannot be used any more: where the next request begins on it is not
    /// known.
    pub(crate) fn ends_connection(self) -> bool {
        matches!(self, Self::ReadTimeout | Self::InvalidContent)
    }

    /// The last word of the type, also used in logs.
    pub(crate) const fn slug(self) -> &'static str {
        self.facts().1
    }

    pub(crate) const fn status(self) -> StatusCode {
        self.facts().0
    }

    pub(crate) const fn title(self) -> &'static str {
        self.facts().2
    }

    pub(crate) const fn detail(self) -> &'static str {
        self.facts().3
    }

    /// Status, slug, title, detail.
    const fn facts(self) -> (StatusCode, &'static str, &'static str, &'static str) {
        match self {
            Self::InvalidDomain => (
                StatusCode::BAD_REQUEST,
                "invalid-domain",
                "Invalid domain name",
                "The path does not name a mail domain. Nothing was done.",
            ),
            Self::InvalidQuery => (
                StatusCode::BAD_REQUEST,
                "invalid-query",
                "Invalid query",
                "A query parameter is unknown, stands twice or has a value it cannot have.",
            ),
            Self::InvalidContent => (
                StatusCode::BAD_REQUEST,
                "invalid-content",
                "Content broken off",
                "The content does not end where the head says, or its chunks are malformed.",
            ),
            Self::InvalidEncoding => (
                StatusCode::BAD_REQUEST,
                "invalid-encoding",
                "Content cannot be decoded",
                "The content is not what its Content-Encoding says, is cut off, or asks for more \
                 memory than a decoder gets. Nothing was done.",
            ),
            Self::InvalidKey => (
                StatusCode::BAD_REQUEST,
                "invalid-idempotency-key",
                "Invalid idempotency key",
                "The Idempotency-Key is no key, stands twice, or is not taken with these events. \
                 Nothing was counted.",
            ),
            Self::KeyExpired => (
                StatusCode::BAD_REQUEST,
                "idempotency-key-expired",
                "Idempotency key expired",
                "The key was made before the moment from which on the server remembers keys \
                 (`keys_from` in /v1/stats). Nothing was counted now; whether it was before is \
                 not known.",
            ),
            Self::KeyAhead => (
                StatusCode::BAD_REQUEST,
                "idempotency-key-ahead",
                "Idempotency key from the future",
                "The key was made more than five minutes ahead of the server's clock. Nothing was \
                 counted.",
            ),
            Self::NotFound => (
                StatusCode::NOT_FOUND,
                "not-found",
                "No such resource",
                "Nothing is served at this path; /openapi.json lists what is.",
            ),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "Method not allowed",
                "The resource does not have this method; the Allow header lists those it has.",
            ),
            Self::ReadTimeout => (
                StatusCode::REQUEST_TIMEOUT,
                "read-timeout",
                "Content not received in time",
                "The content of the request did not arrive in time. Nothing was done.",
            ),
            Self::ContentTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "content-too-large",
                "Content too large",
                "The content, as it is sent or decoded, is larger than the server is set to read. \
                 Nothing was done.",
            ),
            Self::PathTooLong => (
                StatusCode::URI_TOO_LONG,
                "path-too-long",
                "Path too long",
                "The path is longer than the server is set to read. Nothing was done.",
            ),
            Self::ContentNotSupported => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "content-not-supported",
                "Content not supported",
                "This request takes no content, of whatever media type. Nothing was done.",
            ),
            Self::MediaTypeNotSupported => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "media-type-not-supported",
                "Media type not supported",
                "The content is of no media type that is read here; the Accept header lists \
                 those that are. Nothing was done.",
            ),
            Self::EncodingNotSupported => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "content-encoding-not-supported",
                "Content encoding not supported",
                "The content is encoded in a way that is not read here, or twice; the \
                 Accept-Encoding header lists what is read. Nothing was done.",
            ),
            Self::InvalidEvents => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid-events",
                "Invalid events",
                "There is no event in the content, or some that are wrong: `invalid` says how \
                 many, and the errors name the first of them. Nothing was counted.",
            ),
            Self::InvalidLookup => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid-lookup",
                "Invalid lookup",
                "The content is no list of domain names, too long, or some names are wrong: \
                 `invalid` says how many, and the errors name the first of them.",
            ),
            Self::MarkMismatch => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "Idempotency key reused",
                "The idempotency key was used before for another request. Nothing was counted.",
            ),
            Self::HeadTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head-too-large",
                "Request head too large",
                "The request line and header fields are larger than the server is set to read.",
            ),
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "Internal error",
                "The server failed; its log has the reason under the id of this request. A \
                 request that counts may have been counted.",
            ),
            Self::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "Overloaded",
                "More requests wait, or more of their content, than the server may hold. Nothing \
                 was done: try again.",
            ),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "Store unavailable",
                "The store cannot be reached, or cannot write. Nothing was done: try again.",
            ),
            Self::OutcomeUnknown => (
                StatusCode::SERVICE_UNAVAILABLE,
                "outcome-unknown",
                "Outcome unknown",
                "The store was lost while it wrote. The event, or all of a request, may have \
                 been counted: sent again, it counts once only under the same idempotency key.",
            ),
            Self::AnswerTimeout => (
                StatusCode::SERVICE_UNAVAILABLE,
                "answer-timeout",
                "Not answered in time",
                "The server did not finish in time. What was sent may still be counted: sent again, \
                 it counts once only under the same idempotency key.",
            ),
            Self::ConnectionEnded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "connection-ended",
                "Connection ended",
                "The server is stopping, and an answer before this one has ended the connection. \
                 Nothing was done: try again over another one.",
            ),
            Self::NotReady => (
                StatusCode::SERVICE_UNAVAILABLE,
                "not-ready",
                "Not ready",
                "The server should get no requests now; the errors name the checks that failed.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_kinds_are_told_by_one_word() {
        let slugs: HashSet<_> = Kind::ALL.map(Kind::slug).into();
        assert_eq!(slugs.len(), Kind::ALL.len());
    }

    #[test]
    fn whoever_is_told_to_come_back_is_told_when() {
        for kind in Kind::ALL {
            let unavailable = kind.status() == StatusCode::SERVICE_UNAVAILABLE;
            assert_eq!(kind.retry_after_s().is_some(), unavailable, "{kind:?}");
        }
    }
}
