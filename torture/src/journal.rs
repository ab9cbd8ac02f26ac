//! A second opinion on what a data folder holds: the journal, read by code that shares nothing with
//! the store's own. Its format is told in `business/adapters/src/email_domains/embedded/record.rs`.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, ensure};

use crate::history::Tallies;

const HEADER: usize = 48;
const FRAME: usize = 16;
const VERSION: u32 = 2;

/// The name of a segment.
pub fn file_name(number: u64) -> String {
    format!("journal-{number:020}.log")
}

/// How segment `number` of a store begins.
pub fn header(store: u128, number: u64) -> Vec<u8> {
    let mut bytes = b"CATCHALL-JOURNAL".to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(store.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// What a journal says.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Fold {
    /// All that was counted.
    pub tallies: Tallies,
    /// How many idempotency keys stand in it.
    pub marks: u64,
    /// How many records.
    pub records: u64,
}

/// Folds the journal in a folder from its first record on. `None` when there is a snapshot, which
/// stands in place of a part of it.
///
/// # Errors
/// When it cannot be read, or a record is missing or wrong that has others behind it.
pub fn fold(folder: &Path) -> anyhow::Result<Option<Fold>> {
    let mut segments = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if name.starts_with("snapshot-") {
            return Ok(None);
        }
        let number = name
            .strip_prefix("journal-")
            .and_then(|name| name.strip_suffix(".log"));
        if let Some(number) = number {
            segments.insert(number.parse::<u64>()?, fs::read(folder.join(&name))?);
        }
    }
    let mut fold = Fold::default();
    // A segment may end in a torn record; then the next one goes on with the number it had.
    for (number, bytes) in &segments {
        let mut at = HEADER;
        while let Some((sequence, payload)) = framed(*number, bytes, at) {
            fold.records += 1;
            ensure!(
                sequence == fold.records,
                "segment {number}: record {sequence} at {at}"
            );
            add(payload, &mut fold).with_context(|| format!("record {sequence}"))?;
            at += FRAME + payload.len();
        }
    }
    Ok(Some(fold))
}

/// The whole and sound record at byte `at`, if one stands there.
fn framed(segment: u64, bytes: &[u8], at: usize) -> Option<(u64, &[u8])> {
    let mut fields = Fields(bytes.get(at..)?);
    let length = u32::from_le_bytes(fields.array()?);
    let crc = u32::from_le_bytes(fields.array()?);
    let sequence = u64::from_le_bytes(fields.array()?);
    let payload = fields.bytes(length as usize)?;
    let mut covered = segment.to_le_bytes().to_vec();
    covered.extend(u64::from(length).to_le_bytes());
    covered.extend(sequence.to_le_bytes());
    covered.extend(payload);
    (sequence > 0 && crc32c::crc32c(&covered) == crc).then_some((sequence, payload))
}

fn add(payload: &[u8], fold: &mut Fold) -> Option<()> {
    let mut fields = Fields(payload);
    fields.bytes(4)?;
    if fields.array::<1>()? == [1] {
        fields.bytes(24)?;
        fields.varint()?;
        for _ in 0..fields.varint()? {
            fields.varint()?;
            fields.bytes(1)?;
        }
    }
    for _ in 0..fields.varint()? {
        fields.bytes(28)?;
        fold.marks += 1;
    }
    for _ in 0..fields.varint()? {
        let [length] = fields.array()?;
        let name = std::str::from_utf8(fields.bytes(length.into())?).ok()?;
        let counts = fold.tallies.entry(name.to_owned()).or_default();
        counts[0] += fields.varint()?;
        counts[1] += fields.varint()?;
    }
    fields.0.is_empty().then_some(())
}

/// What is left of some bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    /// LEB128.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}
