//! Many events in one request.

use std::{
    borrow::Cow,
    fmt,
    future::{Ready, ready},
};

use actix_web::{
    FromRequest, HttpMessage as _, HttpRequest,
    dev::Payload,
    http::header::{CONTENT_TYPE, HeaderMap},
    web::Query,
};
use business::email_domains::model::{Changes, EventKind, Key, Mark, Member};
use serde::{
    Deserializer as _,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    cloud_event::{self, CloudEvent},
    event::{self, is_blank},
    faults::{Fault, Faults, Place},
    key,
};
use crate::{
    middleware::{Body, Held},
    problem::{FieldError, Kind, Problem},
};

/// What events may be sent as, beside CloudEvents in header fields.
const MEDIA_TYPES: &str = "application/x-ndjson, application/json, application/cloudevents+json, \
                           application/cloudevents-batch+json";

/// The events of one request: all of them are sound, or those that are not may be skipped.
pub(crate) struct EventsBody {
    /// Those that are sound.
    pub(crate) sent: Sent,
    /// What is left out.
    pub(crate) skipped: Faults,
    /// The memory they take is the body's.
    pub(crate) held: Held,
}

/// Events, and what is counted once.
pub(crate) enum Sent {
    /// All of them as a whole.
    Together(Changes, Option<Key>),
    /// Each member by itself.
    Each(Vec<Member>),
}

impl Sent {
    /// How many there are: delivered, bounced.
    pub(crate) fn sums(&self) -> (u64, u64) {
        match self {
            Self::Together(changes, _) => changes.sums(),
            Self::Each(members) => {
                let sums = members.iter().map(|member| member.changes.sums());
                sums.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
            }
        }
    }
}

impl FromRequest for EventsBody {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(read(request))
    }
}

fn read(request: &HttpRequest) -> Result<EventsBody, Problem> {
    let skips = skips(request.query_string())?;
    let Body { bytes, held } = request
        .extensions_mut()
        .remove::<Body>()
        .unwrap_or_default();
    let format = Format::of(request.headers())?;
    let key = key::read(request.headers())?;
    if key.is_some() && format.is_cloud_events() {
        return Err(Problem::invalid_key(
            "is not taken with CloudEvents: each has a source and an id",
        ));
    }
    let refuse = |faults: Faults| {
        Problem::with_some_errors(Kind::InvalidEvents, faults.errors, faults.count)
    };
    let events = Events::read(format, request.headers(), &bytes)
        .map_err(|fault| refuse(Faults::of_whole(fault)))?;
    if events.faults.count > 0 && !skips {
        return Err(refuse(events.faults));
    }
    let sent = if format.is_cloud_events() {
        Sent::Each(events.members)
    } else {
        Sent::Together(events.together, key)
    };
    Ok(EventsBody {
        sent,
        skipped: events.faults,
        held,
    })
}

/// The query: whether what is wrong may be skipped.
fn skips(query: &str) -> Result<bool, Problem> {
    let pairs = Query::<Vec<(String, String)>>::from_query(query)
        .map_err(|_| Problem::new(Kind::InvalidQuery))?
        .into_inner();
    let (name, reason) = match pairs.as_slice() {
        [] => return Ok(false),
        [(name, value)] if name == "on_invalid" => match value.as_str() {
            "refuse" => return Ok(false),
            "skip" => return Ok(true),
            _ => (name, "must be refuse or skip"),
        },
        pairs => match pairs.iter().find(|(name, _)| name != "on_invalid") {
            Some((unknown, _)) => (unknown, "unknown parameter"),
            None => (&pairs[0].0, "stands twice"),
        },
    };
    let error = FieldError::new(name, reason);
    Err(Problem::with_errors(Kind::InvalidQuery, vec![error]))
}

/// How events are written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    Lines,
    Json,
    CloudEvent,
    CloudEvents,
    /// A CloudEvent whose attributes are header fields.
    Binary,
}

impl Format {
    fn is_cloud_events(self) -> bool {
        matches!(self, Self::CloudEvent | Self::CloudEvents | Self::Binary)
    }

    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let media_type = media_type(headers);
        match media_type.as_str() {
            "application/cloudevents+json" => Ok(Self::CloudEvent),
            "application/cloudevents-batch+json" => Ok(Self::CloudEvents),
            // In a format of events that is not known. Not the data of one in binary mode.
            other if other.starts_with("application/cloudevents") => {
                Err(Problem::media_type_not_supported(MEDIA_TYPES))
            }
            _ if cloud_event::is_in(headers) => Ok(Self::Binary),
            "application/x-ndjson" => Ok(Self::Lines),
            "application/json" => Ok(Self::Json),
            _ => Err(Problem::media_type_not_supported(MEDIA_TYPES)),
        }
    }
}

/// What the content is, without parameters: JSON has none (RFC 8259, section 11), and is UTF-8
/// whatever is said.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok()?.split(';').next())
        .map(|media_type| media_type.trim().to_ascii_lowercase())
        .unwrap_or_default()
}

#[derive(Default)]
pub(super) struct Events {
    pub(super) together: Changes,
    pub(super) members: Vec<Member>,
    pub(super) faults: Faults,
}

impl Events {
    /// Reads all there are, also behind one that is wrong.
    ///
    /// # Errors
    /// When no events can be made out, or there is none.
    pub(super) fn read(format: Format, headers: &HeaderMap, body: &[u8]) -> Result<Self, Fault> {
        let mut events = Self::default();
        match format {
            Format::Lines => events.read_lines(body),
            Format::Json => events.read_json(text(body)?)?,
            Format::CloudEvents => {
                let text = text(body)?;
                each_element(text, |index, event| {
                    events.read_cloud_event(Place::Index(index), event);
                    Ok(())
                })
                .map_err(|error| not_json(&error))?;
            }
            Format::CloudEvent => events.read_cloud_event(Place::Whole, text(body)?),
            Format::Binary => {
                let event = cloud_event::from_headers(headers);
                events.take_cloud_event(Place::Whole, event);
            }
        }
        // A batch of CloudEvents may be empty (JSON format 1.0, section 4).
        let none = events.together.is_empty() && events.members.is_empty();
        if none && events.faults.count == 0 && format != Format::CloudEvents {
            return Err(Fault::new("content", "there is no event"));
        }
        Ok(events)
    }

    fn read_lines(&mut self, body: &[u8]) {
        let mut changes = Changes::default();
        let mut number = 0;
        match std::str::from_utf8(body) {
            Ok(text) => {
                for line in text.split('\n') {
                    number += 1;
                    if !is_empty(line) {
                        self.take(&mut changes, Place::Line(number), event::parse(line));
                    }
                }
            }
            Err(_) => {
                for line in body.split(|byte| *byte == b'\n') {
                    number += 1;
                    match text(line) {
                        Ok(line) if is_empty(line) => {}
                        Ok(line) => {
                            self.take(&mut changes, Place::Line(number), event::parse(line));
                        }
                        Err(fault) => self.faults.add(Place::Line(number), fault),
                    }
                }
            }
        }
        self.together = changes;
    }

    fn read_json(&mut self, text: &str) -> Result<(), Fault> {
        let mut changes = Changes::default();
        if text.trim_start_matches(is_blank).starts_with('[') {
            each_element(text, |index, event| {
                self.take(&mut changes, Place::Index(index), event::parse(event));
                Ok(())
            })
            .map_err(|error| not_json(&error))?;
        } else if !is_empty(text) {
            self.take(&mut changes, Place::Whole, event::parse(text));
        }
        self.together = changes;
        Ok(())
    }

    fn read_cloud_event(&mut self, place: Place, text: &str) {
        if place != Place::Whole || !is_empty(text) {
            self.take_cloud_event(place, event::from_object(text));
        }
    }

    /// A CloudEvent is a member of its own.
    fn take_cloud_event(&mut self, place: Place, event: Result<CloudEvent<'_>, Fault>) {
        let mut changes = Changes::default();
        let pushed = event.and_then(|event| {
            let (domain, kind) = event.event()?;
            push_event(&mut changes, "subject", domain, kind)?;
            Ok(event.key())
        });
        match pushed {
            // One source and id is one event, whatever else is said (CloudEvents 1.0.2, `id`).
            Ok(key) => self.members.push(Member {
                mark: Some(Mark {
                    key,
                    fingerprint: 0,
                }),
                changes,
            }),
            Err(fault) => self.faults.add(place, fault),
        }
    }

    fn take(
        &mut self,
        changes: &mut Changes,
        place: Place,
        event: Result<(Cow<'_, str>, EventKind), Fault>,
    ) {
        let pushed = event.and_then(|(domain, kind)| push_event(changes, "domain", &domain, kind));
        if let Err(fault) = pushed {
            self.faults.add(place, fault);
        }
    }
}

/// Parses a body of lines, and says how many events it has. For benchmarks.
#[cfg(feature = "bench")]
pub fn count_lines(body: &[u8]) -> usize {
    let events = Events::read(Format::Lines, &HeaderMap::new(), body).unwrap_or_default();
    events.together.len()
}

fn push_event(
    changes: &mut Changes,
    field: &'static str,
    domain: &str,
    kind: EventKind,
) -> Result<(), Fault> {
    changes
        .parse_push(domain, kind)
        .map_err(|invalid| Fault::in_domain(field, invalid))
}

fn is_empty(text: &str) -> bool {
    text.chars().all(is_blank)
}

pub(super) fn text(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| Fault::new("content", "is not UTF-8"))
}

/// Of a whole body, so that where it stands helps.
fn not_json(error: &serde_json::Error) -> Fault {
    Fault::new("content", error.to_string())
}

/// Goes through a JSON array, element by element, as they are written. What `take` returns as an
/// error ends it.
pub(super) fn each_element<'a>(
    json: &'a str,
    take: impl FnMut(u64, &'a str) -> Result<(), &'static str>,
) -> serde_json::Result<()> {
    struct Elements<F>(F);

    impl<'a, F: FnMut(u64, &'a str) -> Result<(), &'static str>> Visitor<'a> for Elements<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'a>>(mut self, mut elements: A) -> Result<(), A::Error> {
            let mut index = 0;
            while let Some(element) = elements.next_element::<&RawValue>()? {
                self.0(index, element.get()).map_err(serde::de::Error::custom)?;
                index += 1;
            }
            Ok(())
        }
    }

    let mut json = serde_json::Deserializer::from_str(json);
    json.deserialize_seq(Elements(take))?;
    json.end()
}
