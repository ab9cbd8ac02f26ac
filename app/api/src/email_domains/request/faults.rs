//! What is wrong with the parts of a body.

use std::borrow::Cow;

use business::email_domains::model::InvalidDomainName;

use crate::problem::FieldError;

/// Faults that are told; the rest are counted.
const MAX_ERRORS: usize = 100;
/// Characters of a reason: it may quote what was sent.
const MAX_REASON: usize = 200;

/// Why one event or name is refused.
#[derive(Debug)]
pub(super) struct Fault {
    field: &'static str,
    reason: Reason,
}

/// Put into words only when it is told: a body of a few KiB can unfold to millions of faults.
#[derive(Debug)]
enum Reason {
    Text(Cow<'static, str>),
    Json(serde_json::Error),
    Domain(InvalidDomainName),
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
    pub(super) fn new(field: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        let reason = Reason::Text(reason.into());
        Self { field, reason }
    }

    /// What the parser of JSON says of one part of a body.
    pub(super) fn in_json(field: &'static str, error: serde_json::Error) -> Self {
        let reason = Reason::Json(error);
        Self { field, reason }
    }

    pub(super) fn in_domain(field: &'static str, invalid: InvalidDomainName) -> Self {
        let reason = Reason::Domain(invalid);
        Self { field, reason }
    }

    fn told(&self) -> String {
        let mut told = match &self.reason {
            Reason::Text(text) => text.to_string(),
            Reason::Domain(invalid) => invalid.to_string(),
            Reason::Json(error) => {
                let mut text = error.to_string();
                // Lines and columns count from where the part begins, which helps nobody.
                let end = text.rfind(" at line ").unwrap_or(text.len());
                text.truncate(end);
                text
            }
        };
        if let Some((end, _)) = told.char_indices().nth(MAX_REASON) {
            told.truncate(end);
        }
        told
    }
}

impl PartialEq for Fault {
    fn eq(&self, other: &Self) -> bool {
        self.field == other.field && self.told() == other.told()
    }
}

impl Faults {
    /// One, of the whole.
    pub(super) fn of_whole(fault: Fault) -> Self {
        let mut faults = Self::default();
        faults.add(Place::Whole, fault);
        faults
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "told or not, it is done with"
    )]
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
                ..FieldError::new(fault.field, fault.told())
            });
        }
    }
}
