//! What the context is about: names, events, tallies and groups.

mod domain_name;
mod group;
mod mark;
mod tally;

pub use domain_name::{DomainName, DomainRef, InvalidDomainName, MAX_LENGTH as MAX_DOMAIN_LENGTH};
pub use group::{Change, Changes, FoldedChange, Group, GroupId, Member, WriterId, fold};
pub use mark::{Key, MAX_AHEAD_S, Mark, MarkMemory, Outcome, Outcomes, resolve_marks};
pub use tally::{EventKind, Seen, Tally};
