//! One group as one record of the journal.
//!
//! A record is a frame and a payload. The frame: the payload's length (4 bytes), a CRC32C (4), and
//! the record's sequence number (8). The CRC covers the segment's number, the length, the sequence
//! and the payload, so that no record is taken for one of another place.

use business::{
    email_domains::model::{
        DomainRef, FoldedChange, GroupId, Key, Mark, Outcome, Outcomes, WriterId,
    },
    kernel::UnixSeconds,
};

use foundation::planted::planted_bug;

use super::format::{Reader, put_varint};

/// Appends a payload to `bytes`, framed. `None` when it is too long for a record.
pub(in crate::email_domains) fn put_framed(
    segment: u64,
    sequence: u64,
    bytes: &mut Vec<u8>,
    put_payload: impl FnOnce(&mut Vec<u8>),
) -> Option<()> {
    let start = bytes.len();
    bytes.extend([0; FRAME_LENGTH]);
    put_payload(bytes);
    let (frame, payload) = bytes[start..].split_at_mut(FRAME_LENGTH);
    if payload.len() > MAX_PAYLOAD {
        bytes.truncate(start);
        return None;
    }
    let length = u32::try_from(payload.len()).ok()?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[4..8].copy_from_slice(&checksum(segment, sequence, payload).to_le_bytes());
    frame[8..].copy_from_slice(&sequence.to_le_bytes());
    Some(())
}

/// The length of a frame in bytes.
pub(in crate::email_domains) const FRAME_LENGTH: usize = 16;
/// The longest payload. Groups are bounded far below it; whatever is longer is no record.
pub(in crate::email_domains) const MAX_PAYLOAD: usize = 256 << 20;

/// What a record holds: what of a group was new.
#[derive(Debug, PartialEq)]
pub(in crate::email_domains) struct Record<'a> {
    pub(in crate::email_domains) id: Option<GroupId>,
    pub(in crate::email_domains) formed_at: UnixSeconds,
    pub(in crate::email_domains) outcomes: Outcomes,
    pub(in crate::email_domains) marks: Vec<Mark>,
    pub(in crate::email_domains) changes: Vec<FoldedChange<'a>>,
}

impl<'a> Record<'a> {
    /// Appends the record to `bytes`, framed. `None` when it is too long to be one.
    pub(in crate::email_domains) fn encode(
        &self,
        segment: u64,
        sequence: u64,
        bytes: &mut Vec<u8>,
    ) -> Option<()> {
        put_framed(segment, sequence, bytes, |bytes| self.put_payload(bytes))
    }

    fn put_payload(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.formed_at.get().to_le_bytes());
        bytes.push(self.id.is_some().into());
        if let Some(id) = self.id {
            put_group_id(bytes, id);
            put_outcomes(bytes, &self.outcomes);
        }
        let marks = match planted_bug("count-before-mark") {
            true => &[],
            false => &self.marks[..],
        };
        put_varint(bytes, marks.len() as u64);
        for mark in marks {
            put_mark(bytes, *mark);
        }
        put_varint(bytes, self.changes.len() as u64);
        for change in &self.changes {
            let name = change.domain.as_str().as_bytes();
            // A name has at most 253 bytes.
            bytes.push(name.len().to_le_bytes()[0]);
            bytes.extend(name);
            put_varint(bytes, change.delivered);
            put_varint(bytes, change.bounced);
        }
    }

    /// Reads a payload. `None` when it is none.
    pub(in crate::email_domains) fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut fields = Reader::new(payload);
        let formed_at = fields.u32()?.into();
        let (id, outcomes) = match fields.u8()? {
            0 => (None, Outcomes::new()),
            1 => (Some(group_id(&mut fields)?), outcomes(&mut fields)?),
            _ => return None,
        };
        let marks = (0..fields.varint()?)
            .map(|_| mark(&mut fields))
            .collect::<Option<_>>()?;
        let changes = (0..fields.varint()?)
            .map(|_| change(&mut fields))
            .collect::<Option<_>>()?;
        fields.is_empty().then_some(Self {
            id,
            formed_at,
            outcomes,
            marks,
            changes,
        })
    }
}

fn change<'a>(fields: &mut Reader<'a>) -> Option<FoldedChange<'a>> {
    let length = fields.u8()?;
    let name = std::str::from_utf8(fields.bytes(length.into())?).ok()?;
    Some(FoldedChange {
        domain: DomainRef::from_stored(name).ok()?,
        delivered: fields.varint()?,
        bounced: fields.varint()?,
    })
}

pub(in crate::email_domains) fn put_group_id(bytes: &mut Vec<u8>, id: GroupId) {
    bytes.extend(id.writer.0.to_le_bytes());
    bytes.extend(id.sequence.to_le_bytes());
}

pub(in crate::email_domains) fn group_id(fields: &mut Reader<'_>) -> Option<GroupId> {
    Some(GroupId {
        writer: WriterId(fields.u128()?),
        sequence: fields.u64()?,
    })
}

pub(in crate::email_domains) fn put_mark(bytes: &mut Vec<u8>, mark: Mark) {
    bytes.extend(mark.key.hash.to_le_bytes());
    let stamped_at = mark.key.stamped_at.unwrap_or_default();
    bytes.extend(stamped_at.get().to_le_bytes());
    bytes.extend(mark.fingerprint.to_le_bytes());
}

pub(in crate::email_domains) fn mark(fields: &mut Reader<'_>) -> Option<Mark> {
    let (hash, stamped_at) = (fields.u128()?, fields.u32()?);
    Some(Mark {
        key: Key {
            hash,
            // None is as good as one made in 1970: what was counted is looked up by its hash.
            stamped_at: (stamped_at > 0).then(|| stamped_at.into()),
        },
        fingerprint: fields.u64()?,
    })
}

/// How many there are, then those that are not `Counted`, by position: mostly none.
pub(in crate::email_domains) fn put_outcomes(bytes: &mut Vec<u8>, outcomes: &Outcomes) {
    put_varint(bytes, outcomes.len() as u64);
    let others = || {
        outcomes
            .iter()
            .enumerate()
            .filter(|(_, o)| **o != Outcome::Counted)
    };
    put_varint(bytes, others().count() as u64);
    for (position, outcome) in others() {
        put_varint(bytes, position as u64);
        bytes.push(match outcome {
            Outcome::Counted | Outcome::Duplicate => 0,
            Outcome::Mismatch => 1,
            Outcome::Expired => 2,
            Outcome::Spooled => 3,
        });
    }
}

pub(in crate::email_domains) fn outcomes(fields: &mut Reader<'_>) -> Option<Outcomes> {
    let count = usize::try_from(fields.varint()?)
        .ok()
        .filter(|count| *count <= MAX_PAYLOAD)?;
    let mut outcomes = Outcomes::from_elem(Outcome::Counted, count);
    for _ in 0..fields.varint()? {
        let position = usize::try_from(fields.varint()?).ok()?;
        *outcomes.get_mut(position)? = match fields.u8()? {
            0 => Outcome::Duplicate,
            1 => Outcome::Mismatch,
            2 => Outcome::Expired,
            3 => Outcome::Spooled,
            _ => return None,
        };
    }
    Some(outcomes)
}

fn checksum(segment: u64, sequence: u64, payload: &[u8]) -> u32 {
    let mut head = [0; 24];
    head[..8].copy_from_slice(&segment.to_le_bytes());
    head[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    head[16..].copy_from_slice(&sequence.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), payload)
}

/// A whole record found in a segment.
pub(in crate::email_domains) struct Framed<'a> {
    pub(in crate::email_domains) sequence: u64,
    pub(in crate::email_domains) payload: &'a [u8],
    /// Where the next one begins, counted from the beginning of the segment.
    pub(in crate::email_domains) end: usize,
}

/// The record at byte `at` of a segment, if a whole and sound one stands there.
pub(in crate::email_domains) fn framed(
    segment: u64,
    bytes: &[u8],
    at: usize,
) -> Option<Framed<'_>> {
    let mut fields = Reader::new(bytes.get(at..)?);
    let length = usize::try_from(fields.u32()?)
        .ok()
        .filter(|length| *length <= MAX_PAYLOAD)?;
    let (crc, sequence) = (fields.u32()?, fields.u64()?);
    let payload = fields.bytes(length)?;
    // Numbers begin with 1: where nothing was written yet, no checksum makes a record.
    let sound = checksum(segment, sequence, payload) == crc || planted_bug("torn-tail-accepted");
    (sequence > 0 && sound).then_some(Framed {
        sequence,
        payload,
        end: at + FRAME_LENGTH + length,
    })
}

/// Whether any whole record with a number from `sequence` on stands anywhere behind byte `at`:
/// then what stands at `at` is no torn tail.
pub(in crate::email_domains) fn any_behind(
    segment: u64,
    bytes: &[u8],
    at: usize,
    sequence: u64,
) -> bool {
    // More records than this cannot follow; it spares a checksum at nearly every byte.
    let most = sequence.saturating_add((bytes.len() / FRAME_LENGTH) as u64);
    (at + 1..bytes.len().saturating_sub(FRAME_LENGTH - 1)).any(|at| {
        let mut number = Reader::new(&bytes[at + 8..]);
        number
            .u64()
            .is_some_and(|number| (sequence..=most).contains(&number))
            && framed(segment, bytes, at).is_some()
    })
}

#[cfg(test)]
mod tests {
    use business::email_domains::model::DomainName;
    use proptest::prelude::*;

    use super::*;

    fn round_trip(record: &Record<'_>) {
        let mut bytes = vec![1, 2, 3];
        record.encode(5, 9, &mut bytes).unwrap();
        let found = framed(5, &bytes, 3).unwrap();
        assert_eq!((found.sequence, found.end), (9, bytes.len()));
        let mut decoded = Record::decode(found.payload).unwrap();
        if record.id.is_none() {
            decoded.outcomes = record.outcomes.clone();
        }
        assert_eq!(&decoded, record);
        assert!(
            framed(6, &bytes, 3).is_none(),
            "a record of another segment"
        );
        assert!(any_behind(5, &bytes, 0, 9));
        assert!(!any_behind(5, &bytes, 0, 10));
        for at in 3..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert!(framed(5, &damaged, 3).is_none(), "byte {at}");
            assert!(framed(5, &bytes[..at], 3).is_none(), "cut at byte {at}");
        }
    }

    proptest! {
        #[test]
        fn a_record_is_read_back(
            id in prop::option::of((any::<u128>(), any::<u64>())),
            formed_at: u32,
            outcomes in prop::collection::vec(0..4usize, 0..5),
            marks in prop::collection::vec((any::<u128>(), 0..3u32, any::<u64>()), 0..4),
            changes in prop::collection::vec(("[a-z]{1,9}", any::<u64>(), any::<u64>()), 0..5),
        ) {
            let names: Vec<_> = changes.iter().map(|c| DomainName::parse(&c.0).unwrap()).collect();
            round_trip(&Record {
                id: id.map(|(writer, sequence)| GroupId { writer: WriterId(writer), sequence }),
                formed_at: formed_at.into(),
                outcomes: outcomes.iter().map(|o| [Outcome::Counted, Outcome::Duplicate, Outcome::Mismatch, Outcome::Expired][*o]).collect(),
                marks: marks.iter().map(|&(hash, stamp, fingerprint)| {
                    let stamped_at = (stamp > 0).then(|| stamp.into());
                    Mark { key: Key { hash, stamped_at }, fingerprint }
                }).collect(),
                changes: names.iter().zip(&changes).map(|(name, c)| FoldedChange {
                    domain: name.borrowed(), delivered: c.1, bounced: c.2,
                }).collect(),
            });
        }
    }
}
