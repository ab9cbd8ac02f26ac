//! What all files of the store have in common: how they are named, how they begin, and how
//! numbers stand in them.

use business::email_domains::ports::StoreId;

use super::error::OpenError;

/// The version this code writes, and the only one it reads.
const VERSION: u32 = 2;
/// The length of a [`Header`] in bytes.
pub(in crate::email_domains) const HEADER_LENGTH: usize = 48;

/// The kinds of files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::email_domains) enum FileKind {
    /// Groups, in the order they were committed.
    Journal,
    /// All tallies at one moment.
    Snapshot,
    /// Groups that wait for another store, in the order they came.
    Spool,
}

impl FileKind {
    fn magic(self) -> &'static [u8; 16] {
        match self {
            Self::Journal => b"CATCHALL-JOURNAL",
            Self::Snapshot => b"CATCHALL-SNAPSHT",
            Self::Spool => b"CATCHALL-SPOOLED",
        }
    }

    /// The name of file number `number`; names sort as their numbers do.
    pub(in crate::email_domains) fn file_name(self, number: u64) -> String {
        match self {
            Self::Journal => format!("journal-{number:020}.log"),
            Self::Snapshot => format!("snapshot-{number:020}.bin"),
            Self::Spool => format!("spool-{number:020}.log"),
        }
    }

    /// The number of the segment behind this one, whose last record has this number.
    pub(in crate::email_domains) fn number_behind(self, number: u64, sequence: u64) -> u64 {
        match self {
            Self::Journal | Self::Snapshot => number + 1,
            Self::Spool => sequence,
        }
    }

    /// The number of a file of this kind by its name.
    pub(in crate::email_domains) fn number_of(self, name: &str) -> Option<u64> {
        let digits = match self {
            Self::Journal => name.strip_prefix("journal-")?.strip_suffix(".log")?,
            Self::Snapshot => name.strip_prefix("snapshot-")?.strip_suffix(".bin")?,
            Self::Spool => name.strip_prefix("spool-")?.strip_suffix(".log")?,
        };
        let number = digits.parse().ok()?;
        (self.file_name(number) == name).then_some(number)
    }
}

/// How a file begins: 16 bytes that say what it is, the version (4), the store (16), the file's
/// number (8), and the CRC32C of all that (4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::email_domains) struct Header {
    pub(in crate::email_domains) kind: FileKind,
    pub(in crate::email_domains) store: StoreId,
    /// Of a journal segment its own number; of a snapshot that of the first segment to replay; of a
    /// spool's segment the number of the last record before it.
    pub(in crate::email_domains) number: u64,
}

impl Header {
    pub(in crate::email_domains) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LENGTH);
        bytes.extend(self.kind.magic());
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.store.0.to_le_bytes());
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// `None` when the bytes are no whole header.
    ///
    /// # Errors
    /// `UnknownVersion` for what another version wrote.
    pub(in crate::email_domains) fn decode(
        kind: FileKind,
        file: &str,
        bytes: &[u8],
    ) -> Result<Option<Self>, OpenError> {
        let Some(bytes) = bytes.get(..HEADER_LENGTH) else {
            return Ok(None);
        };
        let mut fields = Reader::new(bytes);
        let magic = fields.array::<16>();
        let version = fields.u32();
        let (store, number) = (fields.u128(), fields.u64());
        let crc = fields.u32();
        if magic.as_ref() != Some(kind.magic()) {
            return Ok(None);
        }
        match version {
            Some(VERSION) => {}
            Some(version) => {
                return Err(OpenError::UnknownVersion {
                    file: file.to_owned(),
                    version,
                });
            }
            None => return Ok(None),
        }
        if crc != Some(crc32c::crc32c(&bytes[..HEADER_LENGTH - 4])) {
            return Ok(None);
        }
        Ok(store.zip(number).map(|(store, number)| Self {
            kind,
            store: StoreId(store),
            number,
        }))
    }
}

/// Reads numbers off the front of some bytes.
pub(in crate::email_domains) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(in crate::email_domains) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(in crate::email_domains) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(in crate::email_domains) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(in crate::email_domains) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    pub(in crate::email_domains) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*array)
    }

    pub(in crate::email_domains) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(in crate::email_domains) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(in crate::email_domains) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(in crate::email_domains) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(in crate::email_domains) fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    /// Seven bits a byte, the lowest first (LEB128).
    pub(in crate::email_domains) fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

/// The opposite of [`Reader::varint`].
pub(in crate::email_domains) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            return bytes.push(low);
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_is_read_back_and_nothing_else_is() {
        let header = Header {
            kind: FileKind::Journal,
            store: StoreId(7),
            number: 3,
        };
        let bytes = header.encode();
        assert_eq!(bytes.len(), HEADER_LENGTH);
        let decode = |bytes: &[u8]| Header::decode(FileKind::Journal, "f", bytes);
        assert_eq!(decode(&bytes).unwrap(), Some(header));
        assert_eq!(
            Header::decode(FileKind::Snapshot, "f", &bytes).unwrap(),
            None
        );
        for at in 0..HEADER_LENGTH {
            assert_eq!(decode(&bytes[..at]).unwrap(), None);
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            match decode(&damaged) {
                Ok(found) => assert_eq!(found, None),
                Err(OpenError::UnknownVersion { .. }) => assert!((16..20).contains(&at)),
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn names_and_numbers() {
        for kind in [FileKind::Journal, FileKind::Snapshot, FileKind::Spool] {
            assert_eq!(kind.number_of(&kind.file_name(12)), Some(12));
            assert_eq!(kind.number_of("journal-12.log"), None);
            assert_eq!(kind.number_of("LOCK"), None);
        }
    }

    proptest! {
        #[test]
        fn varints(value: u64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(Reader::new(&bytes).varint(), Some(value));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let _ = Reader::new(&bytes).varint();
        }
    }
}
