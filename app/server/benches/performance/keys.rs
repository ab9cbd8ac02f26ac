//! Which domains events are about: the same names as `create-events` makes, so that what it
//! preloaded is what the bench's own client and controls ask for.

use std::fmt;

/// A set of domains.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Keys {
    /// The reference stream: long runs on few domains.
    Stream,
    /// So many domains, every one equally likely.
    Uniform(u32),
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream => f.write_str("stream"),
            Self::Uniform(domains) if domains.is_multiple_of(1_000_000) => {
                write!(f, "{}M", domains / 1_000_000)
            }
            Self::Uniform(domains) => write!(f, "{}k", domains / 1_000),
        }
    }
}

const LETTERS: usize = 14;
const TOP_LEVEL: [&[u8]; 5] = [b".net", b".com", b".org", b".io", b".gov"];

/// A domain name, held inline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    bytes: [u8; LETTERS + 4],
    len: u8,
}

impl Name {
    /// The name of one domain of a uniform set: `create-events` says why it is made like this.
    pub(crate) fn derived(index: u32) -> Self {
        let mut mixed = u64::from(index).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let letters = std::array::from_fn(|_| {
            let letter = b"abcdefghijklmnopqrstuvwxyz"[(mixed % 26) as usize];
            mixed /= 26;
            letter
        });
        Self::new(letters, index as usize % TOP_LEVEL.len())
    }

    fn new(letters: [u8; LETTERS], top_level: usize) -> Self {
        let mut bytes = [0; LETTERS + 4];
        bytes[..LETTERS].copy_from_slice(&letters);
        bytes[LETTERS..][..TOP_LEVEL[top_level].len()].copy_from_slice(TOP_LEVEL[top_level]);
        let len = if TOP_LEVEL[top_level].len() == 4 {
            18
        } else {
            17
        };
        Self { bytes, len }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

/// Draws events of a set, for the controls that `create-events` cannot reach.
pub(crate) struct Draw {
    keys: Keys,
    rng: fastrand::Rng,
    turn: usize,
    producers: [(Name, u32); 20],
}

impl Draw {
    pub(crate) fn new(keys: Keys, seed: u64) -> Self {
        Self {
            keys,
            rng: fastrand::Rng::with_seed(seed),
            turn: 0,
            producers: [(Name::derived(0), 0); 20],
        }
    }

    pub(crate) fn name(&mut self) -> Name {
        match self.keys {
            Keys::Uniform(domains) => Name::derived(self.rng.u32(..domains)),
            Keys::Stream => {
                // Twenty producers take turns; each has up to 2,499 events for a new domain.
                self.turn = (self.turn + 1) % self.producers.len();
                let (name, left) = &mut self.producers[self.turn];
                if *left == 0 {
                    let letters = std::array::from_fn(|_| self.rng.u8(b'a'..=b'z'));
                    *name = Name::new(letters, self.rng.usize(..TOP_LEVEL.len()));
                    *left = self.rng.u32(1..2_500);
                }
                *left -= 1;
                *name
            }
        }
    }

    /// Whether the next event bounces, as rarely as in `create-events`.
    pub(crate) fn bounces(&mut self) -> bool {
        self.rng.f64() < 0.002
    }

    /// True for `share` of all calls.
    pub(crate) fn chance(&mut self, share: f64) -> bool {
        self.rng.f64() < share
    }
}
