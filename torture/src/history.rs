//! What clients did and what they were told: all that a checker knows.

use std::collections::BTreeMap;

/// Domain by domain what was counted: delivered, bounced.
pub type Tallies = BTreeMap<String, [u64; 2]>;

/// What happened to a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// It arrived.
    Delivered,
    /// It came back.
    Bounced,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Delivered, Self::Bounced];

    /// As it stands in a path.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Bounced => "bounced",
        }
    }
}

/// All that the clients of one run know. Moments are microseconds since the run began.
#[derive(Clone, Default, Debug)]
pub struct History {
    /// The domains, which members name by their place here.
    pub domains: Vec<String>,
    /// What was to be counted.
    pub members: Vec<Member>,
    /// What was read meanwhile.
    pub reads: Vec<Read>,
}

/// What counts once as a whole: a request, however often it was sent under its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The events, by domain and kind.
    pub events: Vec<(usize, Kind)>,
    /// Whether it had an idempotency key, so that it could be sent again.
    pub keyed: bool,
    /// When it was first sent.
    pub began_us: u64,
    /// What became of it, by what the client was told.
    pub fate: Fate,
}

/// What a client knows of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It was acknowledged at this moment.
    Acknowledged(u64),
    /// Each answer said that nothing was done.
    Refused,
    /// It may have been counted.
    Unknown,
}

/// A read of one domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read {
    /// Its place among the domains.
    pub domain: usize,
    /// When it was sent.
    pub began_us: u64,
    /// When it was answered.
    pub ended_us: u64,
    /// What it showed: delivered, bounced.
    pub seen: [u64; 2],
    /// Whether it went past every cache.
    pub latest: bool,
}

impl History {
    /// Takes over what another client of the same run knows.
    pub fn add(&mut self, other: Self) {
        self.members.extend(other.members);
        self.reads.extend(other.reads);
    }

    /// How many events of members with this fate.
    pub fn events(&self, of: impl Fn(Fate) -> bool) -> u64 {
        let members = self.members.iter().filter(|member| of(member.fate));
        members.map(|member| member.events.len() as u64).sum()
    }
}
