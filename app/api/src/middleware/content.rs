//! The content of requests that take none: read under a deadline and up to a bound, then thrown
//! away.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{
    HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    dev::Payload,
    http::header::{self, HeaderMap},
    web::Bytes,
};
use futures_util::StreamExt;

use crate::{limits::Settings, problem::Kind};

/// Whether the head announces content. What follows an upgrade or a CONNECT is none.
pub(super) fn is_declared(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING)
}

/// Refuses content that says itself that it is too large.
pub(super) fn check_declared(headers: &HeaderMap, settings: &Settings) -> Result<(), Kind> {
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.trim().parse::<u64>().ok());
    match declared {
        Some(length) if length > settings.max_body_bytes.get() => Err(Kind::ContentTooLarge),
        _ => Ok(()),
    }
}

/// Reads content to its end. True if there was any: chunked content may turn out to be empty.
pub(super) async fn discard(
    payload: &mut Payload,
    headers: &HeaderMap,
    settings: &Settings,
) -> Result<bool, Kind> {
    check_declared(headers, settings)?;
    let limit = settings.max_body_bytes.get();
    let reading = async {
        let mut length = 0_u64;
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|_| Kind::InvalidContent)?;
            length = length.saturating_add(chunk.len() as u64);
            if length > limit {
                return Err(Kind::ContentTooLarge);
            }
        }
        Ok(length > 0)
    };
    tokio::time::timeout(settings.read_timeout(), reading)
        .await
        .unwrap_or(Err(Kind::ReadTimeout))
}

/// A response to a request whose content may not have been read to its end; the connection is
/// then closed behind it.
///
/// The server underneath would rather read dropped chunked content to its end, for as long as the
/// client cares to send it. So the content is kept until the response is written.
pub(super) fn with_unread(response: HttpResponse, unread: Payload) -> HttpResponse {
    match unread {
        Payload::None => response,
        unread => response.map_body(|_, body| {
            BoxBody::new(Unread {
                body,
                _content: unread,
            })
        }),
    }
}

struct Unread {
    body: BoxBody,
    _content: Payload,
}

impl MessageBody for Unread {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}
