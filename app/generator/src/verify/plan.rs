//! What a stream will send, counted before it is sent.

use crate::stream::{DomainId, Kind, Name, Stream};

/// The domains a run touches and the events each of them gets.
#[derive(Debug)]
pub(crate) struct Plan {
    stream: Stream,
    /// The domains, in order of their id; an index here is a domain's place.
    domains: Vec<DomainId>,
    /// By place: events to deliver and to bounce.
    sent: Vec<[u32; 2]>,
}

impl Plan {
    /// Runs through the first `events` of the stream.
    pub(super) fn of(mut stream: Stream, events: u64) -> Self {
        let mut by_id: Vec<[u32; 2]> = Vec::new();
        for _ in 0..events {
            let event = stream.next_event();
            let id = event.domain as usize;
            if id >= by_id.len() {
                by_id.resize(id + 1, [0, 0]);
            }
            by_id[id][slot(event.kind)] += 1;
        }
        let (domains, sent) = (0..).zip(by_id).filter(|(_, sent)| *sent != [0, 0]).unzip();
        Self {
            stream,
            domains,
            sent,
        }
    }

    pub(super) fn domains(&self) -> &[DomainId] {
        &self.domains
    }

    /// Where a domain of the plan stands in it.
    pub(super) fn place(&self, domain: DomainId) -> Option<usize> {
        self.domains.binary_search(&domain).ok()
    }

    pub(super) fn name(&self, place: usize) -> Name {
        self.stream.canonical_name(self.domains[place])
    }

    /// How many events of a kind the domain at `place` gets.
    pub(super) fn sent(&self, place: usize, kind: Kind) -> u64 {
        u64::from(self.sent[place][slot(kind)])
    }
}

fn slot(kind: Kind) -> usize {
    match kind {
        Kind::Delivered => 0,
        Kind::Bounced => 1,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::stream::Shape;

    #[test]
    fn the_plan_is_the_stream_counted() {
        let shape = Shape::Uniform {
            domains: 500,
            in_order: false,
            bounce_rate: 0.2,
        };
        let plan = Plan::of(Stream::new(shape, 4), 1_000);
        let mut counted = vec![[0_u64; 2]; plan.domains().len()];
        let mut stream = Stream::new(shape, 4);
        for _ in 0..1_000 {
            let event = stream.next_event();
            let place = plan.place(event.domain).unwrap();
            assert_eq!(plan.name(place), event.name);
            counted[place][slot(event.kind)] += 1;
        }
        for (place, [delivered, bounced]) in counted.into_iter().enumerate() {
            assert_ne!(delivered + bounced, 0);
            assert_eq!(plan.sent(place, Kind::Delivered), delivered);
            assert_eq!(plan.sent(place, Kind::Bounced), bounced);
        }
    }
}
