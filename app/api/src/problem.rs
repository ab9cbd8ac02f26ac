//! How a request fails: one kind of problem for each reason a client can tell apart, answered as
//! an RFC 9457 document.

use std::{error::Error, fmt, sync::Arc};

use actix_web::{
    HttpResponse, ResponseError,
    http::{Method, StatusCode, header},
};
use business::{
    email_domains::{
        error::{ReadError, RecordError},
        model::InvalidDomainName,
    },
    kernel::{ErrorKind, PortError},
};
use serde::Serialize;
use utoipa::ToSchema;

mod kind;

pub(crate) use kind::Kind;

use crate::middleware::RequestId;

/// The media type of a problem document (RFC 9457, section 6.1).
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// Why a request was not served. Handlers return it; the middleware turns it into an answer.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    kind: Kind,
    errors: Vec<FieldError>,
    /// How many are wrong, if that may be more than there are errors.
    invalid: Option<u64>,
    /// What would be right instead.
    hint: Option<Hint>,
    cause: Option<Arc<dyn Error + Send + Sync>>,
    store_asked: bool,
}

/// What a request may have instead of what it has.
#[derive(Clone, Copy, Debug)]
enum Hint {
    /// These methods.
    Allow(&'static [Method]),
    /// Content of these media types.
    Accept(&'static str),
}

/// What is wrong with one part of a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// The line of the content, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = 3)]
    pub(crate) line: Option<u64>,
    /// The index in the array, counted from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) index: Option<u64>,
    /// A path or query parameter, a part of the content, or a check of `/readyz`.
    #[schema(example = "domain")]
    pub(crate) field: String,
    /// Why it is refused.
    #[schema(example = "a domain name cannot be empty")]
    pub(crate) reason: String,
}

impl FieldError {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            line: None,
            index: None,
            field: field.into(),
            reason: reason.into(),
        }
    }
}

/// Why a request was not served (RFC 9457).
///
/// `type` tells problems apart and is stable; `title` and `detail` are for people and may change.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Document {
    /// Names the kind of problem: `urn:catchall:problem:` and a word.
    #[serde(rename = "type")]
    #[schema(example = "urn:catchall:problem:invalid-domain")]
    type_uri: String,
    /// The kind of problem in a few words.
    #[schema(example = "Invalid domain name")]
    title: &'static str,
    /// The HTTP status, once more.
    #[schema(example = 400)]
    status: u16,
    /// What it means, and what to do.
    detail: &'static str,
    /// Names this one failure: `urn:catchall:request:` and the request id, percent-encoded.
    #[schema(example = "urn:catchall:request:0f8fad5bd9cb469fa16570867728950e")]
    instance: String,
    /// What is wrong, part by part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
    /// How many events or names are wrong; the errors tell of the first 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    invalid: Option<u64>,
}

impl Problem {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            errors: Vec::new(),
            invalid: None,
            hint: None,
            cause: None,
            store_asked: false,
        }
    }

    /// The same, and the store was asked before.
    pub(crate) fn of_the_store(self) -> Self {
        Self {
            store_asked: true,
            ..self
        }
    }

    /// Whether the store was asked, and accounts for the events of the request.
    pub(crate) fn store_asked(&self) -> bool {
        self.store_asked
    }

    /// One that names what is wrong with the request.
    pub(crate) fn with_errors(kind: Kind, errors: Vec<FieldError>) -> Self {
        Self {
            errors,
            ..Self::new(kind)
        }
    }

    /// One that names the first of so many that are wrong.
    pub(crate) fn with_some_errors(kind: Kind, errors: Vec<FieldError>, invalid: u64) -> Self {
        Self {
            invalid: Some(invalid),
            ..Self::with_errors(kind, errors)
        }
    }

    /// The content is of none of these media types. A response says so in Accept (RFC 9110,
    /// section 12.5.1).
    pub(crate) fn media_type_not_supported(accepted: &'static str) -> Self {
        Self {
            hint: Some(Hint::Accept(accepted)),
            ..Self::new(Kind::MediaTypeNotSupported)
        }
    }

    /// One with a cause, which is logged and never shown.
    pub(crate) fn caused_by(kind: Kind, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            cause: Some(Arc::from(cause.into())),
            ..Self::new(kind)
        }
    }

    /// The method is not one of these.
    pub(crate) fn method_not_allowed(allow: &'static [Method]) -> Self {
        Self {
            hint: Some(Hint::Allow(allow)),
            ..Self::new(Kind::MethodNotAllowed)
        }
    }

    pub(crate) fn invalid_domain(reason: impl Into<String>) -> Self {
        Self::with_errors(Kind::InvalidDomain, vec![FieldError::new("domain", reason)])
    }

    pub(crate) fn invalid_key(reason: &str) -> Self {
        Self::with_errors(
            Kind::InvalidKey,
            vec![FieldError::new("Idempotency-Key", reason)],
        )
    }

    /// The server should get no requests: these checks failed, and this error was one reason.
    pub(crate) fn not_ready(failed: Vec<FieldError>, cause: Option<PortError>) -> Self {
        let cause = cause.map(|error| Arc::new(error) as Arc<dyn Error + Send + Sync>);
        Self {
            cause,
            ..Self::with_errors(Kind::NotReady, failed)
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    #[cfg(test)]
    pub(crate) fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// The cause and what caused that, for the log.
    pub(crate) fn chain(&self) -> Option<impl fmt::Display + '_> {
        self.cause.as_deref().map(|cause| Chain(cause))
    }

    /// The document, for one request.
    pub(crate) fn document(&self, request: &RequestId) -> Document {
        Document {
            type_uri: self.kind.type_uri(),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: self.kind.detail(),
            instance: request.to_urn(),
            errors: self.errors.clone(),
            invalid: self.invalid,
        }
    }

    /// The answer to one request.
    pub(crate) fn answer(&self, request: &RequestId) -> HttpResponse {
        let mut response = HttpResponse::build(self.kind.status());
        match self.hint {
            Some(Hint::Allow(methods)) => {
                let names: Vec<_> = methods.iter().map(Method::as_str).collect();
                response.insert_header((header::ALLOW, names.join(", ")));
            }
            Some(Hint::Accept(media_types)) => {
                response.insert_header((header::ACCEPT, media_types));
            }
            None => {}
        }
        if self.kind == Kind::EncodingNotSupported {
            response.insert_header((header::ACCEPT_ENCODING, "gzip, zstd"));
        }
        if let Some(seconds) = self.kind.retry_after_s() {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if self.kind.ends_connection() {
            response.force_close();
        }
        // The media type must stand first: `json` leaves one that is there.
        response
            .content_type(MEDIA_TYPE)
            .json(self.document(request))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.slug())
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.kind.status()
    }

    /// A blank for the middleware to fill in: only it knows the request's id.
    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.kind.status())
    }
}

impl From<InvalidDomainName> for Problem {
    fn from(invalid: InvalidDomainName) -> Self {
        Self::invalid_domain(invalid.to_string())
    }
}

impl From<RecordError> for Problem {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::MarkMismatch => Self::new(Kind::MarkMismatch).of_the_store(),
            RecordError::KeyExpired => Self::new(Kind::KeyExpired).of_the_store(),
            RecordError::KeyAhead => Self::new(Kind::KeyAhead),
            RecordError::Store(error) => error.into(),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Cursor => Self::with_errors(
                Kind::InvalidQuery,
                vec![FieldError::new("cursor", ReadError::Cursor.to_string())],
            ),
            ReadError::Store(error) => error.into(),
        }
    }
}

impl From<PortError> for Problem {
    fn from(error: PortError) -> Self {
        let kind = match error.kind() {
            ErrorKind::Unavailable => Kind::Unavailable,
            ErrorKind::Overloaded => Kind::Overloaded,
            ErrorKind::Ambiguous => Kind::OutcomeUnknown,
            ErrorKind::Invalid
            | ErrorKind::Outdated
            | ErrorKind::Corrupt
            | ErrorKind::Unexpected => Kind::Internal,
        };
        Self::caused_by(kind, error).of_the_store()
    }
}

struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_of_a_store_has_its_kind() {
        for (error, kind) in [
            (ErrorKind::Unavailable, Kind::Unavailable),
            (ErrorKind::Overloaded, Kind::Overloaded),
            (ErrorKind::Ambiguous, Kind::OutcomeUnknown),
            (ErrorKind::Invalid, Kind::Internal),
            (ErrorKind::Outdated, Kind::Internal),
            (ErrorKind::Corrupt, Kind::Internal),
            (ErrorKind::Unexpected, Kind::Internal),
        ] {
            let error = PortError::new(error, "record");
            assert_eq!(
                Problem::from(RecordError::Store(error.clone())).kind(),
                kind
            );
            assert_eq!(Problem::from(ReadError::Store(error)).kind(), kind);
        }
        for (error, kind) in [
            (RecordError::MarkMismatch, Kind::MarkMismatch),
            (RecordError::KeyExpired, Kind::KeyExpired),
            (RecordError::KeyAhead, Kind::KeyAhead),
        ] {
            let problem = Problem::from(error);
            assert_eq!(problem.kind(), kind);
            assert_eq!(problem.store_asked(), kind != Kind::KeyAhead);
        }
        assert_eq!(Problem::from(ReadError::Cursor).kind(), Kind::InvalidQuery);
    }

    #[test]
    fn the_log_gets_the_whole_chain_and_the_client_none_of_it() {
        let error = PortError::caused_by(ErrorKind::Corrupt, "get", "secret text");
        let problem = Problem::from(error);
        let chain = problem.chain().map(|chain| chain.to_string());
        assert_eq!(chain.as_deref(), Some("get: corrupt: secret text"));
        let document = problem.document(&RequestId::new());
        let text = serde_json::to_string(&document).unwrap();
        assert!(
            !text.contains("secret") && !text.contains("corrupt"),
            "{text}"
        );
    }
}
