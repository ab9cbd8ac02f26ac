//! What is wrong with the parts of a body.

use crate::problem::FieldError;

/// Faults that are told; the rest are counted.
const MAX_ERRORS: usize = 100;
/// Characters of a reason: it may quote what was sent.
const MAX_REASON: usize = 200;

/// Why one event or name is refused.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Fault {
    field: &'static str,
    reason: String,
}

/// Where in a body it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// It is all there is.
    Whole,
    /// In this line, counted from 1.
    Line(u64),
    /// In an array, counted from 0.
    Index(u64),
}

/// The faults of one body.
#[derive(Default)]
pub(crate) struct Faults {
    /// The first of them.
    pub(crate) errors: Vec<FieldError>,
    /// How many there are.
    pub(crate) count: u64,
}

impl Fault {
    pub(super) fn new(field: &'static str, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        if let Some((end, _)) = reason.char_indices().nth(MAX_REASON) {
            reason.truncate(end);
        }
        Self { field, reason }
    }

    /// What the parser of JSON says of one part of a body. It counts lines and columns from where
    /// the part begins, which helps nobody.
    pub(super) fn in_json(field: &'static str, error: &serde_json::Error) -> Self {
        let text = error.to_string();
        let reason = text
            .rsplit_once(" at line ")
            .map_or(&*text, |(reason, _)| reason);
        Self::new(field, reason)
    }
}

impl Faults {
    /// One, of the whole.
    pub(super) fn of_whole(fault: Fault) -> Self {
        let mut faults = Self::default();
        faults.add(Place::Whole, fault);
        faults
    }

    pub(super) fn add(&mut self, place: Place, fault: Fault) {
        self.count += 1;
        if self.errors.len() < MAX_ERRORS {
            let (line, index) = match place {
                Place::Whole => (None, None),
                Place::Line(line) => (Some(line), None),
                Place::Index(index) => (None, Some(index)),
            };
            self.errors.push(FieldError {
                line,
                index,
                ..FieldError::new(fault.field, fault.reason)
            });
        }
    }
}
