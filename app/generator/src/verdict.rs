//! The rule of verdicts, stated a second time and on purpose without the server's code: a mistake
//! there cannot hide here.

use std::fmt;

use serde::Deserialize;

/// What a domain's counts say about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Verdict {
    #[serde(rename = "catch-all")]
    CatchAll,
    #[serde(rename = "not catch-all")]
    NotCatchAll,
    #[serde(rename = "unknown")]
    Unknown,
}

impl Verdict {
    /// One bounce proves that a domain does not take everything; `threshold` deliveries without one
    /// are held to prove that it does.
    pub(crate) fn of(delivered: u64, bounced: u64, threshold: u64) -> Self {
        if bounced > 0 {
            Self::NotCatchAll
        } else if delivered >= threshold {
            Self::CatchAll
        } else {
            Self::Unknown
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CatchAll => "catch-all",
            Self::NotCatchAll => "not catch-all",
            Self::Unknown => "unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule() {
        assert_eq!(Verdict::of(0, 0, 1_000), Verdict::Unknown);
        assert_eq!(Verdict::of(999, 0, 1_000), Verdict::Unknown);
        assert_eq!(Verdict::of(1_000, 0, 1_000), Verdict::CatchAll);
        assert_eq!(Verdict::of(1_000, 1, 1_000), Verdict::NotCatchAll);
        assert_eq!(Verdict::of(0, 1, 1_000), Verdict::NotCatchAll);
    }
}
