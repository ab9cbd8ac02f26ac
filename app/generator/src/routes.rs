//! The paths of the server's API that are used here.

use hyper::body::Bytes;
use hyper::http::uri::PathAndQuery;

use crate::stream::{Event, Name};

/// Where one event is put.
pub(crate) fn event(event: &Event) -> PathAndQuery {
    let kind = event.kind.as_str().as_bytes();
    path(&[b"/v1/events/", event.name.as_bytes(), b"/", kind])
}

/// Where many events are posted.
pub(crate) fn events() -> PathAndQuery {
    PathAndQuery::from_static("/v1/events")
}

/// Where a domain's counts and verdict are read.
pub(crate) fn domain(name: Name) -> PathAndQuery {
    path(&[b"/v1/domains/", name.as_bytes()])
}

/// Where the server tells about itself.
pub(crate) fn stats() -> PathAndQuery {
    PathAndQuery::from_static("/v1/stats")
}

#[expect(
    clippy::expect_used,
    reason = "the segments are fixed or made of letters and a dot: always a path"
)]
fn path(parts: &[&[u8]]) -> PathAndQuery {
    PathAndQuery::from_maybe_shared(Bytes::from(parts.concat())).expect("a path")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Kind, Shape, Stream};

    #[test]
    fn paths_carry_the_name_as_it_is() {
        let mut sent = Stream::new(Shape::Reference, 1).next_event();
        for (kind, word) in [(Kind::Delivered, "delivered"), (Kind::Bounced, "bounced")] {
            sent.kind = kind;
            assert_eq!(
                event(&sent),
                format!("/v1/events/{}/{word}", sent.name).as_str()
            );
        }
        assert_eq!(
            domain(sent.name),
            format!("/v1/domains/{}", sent.name).as_str()
        );
    }
}
