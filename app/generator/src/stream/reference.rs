//! The reference stream: the event generator of the catch-all challenge, made repeatable.
//!
//! Twenty producers take turns, one event each. A producer picks a random domain and a length
//! `max` uniform in 0..2500, and yields that many events. Its `bounced` is `floor(0.35 × max)`, or
//! 0 for every 25th domain (the 1st, the 26th, ...). The i-th event, from 0, is a bounce when
//! `bounced` is not 0 and divides i. So a domain that bounces does so with its first event, and
//! three times in all as a rule. (In the original the producers race; here they take turns, so
//! that the seed alone decides the order.)

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{DomainId, Event, Kind, Name};

const PRODUCERS: usize = 20;
const MAX_LENGTH: u32 = 2_500;
const CLEAN_EVERY: u64 = 25;

#[derive(Debug, Clone)]
pub(crate) struct Reference {
    rng: fastrand::Rng,
    producers: [Producer; PRODUCERS],
    /// Whose turn it is.
    turn: usize,
    /// Domains picked so far.
    picked: u64,
    directory: Directory,
}

impl Reference {
    pub(super) fn new(rng: fastrand::Rng) -> Self {
        Self {
            rng,
            producers: [Producer::DONE; PRODUCERS],
            turn: 0,
            picked: 0,
            directory: Directory::default(),
        }
    }

    pub(super) fn next_event(&mut self) -> Event {
        let turn = self.turn;
        self.turn = (turn + 1) % PRODUCERS;
        loop {
            match (self.producers[turn].next_kind(), self.producers[turn].name) {
                (Some(kind), Some((domain, name))) => return Event { domain, name, kind },
                // A length of 0 is possible: then the producer picks once more.
                _ => self.producers[turn] = self.pick(),
            }
        }
    }

    pub(super) fn canonical_name(&self, domain: DomainId) -> Name {
        self.directory.names[domain as usize]
    }

    fn pick(&mut self) -> Producer {
        let name = Name::random(&mut self.rng);
        let length = self.rng.u32(..MAX_LENGTH);
        let clean = self.picked.is_multiple_of(CLEAN_EVERY);
        self.picked += 1;
        Producer {
            name: Some((self.directory.id_of(name), name)),
            sent: 0,
            length,
            bounced: if clean { 0 } else { length * 35 / 100 },
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Producer {
    name: Option<(DomainId, Name)>,
    sent: u32,
    length: u32,
    /// Every so many events one is a bounce; 0: none is.
    bounced: u32,
}

impl Producer {
    /// Has nothing to yield: the state before the first pick.
    const DONE: Self = Self {
        name: None,
        sent: 0,
        length: 0,
        bounced: 0,
    };

    fn next_kind(&mut self) -> Option<Kind> {
        if self.sent == self.length {
            return None;
        }
        let i = self.sent;
        self.sent += 1;
        Some(if self.bounced != 0 && i.is_multiple_of(self.bounced) {
            Kind::Bounced
        } else {
            Kind::Delivered
        })
    }
}

/// The domains picked so far. Servers fold case, so names that differ only by it are one domain.
#[derive(Debug, Clone, Default)]
struct Directory {
    names: Vec<Name>,
    ids: HashMap<Name, DomainId>,
}

impl Directory {
    fn id_of(&mut self, name: Name) -> DomainId {
        let canonical = name.to_lowercase();
        match self.ids.entry(canonical) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => {
                // A run has at most 2^32 events, so never more domains than that.
                let id = DomainId::try_from(self.names.len()).unwrap_or(DomainId::MAX);
                self.names.push(canonical);
                *unknown.insert(id)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn producer(length: u32, bounced: u32) -> Producer {
        Producer {
            length,
            bounced,
            ..Producer::DONE
        }
    }

    fn kinds(mut producer: Producer) -> Vec<Kind> {
        std::iter::from_fn(|| producer.next_kind()).collect()
    }

    /// The events of the domains that came to their end, in the order in which these began.
    fn finished_domains(seed: u64, events: usize) -> Vec<Vec<Kind>> {
        let mut stream = Reference::new(fastrand::Rng::with_seed(seed));
        let mut domains: Vec<Vec<Kind>> = Vec::new();
        for _ in 0..events {
            let event = stream.next_event();
            let id = event.domain as usize;
            domains.resize_with(domains.len().max(id + 1), Vec::new);
            domains[id].push(event.kind);
        }
        let open: Vec<usize> = stream
            .producers
            .iter()
            .filter(|p| p.sent < p.length)
            .filter_map(|p| p.name.map(|(id, _)| id as usize))
            .collect();
        domains
            .into_iter()
            .enumerate()
            .map(|(id, kinds)| {
                if open.contains(&id) {
                    Vec::new()
                } else {
                    kinds
                }
            })
            .collect()
    }

    #[test]
    fn bounces_stand_at_multiples_of_35_percent() {
        let bounces: Vec<usize> = kinds(producer(100, 35))
            .iter()
            .enumerate()
            .filter(|(_, kind)| **kind == Kind::Bounced)
            .map(|(i, _)| i)
            .collect();
        assert_eq!(bounces, [0, 35, 70]);
    }

    #[test]
    fn a_producer_without_bounces_only_delivers() {
        assert_eq!(kinds(producer(3, 0)), [Kind::Delivered; 3]);
        assert_eq!(kinds(producer(0, 0)), []);
    }

    #[test]
    fn every_domain_has_the_shape_its_length_asks_for() {
        let domains = finished_domains(11, 400_000);
        assert!(domains.len() > 200);
        for (picked, kinds) in domains.iter().enumerate() {
            let length = u32::try_from(kinds.len()).unwrap();
            assert!(length < MAX_LENGTH);
            let bounced = if picked % 25 == 0 {
                0
            } else {
                length * 35 / 100
            };
            assert_eq!(*kinds, super::tests::kinds(producer(length, bounced)));
            if bounced != 0 {
                assert_eq!(kinds[0], Kind::Bounced);
            }
        }
    }

    #[test]
    fn lengths_are_spread_over_their_range() {
        let lengths: Vec<usize> = finished_domains(11, 400_000)
            .iter()
            .map(Vec::len)
            .filter(|length| *length > 0)
            .collect();
        let mean = lengths.iter().sum::<usize>() / lengths.len();
        assert!((1_050..1_450).contains(&mean), "{mean}");
        assert!(lengths.iter().any(|length| *length > 2_300));
        assert!(lengths.iter().any(|length| *length < 200));
    }

    #[test]
    fn twenty_producers_take_turns() {
        let mut stream = Reference::new(fastrand::Rng::with_seed(2));
        let round: Vec<DomainId> = (0..PRODUCERS).map(|_| stream.next_event().domain).collect();
        let mut distinct = round.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), PRODUCERS);
        let next: Vec<DomainId> = (0..PRODUCERS).map(|_| stream.next_event().domain).collect();
        assert_eq!(round, next);
    }

    #[test]
    fn names_that_differ_by_case_are_one_domain() {
        let mut directory = Directory::default();
        let name = Name::random(&mut fastrand::Rng::with_seed(1));
        let id = directory.id_of(name);
        assert_ne!(name, name.to_lowercase());
        assert_eq!(directory.id_of(name.to_lowercase()), id);
        assert_eq!(directory.names, [name.to_lowercase()]);
    }
}
