//! The end of the journal, and what stands before it.

use std::collections::VecDeque;

use business::kernel::{ErrorKind, PortError};

use super::{EmbeddedOptions, journal::Segment, record::Record};

/// The end of the journal. Its lock is held while a group is made durable.
pub(super) struct Writer {
    pub(super) segment: Segment,
    /// The segment to go on in when this one is full.
    pub(super) prepared: Option<Segment>,
    /// Full segments that no snapshot covers yet, with their lengths.
    pub(super) full: VecDeque<(u64, u64)>,
    /// The length of the last snapshot.
    pub(super) snapshot_bytes: u64,
    /// The number of the last record.
    pub(super) sequence: u64,
    /// The number of the last record before the segment.
    pub(super) before_segment: u64,
    /// Where records are encoded.
    pub(super) buffer: Vec<u8>,
}

impl Writer {
    /// Encodes the next record, for the segment in use.
    pub(super) fn encode(&mut self, record: &Record<'_>) -> Result<(), PortError> {
        self.buffer.clear();
        record
            .encode(self.segment.number, self.sequence + 1, &mut self.buffer)
            .ok_or_else(|| PortError::caused_by(ErrorKind::Invalid, "record", "group too large"))
    }

    /// Goes on in the prepared segment, if there is one and this one is not empty. Otherwise this
    /// one grows.
    #[must_use]
    pub(super) fn roll(&mut self) -> bool {
        if self.sequence == self.before_segment {
            return false;
        }
        let Some(next) = self.prepared.take() else {
            return false;
        };
        let full = std::mem::replace(&mut self.segment, next);
        self.full.push_back((full.number, full.length()));
        self.before_segment = self.sequence;
        true
    }

    /// The records that no snapshot covers, in bytes.
    pub(super) fn journal_bytes(&self) -> u64 {
        self.full.iter().map(|(_, length)| length).sum::<u64>() + self.segment.length()
    }

    pub(super) fn wants_segment(&self) -> bool {
        self.prepared.is_none() && self.segment.is_half_full()
    }

    pub(super) fn wants_snapshot(&self, options: &EmbeddedOptions) -> bool {
        /// A server that is restarted often leaves many short segments.
        const MAX_SEGMENTS: usize = 1_024;
        let enough = options.snapshot_after_bytes.max(self.snapshot_bytes);
        self.journal_bytes() >= enough || self.full.len() >= MAX_SEGMENTS
    }

    pub(super) fn wants_keeper(&self, options: &EmbeddedOptions) -> bool {
        self.wants_segment() || self.wants_snapshot(options)
    }
}
