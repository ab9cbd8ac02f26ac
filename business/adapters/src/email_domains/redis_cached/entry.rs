//! What lies in Redis under one key: a tally, and when it was read from the store.
//!
//! | bytes | content (integers are big-endian) |
//! | --- | --- |
//! | 1 | [`VERSION`] |
//! | 8 | when the read began, milliseconds since the epoch |
//! | 8, 8 | delivered, bounced |
//! | 4, 4 | first and last seen, seconds since the epoch |
//! | 1 | 1 if it was ever seen, else 0 |
//! | 4 | CRC-32C over the domain's name and all bytes above |

use business::email_domains::model::{DomainName, Seen, Tally};

/// The first byte. Counts up with every change of the layout.
const VERSION: u8 = 1;
const BODY_LENGTH: usize = 34;
/// How long an entry is.
pub(super) const LENGTH: usize = BODY_LENGTH + 4;

/// A tally as a cache holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) tally: Tally,
    /// When the read that found it began: all that was recorded earlier is in it.
    pub(super) read_at_ms: u64,
}

impl Entry {
    pub(super) fn encode(&self, domain: &DomainName) -> [u8; LENGTH] {
        let Tally {
            delivered,
            bounced,
            seen,
        } = self.tally;
        let (first, last) = seen.map_or((0, 0), |seen| (seen.first.get(), seen.last.get()));
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&self.read_at_ms.to_be_bytes());
        bytes[9..17].copy_from_slice(&delivered.to_be_bytes());
        bytes[17..25].copy_from_slice(&bounced.to_be_bytes());
        bytes[25..29].copy_from_slice(&first.to_be_bytes());
        bytes[29..33].copy_from_slice(&last.to_be_bytes());
        bytes[33] = seen.is_some().into();
        let check = checksum(domain, &bytes[..BODY_LENGTH]);
        bytes[BODY_LENGTH..].copy_from_slice(&check.to_be_bytes());
        bytes
    }

    /// What was encoded for this domain; `None` for anything else that Redis may hold.
    pub(super) fn decode(domain: &DomainName, bytes: &[u8]) -> Option<Self> {
        let (body, check) = bytes.split_last_chunk()?;
        if body.len() != BODY_LENGTH || u32::from_be_bytes(*check) != checksum(domain, body) {
            return None;
        }
        let mut rest = body;
        let [version] = take(&mut rest)?;
        let read_at_ms = u64::from_be_bytes(take(&mut rest)?);
        let delivered = u64::from_be_bytes(take(&mut rest)?);
        let bounced = u64::from_be_bytes(take(&mut rest)?);
        let first = u32::from_be_bytes(take(&mut rest)?).into();
        let last = u32::from_be_bytes(take(&mut rest)?).into();
        let seen = match take(&mut rest)? {
            [0] => None,
            [1] => Some(Seen { first, last }),
            _ => return None,
        };
        let tally = Tally {
            delivered,
            bounced,
            seen,
        };
        (version == VERSION).then_some(Self { tally, read_at_ms })
    }

    /// Whether it may be shown at `now_ms`. The hosts' clocks differ a little, so an entry may
    /// seem to come from the future; one that seems to be further off than `ttl_ms` is refused.
    pub(super) fn is_fresh(&self, now_ms: u64, ttl_ms: u64) -> bool {
        now_ms.abs_diff(self.read_at_ms) <= ttl_ms
    }
}

/// The name is in it, so that an entry under the wrong key is no entry.
fn checksum(domain: &DomainName, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(domain.as_str().as_bytes()), body)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn domain(name: &str) -> DomainName {
        DomainName::parse(name).unwrap()
    }

    fn entry(read_at_ms: u64) -> Entry {
        let tally = Tally::ZERO.plus(3, 1, 10.into()).plus(1, 0, 20.into());
        Entry { tally, read_at_ms }
    }

    #[test]
    fn only_the_whole_entry_of_the_same_domain_is_taken() {
        let (ours, other) = (domain("a.example"), domain("b.example"));
        let bytes = entry(7).encode(&ours);
        assert_eq!(Entry::decode(&ours, &bytes), Some(entry(7)));
        assert_eq!(Entry::decode(&other, &bytes), None);
        for length in 0..LENGTH {
            assert_eq!(Entry::decode(&ours, &bytes[..length]), None, "{length}");
        }
        assert_eq!(Entry::decode(&ours, &[&bytes[..], &[0]].concat()), None);
        for bit in 0..LENGTH * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Entry::decode(&ours, &flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn another_version_is_no_entry_though_its_checksum_is_right() {
        let ours = domain("a.example");
        let mut bytes = entry(7).encode(&ours);
        bytes[0] = VERSION + 1;
        let check = checksum(&ours, &bytes[..BODY_LENGTH]);
        bytes[BODY_LENGTH..].copy_from_slice(&check.to_be_bytes());
        assert_eq!(Entry::decode(&ours, &bytes), None);
    }

    #[test]
    fn fresh_up_to_the_ttl_and_not_a_millisecond_longer() {
        let entry = entry(10_000);
        for (now_ms, fresh) in [
            (10_000, true),
            (11_000, true),
            (11_001, false),
            (9_000, true),
            (8_999, false),
        ] {
            assert_eq!(entry.is_fresh(now_ms, 1_000), fresh, "at {now_ms}");
        }
    }

    proptest! {
        #[test]
        fn comes_back_as_it_went(
            read_at_ms: u64,
            delivered in 0..=Tally::MAX_COUNT,
            bounced in 0..=Tally::MAX_COUNT,
            seen: Option<(u32, u32)>,
        ) {
            let seen = seen.map(|(a, b)| Seen::at(a.into()).including(b.into()));
            let entry = Entry { tally: Tally { delivered, bounced, seen }, read_at_ms };
            let ours = domain("a.example");
            prop_assert_eq!(Entry::decode(&ours, &entry.encode(&ours)), Some(entry));
        }

        #[test]
        fn nothing_in_redis_can_make_it_panic(bytes: Vec<u8>) {
            prop_assert_eq!(Entry::decode(&domain("a.example"), &bytes), None);
        }
    }
}
