//! Domain names, held inline: 14 letters and a top-level domain.

use std::fmt;

const LETTERS: usize = 14;
const TOP_LEVEL: [&str; 5] = [".net", ".com", ".org", ".io", ".gov"];
const MAX_LEN: usize = LETTERS + 4;

/// A domain name of this generator: ASCII, at most 18 bytes, no allocation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    bytes: [u8; MAX_LEN],
    len: u8,
}

impl Name {
    /// Fourteen random letters of both cases and a random top-level domain.
    pub(super) fn random(rng: &mut fastrand::Rng) -> Self {
        let letters = std::array::from_fn(|_| {
            let letter = rng.u8(b'a'..=b'z');
            if rng.bool() {
                letter.to_ascii_uppercase()
            } else {
                letter
            }
        });
        Self::new(letters, rng.usize(..TOP_LEVEL.len()))
    }

    /// The name that belongs to `index`, in lower case, so that millions of distinct names need no
    /// table. Distinct indices give distinct names: every step of the mixing can be undone (it is
    /// the finalizer of SplitMix64), and 26^14 exceeds 2^64.
    pub(super) fn derived(index: u32) -> Self {
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
        let top_level = TOP_LEVEL[top_level].as_bytes();
        let mut bytes = [0; MAX_LEN];
        bytes[..LETTERS].copy_from_slice(&letters);
        bytes[LETTERS..LETTERS + top_level.len()].copy_from_slice(top_level);
        let len = if top_level.len() == 4 { 18 } else { 17 };
        Self { bytes, len }
    }

    pub(super) fn to_lowercase(self) -> Self {
        let mut lower = self;
        lower.bytes.make_ascii_lowercase();
        lower
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(self.as_bytes()))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn assert_looks_like_a_domain(name: Name) {
        let text = name.to_string();
        let (letters, top_level) = text.split_at(LETTERS);
        assert!(letters.bytes().all(|b| b.is_ascii_alphabetic()), "{text}");
        assert!(TOP_LEVEL.contains(&top_level), "{text}");
    }

    #[test]
    fn random_names_use_both_cases_and_every_top_level_domain() {
        let mut rng = fastrand::Rng::with_seed(1);
        let names: Vec<Name> = (0..200).map(|_| Name::random(&mut rng)).collect();
        names.iter().copied().for_each(assert_looks_like_a_domain);
        let all: String = names.iter().map(Name::to_string).collect();
        assert!(all.bytes().any(|b| b.is_ascii_uppercase()));
        assert!(all.bytes().any(|b| b.is_ascii_lowercase()));
        for top_level in TOP_LEVEL {
            assert!(all.contains(top_level));
        }
    }

    #[test]
    fn derived_names_are_distinct_and_lower_case() {
        let names: HashSet<Name> = (0..100_000).map(Name::derived).collect();
        assert_eq!(names.len(), 100_000);
        for name in names {
            assert_looks_like_a_domain(name);
            assert_eq!(name, name.to_lowercase());
        }
    }
}
