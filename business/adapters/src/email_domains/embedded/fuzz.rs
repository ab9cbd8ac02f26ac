//! What holds for any bytes that a disk may hold: tried at random by this crate's tests, and for as
//! long as one likes by `fuzz/`.

use super::record::{Record, any_behind, framed};
use crate::email_domains::spooled;

/// What may stand in a segment: it is read or refused, and what is read is written again as it is read.
///
/// # Panics
/// When that does not hold.
pub fn journal(bytes: &[u8]) {
    if let Some(record) = framed(1, bytes, 0) {
        assert!(record.end <= bytes.len());
    }
    let _ = any_behind(1, bytes, 0, 1);
    let Some(record) = Record::decode(bytes) else {
        return;
    };
    let mut again = Vec::new();
    assert!(record.encode(1, 1, &mut again).is_some());
    let found = framed(1, &again, 0).and_then(|framed| Record::decode(framed.payload));
    assert_eq!(found.as_ref(), Some(&record));
}

/// The same for an entry of a spool.
///
/// # Panics
/// When that does not hold.
pub fn spool(bytes: &[u8]) {
    spooled::fuzz(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_a_segment_holds(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            super::journal(&bytes);
        }

        #[test]
        fn whatever_a_spool_holds(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            super::spool(&bytes);
        }
    }
}
