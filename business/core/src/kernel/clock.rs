use std::fmt;

/// A moment, in whole seconds since 1970-01-01T00:00:00Z.
///
/// 32 bits reach to the year 2106; a later moment is held at that limit, never wrapped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct UnixSeconds(u32);

impl UnixSeconds {
    /// The epoch.
    pub const ZERO: Self = Self(0);

    /// The moment that is `seconds` after the epoch, or the last one that can be told.
    pub fn saturating_from(seconds: u64) -> Self {
        Self(u32::try_from(seconds).unwrap_or(u32::MAX))
    }

    /// Whole seconds since the epoch.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl From<u32> for UnixSeconds {
    fn from(seconds: u32) -> Self {
        Self(seconds)
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where the time comes from; a parameter, so that tests can set it.
pub trait Clock: Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> UnixSeconds;
}
