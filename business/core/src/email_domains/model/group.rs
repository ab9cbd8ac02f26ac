use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use xxhash_rust::xxh3::Xxh3Default;

use super::{
    DomainName, DomainRef, EventKind, InvalidDomainName, Mark, Outcome, domain_name::is_plain,
};
use crate::kernel::UnixSeconds;

/// Who forms groups: one life of one committer. A restarted committer is a new writer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WriterId(pub u128);

/// Names one group for good, so that recording it again counts nothing twice.
///
/// A writer numbers its groups upwards and forms the next only when the last one is settled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId {
    /// Who formed it.
    pub writer: WriterId,
    /// Its number; greater than that of every earlier group of the writer.
    pub sequence: u64,
}

/// What a store applies whole or not at all.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name. `None` when nobody will record it a second time, as on the way from a service to
    /// the policy that forms the groups.
    pub id: Option<GroupId>,
    /// When it was formed: the moment its events are recorded at.
    pub formed_at: UnixSeconds,
    /// What each counts once as a whole.
    pub members: SmallVec<[Arc<Member>; 1]>,
}

/// What counts once as a whole: a caller's request, or one CloudEvent of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Member {
    /// Given by the caller to be counted once however often it is sent.
    pub mark: Option<Mark>,
    /// What it adds.
    pub changes: Changes,
}

/// What a member adds, domain by domain: one text with all names, and where each ends in it.
///
/// A domain may stand in it more than once; [`fold`] adds up.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    names: String,
    entries: SmallVec<[Entry; 1]>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    end: usize,
    delivered: u32,
    bounced: u32,
}

/// One of [`Changes`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change<'a> {
    /// Where.
    pub domain: DomainRef<'a>,
    /// Deliveries to add.
    pub delivered: u32,
    /// Bounces to add.
    pub bounced: u32,
}

impl Changes {
    /// A single event. Takes over the name's memory.
    pub fn event(domain: DomainName, kind: EventKind) -> Self {
        let names = String::from(domain.into_text());
        let (delivered, bounced) = counts(kind);
        Self {
            entries: smallvec![Entry {
                end: names.len(),
                delivered,
                bounced
            }],
            names,
        }
    }

    /// Adds to one domain.
    pub fn push(&mut self, domain: DomainRef<'_>, delivered: u32, bounced: u32) {
        self.names.push_str(domain.as_str());
        self.entries.push(Entry {
            end: self.names.len(),
            delivered,
            bounced,
        });
    }

    /// Adds one event at the domain that this text names: what [`DomainName::parse`] and
    /// [`Self::push`] do, without an allocation of its own for a plain name.
    ///
    /// # Errors
    /// When the text names no domain. Nothing is added then.
    pub fn parse_push(&mut self, text: &str, kind: EventKind) -> Result<(), InvalidDomainName> {
        let (delivered, bounced) = counts(kind);
        if is_plain(text) {
            let start = self.names.len();
            self.names.push_str(text);
            self.names[start..].make_ascii_lowercase();
            self.entries.push(Entry {
                end: self.names.len(),
                delivered,
                bounced,
            });
        } else {
            let name = DomainName::parse(text)?;
            self.push(name.borrowed(), delivered, bounced);
        }
        Ok(())
    }

    /// The sum over all domains: delivered, bounced.
    pub fn sums(&self) -> (u64, u64) {
        self.entries
            .iter()
            .fold((0, 0), |(delivered, bounced), entry| {
                (
                    delivered + u64::from(entry.delivered),
                    bounced + u64::from(entry.bounced),
                )
            })
    }

    /// Tells these changes from others: the same in every version and on every machine.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Xxh3Default::new();
        for change in self.iter() {
            // A name has at most 253 bytes.
            hash.update(&change.domain.as_str().len().to_le_bytes()[..1]);
            hash.update(change.domain.as_str().as_bytes());
            hash.update(&change.delivered.to_le_bytes());
            hash.update(&change.bounced.to_le_bytes());
        }
        hash.digest()
    }

    /// All of them, in the order they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Change<'_>> {
        let mut start = 0;
        self.entries.iter().map(move |entry| {
            let domain = DomainRef::from_canonical(&self.names[start..entry.end]);
            start = entry.end;
            Change {
                domain,
                delivered: entry.delivered,
                bounced: entry.bounced,
            }
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Delivered, bounced.
fn counts(kind: EventKind) -> (u32, u32) {
    match kind {
        EventKind::Delivered => (1, 0),
        EventKind::Bounced => (0, 1),
    }
}

/// What a group adds to one domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoldedChange<'a> {
    /// Where.
    pub domain: DomainRef<'a>,
    /// Deliveries to add.
    pub delivered: u64,
    /// Bounces to add.
    pub bounced: u64,
}

/// Adds up the members that count to one change a domain, sorted by domain: one order for all
/// writers, so that none waits for another in a circle.
pub fn fold<'a>(members: &'a [Arc<Member>], outcomes: &[Outcome]) -> Vec<FoldedChange<'a>> {
    let mut folded: Vec<(u128, FoldedChange<'_>)> = members
        .iter()
        .zip(outcomes)
        .filter(|(_, outcome)| **outcome == Outcome::Counted)
        .flat_map(|(member, _)| member.changes.iter())
        .map(|change| {
            let folded = FoldedChange {
                domain: change.domain,
                delivered: change.delivered.into(),
                bounced: change.bounced.into(),
            };
            (beginning(change.domain), folded)
        })
        .collect();
    folded.sort_unstable_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.domain.cmp(&y.domain)));
    folded.dedup_by(|(_, next), (_, kept)| {
        let same = next.domain == kept.domain;
        if same {
            kept.delivered = kept.delivered.saturating_add(next.delivered);
            kept.bounced = kept.bounced.saturating_add(next.bounced);
        }
        same
    });
    folded.into_iter().map(|(_, change)| change).collect()
}

/// The first bytes of a name as a number: of two, the smaller one's name is the smaller one, and
/// most names need no other look.
fn beginning(domain: DomainRef<'_>) -> u128 {
    let name = domain.as_str().as_bytes();
    let bytes = match name.first_chunk() {
        Some(bytes) => *bytes,
        None => {
            let mut bytes = [0; 16];
            bytes[..name.len()].copy_from_slice(name);
            bytes
        }
    };
    u128::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn member(changes: &[(&str, u32, u32)]) -> Arc<Member> {
        let mut all = Changes::default();
        for (name, delivered, bounced) in changes {
            all.push(DomainRef::from_canonical(name), *delivered, *bounced);
        }
        Arc::new(Member {
            mark: None,
            changes: all,
        })
    }

    #[test]
    fn a_fingerprint_is_of_all_that_is_added() {
        let of = |changes: &[_]| member(changes).changes.fingerprint();
        let all = [
            of(&[]),
            of(&[("a.example", 1, 0)]),
            of(&[("a.example", 0, 1)]),
            of(&[("b.example", 1, 0)]),
            of(&[("a.example", 1, 0), ("b.example", 1, 0)]),
            of(&[("b.example", 1, 0), ("a.example", 1, 0)]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "{index}");
        }
        // It is kept in stores: what it is today it has to stay.
        assert_eq!(all[1], 6_650_891_301_039_818_347);
    }

    #[test]
    fn one_event_is_one_change() {
        let name = DomainName::parse("Example.com").unwrap();
        let changes = Changes::event(name, EventKind::Bounced);
        let all: Vec<_> = changes
            .iter()
            .map(|c| (c.domain.as_str(), c.delivered, c.bounced))
            .collect();
        assert_eq!(all, [("example.com", 0, 1)]);
    }

    /// Texts that are names, nearly so, or not at all.
    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-zA-Z0-9-]{1,4}(\\.[a-zA-Z0-9-]{1,4}){0,3}\\.?",
            "[a-z]{62,64}(\\.[a-z]{60,64}){0,4}",
            "(xn--|XN--|ab--|0x)[a-f0-9-]{0,4}(\\.[a-z0-9]{1,3}){0,2}",
            "[a-zü☕。_. ]{0,8}",
            "[0-9.]{1,9}",
            ".{0,20}",
        ]
    }

    proptest! {
        #[test]
        fn a_text_is_pushed_as_the_name_it_is(texts in prop::collection::vec(texts(), 0..20)) {
            let (mut pushed, mut expected) = (Changes::default(), Changes::default());
            for text in &texts {
                let name = DomainName::parse(text);
                if let Ok(name) = &name {
                    expected.push(name.borrowed(), 0, 1);
                }
                prop_assert_eq!(pushed.parse_push(text, EventKind::Bounced), name.map(drop), "{:?}", text);
            }
            prop_assert_eq!(pushed.sums(), (0, expected.len() as u64));
            prop_assert_eq!(pushed, expected);
        }

        #[test]
        fn folding_adds_up_and_sorts(
            groups in prop::collection::vec(prop::collection::vec((0u8..6, 0u32..9, 0u32..9), 0..6), 0..8)
        ) {
            let mut expected: BTreeMap<String, (u64, u64)> = BTreeMap::new();
            // Some begin alike, for longer than is looked at first, or are the beginning of another.
            let name = |number| match number {
                0 | 1 => format!("d{number}.example"),
                2 => "d1.example.com".to_owned(),
                _ => format!("all-of-these-begin-alike-{number}.example"),
            };
            let members: Vec<_> = groups.iter().map(|changes| {
                let named: Vec<_> = changes.iter().map(|(d, x, y)| (name(*d), *x, *y)).collect();
                for (name, x, y) in &named {
                    let sum = expected.entry(name.clone()).or_default();
                    sum.0 += u64::from(*x);
                    sum.1 += u64::from(*y);
                }
                let borrowed: Vec<_> = named.iter().map(|(n, x, y)| (n.as_str(), *x, *y)).collect();
                member(&borrowed)
            }).collect();
            let outcomes = vec![Outcome::Counted; members.len()];
            let folded: Vec<_> = fold(&members, &outcomes).into_iter()
                .map(|c| (c.domain.as_str().to_owned(), (c.delivered, c.bounced)))
                .collect();
            prop_assert_eq!(folded, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
