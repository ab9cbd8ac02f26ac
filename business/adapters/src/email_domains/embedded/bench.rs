//! What is private and hot, for the benchmarks of this crate and for nobody else.

use business::email_domains::model::{FoldedChange, GroupId, Outcome, Outcomes, WriterId};

use super::record::Record;

/// A group as it is journalled.
pub struct Journalled<'a>(Record<'a>);

impl<'a> Journalled<'a> {
    /// Of a folded group with one member.
    #[must_use]
    pub fn new(changes: Vec<FoldedChange<'a>>) -> Self {
        Self(Record {
            id: Some(GroupId {
                writer: WriterId(1),
                sequence: 1,
            }),
            formed_at: 1.into(),
            outcomes: Outcomes::from_elem(Outcome::Counted, 1),
            marks: Vec::new(),
            changes,
        })
    }

    /// Appends its record to `bytes`. `None` when it is too long to be one.
    pub fn encode(&self, bytes: &mut Vec<u8>) -> Option<()> {
        self.0.encode(1, 1, bytes)
    }
}
