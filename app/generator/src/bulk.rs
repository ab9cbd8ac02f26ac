//! Many events in one request: how they are written, and what the server says to them.

use std::io::Write as _;

use clap::ValueEnum;
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use serde::Deserialize;

use crate::stream::{Event, Shape};

/// The most events of one request. In either format they stay below 8 MiB, which is what a server
/// takes at most unless it is told otherwise.
pub(crate) const MAX_EVENTS: u32 = 40_000;

/// How the events of one request are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// One small JSON object a line
    Ndjson,
    /// A JSON array of CloudEvents 1.0, its batched content mode
    #[value(name = "cloudevents")]
    CloudEvents,
}

impl Format {
    /// As it stands on the command line and in reports.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::CloudEvents => "cloudevents",
        }
    }

    pub(crate) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Ndjson => "application/x-ndjson",
            Self::CloudEvents => "application/cloudevents-batch+json",
        })
    }
}

/// How events share requests.
#[derive(Debug, Clone)]
pub(crate) struct Bulk {
    /// Events a request; the last one of a run takes what is left.
    pub(crate) size: u32,
    pub(crate) format: Format,
    /// The `source` of every CloudEvent.
    pub(crate) source: String,
}

/// Names a stream by all that decides it. An event's `id` is its index in the stream, so two
/// events share source and id only where they are the same event: one that was sent again.
pub(crate) fn source(shape: Shape, seed: u64) -> String {
    let name = shape.as_str();
    match shape {
        Shape::Reference => format!("urn:create-events:{name}:{seed}"),
        Shape::Uniform {
            domains,
            in_order: false,
            bounce_rate,
        } => format!("urn:create-events:{name}:{domains}:{bounce_rate:e}:{seed}"),
        Shape::Uniform {
            domains,
            in_order: true,
            bounce_rate,
        } => format!("urn:create-events:{name}-in-order:{domains}:{bounce_rate:e}:{seed}"),
        Shape::Zipf {
            domains,
            exponent,
            bounce_rate,
        } => format!("urn:create-events:{name}:{domains}:{exponent}:{bounce_rate:e}:{seed}"),
    }
}

/// Writes the bodies of one connection, each into the memory of the one before.
#[derive(Debug)]
pub(crate) struct Encoder {
    format: Format,
    /// What stands between the id and the type of a CloudEvent.
    source: String,
    last: Bytes,
}

impl Encoder {
    pub(crate) fn new(bulk: &Bulk) -> Self {
        Self {
            format: bulk.format,
            source: format!(r#"","source":"{}","type":"email."#, bulk.source),
            last: Bytes::new(),
        }
    }

    pub(crate) fn content_type(&self) -> HeaderValue {
        self.format.content_type()
    }

    /// The body that carries `events`, the first of which has the index `first` in its stream.
    /// Names and kinds are letters and dots: nothing needs to be escaped.
    pub(crate) fn encode(&mut self, first: u64, events: &[Event]) -> Bytes {
        let mut body = self.empty_buffer();
        match self.format {
            Format::Ndjson => {
                for event in events {
                    body.extend_from_slice(br#"{"domain":""#);
                    body.extend_from_slice(event.name.as_bytes());
                    body.extend_from_slice(br#"","type":""#);
                    body.extend_from_slice(event.kind.as_str().as_bytes());
                    body.extend_from_slice(b"\"}\n");
                }
            }
            Format::CloudEvents => {
                let mut before: &[u8] = b"[";
                for (id, event) in (first..).zip(events) {
                    body.extend_from_slice(before);
                    body.extend_from_slice(br#"{"specversion":"1.0","id":""#);
                    // Writing to memory has no way to fail.
                    write!(body, "{id}").ok();
                    body.extend_from_slice(self.source.as_bytes());
                    body.extend_from_slice(event.kind.as_str().as_bytes());
                    body.extend_from_slice(br#"","subject":""#);
                    body.extend_from_slice(event.name.as_bytes());
                    body.extend_from_slice(br#""}"#);
                    before = b",";
                }
                body.push(b']');
            }
        }
        self.last = Bytes::from(body);
        self.last.clone()
    }

    /// The memory of the last body, unless the connection has not let go of it: then new.
    fn empty_buffer(&mut self) -> Vec<u8> {
        let mut last = std::mem::take(&mut self.last);
        if !last.is_unique() {
            return Vec::new();
        }
        // Emptied first, or the way back to a vector would move what is not needed any more.
        last.clear();
        Vec::from(last)
    }
}

/// How many events the answer to a bulk request says were accepted, if it says so.
pub(crate) fn accepted(answer: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Accepted {
        accepted: u64,
    }
    serde_json::from_slice::<Accepted>(answer)
        .ok()
        .map(|answer| answer.accepted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::stream::{Kind, Stream};
    use serde_json::{Value, json};

    fn encoder(format: Format, shape: Shape, seed: u64) -> Encoder {
        Encoder::new(&Bulk {
            size: MAX_EVENTS,
            format,
            source: source(shape, seed),
        })
    }

    fn events(count: usize) -> Vec<Event> {
        let mut stream = Stream::new(Shape::Reference, 1);
        std::iter::repeat_with(|| stream.next_event())
            .take(count)
            .collect()
    }

    #[test]
    fn a_line_is_one_event() {
        let mut events = events(2);
        events[0].kind = Kind::Delivered;
        events[1].kind = Kind::Bounced;
        let body = encoder(Format::Ndjson, Shape::Reference, 1).encode(0, &events);
        assert_eq!(
            body,
            "{\"domain\":\"sYDXUijUwJMfVy.net\",\"type\":\"delivered\"}\n\
             {\"domain\":\"SQQkkEkcBqDVEn.com\",\"type\":\"bounced\"}\n"
        );
    }

    #[test]
    fn a_cloud_event_has_all_that_is_required() {
        let mut events = events(2);
        events[0].kind = Kind::Delivered;
        events[1].kind = Kind::Bounced;
        let body = encoder(Format::CloudEvents, Shape::Reference, 7).encode(99, &events);
        assert_eq!(
            serde_json::from_slice::<Value>(&body).unwrap(),
            json!([
                {
                    "specversion": "1.0", "id": "99", "source": "urn:create-events:reference:7",
                    "type": "email.delivered", "subject": "sYDXUijUwJMfVy.net",
                },
                {
                    "specversion": "1.0", "id": "100", "source": "urn:create-events:reference:7",
                    "type": "email.bounced", "subject": "SQQkkEkcBqDVEn.com",
                },
            ])
        );
    }

    #[test]
    fn streams_that_differ_have_sources_that_differ() {
        let uniform = |domains, bounce_rate| Shape::Uniform {
            domains,
            in_order: false,
            bounce_rate,
        };
        let in_order = Shape::Uniform {
            domains: 5,
            in_order: true,
            bounce_rate: 0.1,
        };
        let zipf = Shape::Zipf {
            domains: 5,
            exponent: 1.1,
            bounce_rate: 0.1,
        };
        let sources = [
            source(Shape::Reference, 1),
            source(Shape::Reference, 2),
            source(uniform(5, 0.1), 1),
            source(uniform(6, 0.1), 1),
            source(uniform(5, 0.002), 1),
            source(zipf, 1),
            source(in_order, 1),
        ];
        assert_eq!(sources[4], "urn:create-events:uniform:5:2e-3:1");
        assert_eq!(sources[5], "urn:create-events:zipf:5:1.1:1e-1:1");
        let distinct: std::collections::HashSet<&String> = sources.iter().collect();
        assert_eq!(distinct.len(), sources.len());
    }

    #[test]
    fn the_longest_body_stays_below_8_mib() {
        let longest = Stream::new(Shape::Reference, 1).next_event();
        assert_eq!(longest.name.as_bytes().len(), 18);
        let event = Event {
            kind: Kind::Delivered,
            ..longest
        };
        let shape = Shape::Zipf {
            domains: 10_000_000,
            exponent: 1.234_567_890_123_456_7,
            bounce_rate: 1.234_567_890_123_456_7e-300,
        };
        for format in [Format::Ndjson, Format::CloudEvents] {
            let body = encoder(format, shape, u64::MAX)
                .encode(4_000_000_000, &vec![event; MAX_EVENTS as usize]);
            assert!(body.len() < 8 << 20, "{}: {}", format.as_str(), body.len());
        }
    }

    #[test]
    fn a_body_that_was_let_go_gives_its_memory_to_the_next() {
        let events = events(100);
        for format in [Format::Ndjson, Format::CloudEvents] {
            let mut encoder = encoder(format, Shape::Reference, 1);
            let first = encoder.encode(0, &events);
            let at = first.as_ptr();
            drop(first);
            let second = encoder.encode(100, &events[1..]);
            assert_eq!(second.as_ptr(), at);

            // Not let go, it stays as it is.
            let kept = second.clone();
            let third = encoder.encode(199, &events);
            assert_ne!(third.as_ptr(), at);
            assert_eq!(second, kept);
        }
    }

    #[test]
    fn an_answer_says_how_many_were_accepted_or_nothing_of_use() {
        let answer = br#"{"accepted":3,"duplicates":0,"skipped":0,"errors":[]}"#;
        assert_eq!(accepted(answer), Some(3));
        for answer in ["", "ok", "{}", r#"{"accepted":-1}"#, r#"{"accepted":"3"}"#] {
            assert_eq!(accepted(answer.as_bytes()), None, "{answer}");
        }
    }
}
