//! What the context is about: names, events, tallies and groups.

mod domain_name;
mod group;
mod tally;

pub use domain_name::{DomainName, DomainRef, InvalidDomainName, MAX_LENGTH as MAX_DOMAIN_LENGTH};
pub use group::{
    Change, Changes, FoldedChange, Group, GroupId, Mark, Member, Outcome, Outcomes, WriterId, fold,
    resolve_marks,
};
pub use tally::{EventKind, Seen, Tally};
