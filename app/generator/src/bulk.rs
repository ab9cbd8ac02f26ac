//! Many events in one request: how they are written, and what the server says to them.

use std::io::Write as _;

use clap::ValueEnum;
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use serde::Deserialize;

use crate::stream::Event;

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

/// Names a run. An event's `id` is its index in the stream, so two events share source and id only
/// where they are the same event: one that was sent again.
pub(crate) fn source(run: u128) -> String {
    format!(
        "urn:uuid:{}",
        uuid::Builder::from_random_bytes(run.to_be_bytes()).into_uuid()
    )
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

/// What the answer to a bulk request says became of its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) accepted: u64,
    #[serde(default)]
    pub(crate) duplicates: u64,
}

impl Receipt {
    /// What the answer says, if it says so.
    pub(crate) fn read(answer: &[u8]) -> Option<Self> {
        serde_json::from_slice(answer).ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::stream::{Kind, Shape, Stream};
    use serde_json::{Value, json};

    fn encoder(format: Format) -> Encoder {
        Encoder::new(&Bulk {
            size: MAX_EVENTS,
            format,
            source: source(7),
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
        let body = encoder(Format::Ndjson).encode(0, &events);
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
        let body = encoder(Format::CloudEvents).encode(99, &events);
        assert_eq!(
            serde_json::from_slice::<Value>(&body).unwrap(),
            json!([
                {
                    "specversion": "1.0", "id": "99", "source": "urn:uuid:00000000-0000-4000-8000-000000000007",
                    "type": "email.delivered", "subject": "sYDXUijUwJMfVy.net",
                },
                {
                    "specversion": "1.0", "id": "100", "source": "urn:uuid:00000000-0000-4000-8000-000000000007",
                    "type": "email.bounced", "subject": "SQQkkEkcBqDVEn.com",
                },
            ])
        );
    }

    #[test]
    fn the_longest_body_stays_below_8_mib() {
        let longest = Stream::new(Shape::Reference, 1).next_event();
        assert_eq!(longest.name.as_bytes().len(), 18);
        let event = Event {
            kind: Kind::Delivered,
            ..longest
        };
        for format in [Format::Ndjson, Format::CloudEvents] {
            let body = encoder(format).encode(4_000_000_000, &vec![event; MAX_EVENTS as usize]);
            assert!(body.len() < 8 << 20, "{}: {}", format.as_str(), body.len());
        }
    }

    #[test]
    fn a_body_that_was_let_go_gives_its_memory_to_the_next() {
        let events = events(100);
        for format in [Format::Ndjson, Format::CloudEvents] {
            let mut encoder = encoder(format);
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
        let answer = br#"{"accepted":3,"duplicates":1,"skipped":0,"errors":[]}"#;
        let receipt = Receipt {
            accepted: 3,
            duplicates: 1,
        };
        assert_eq!(Receipt::read(answer), Some(receipt));
        for answer in ["", "ok", "{}", r#"{"accepted":-1}"#, r#"{"accepted":"3"}"#] {
            assert_eq!(Receipt::read(answer.as_bytes()), None, "{answer}");
        }
    }
}
