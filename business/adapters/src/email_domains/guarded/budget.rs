/// How many retries there may be: one for every ten calls that went well the first time, and a few
/// more after a quiet time. A store that has trouble is not given more work for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// In tenths of a retry.
    tenths: u32,
}

const A_RETRY: u32 = 10;
const MOST: u32 = 10 * A_RETRY;

impl Budget {
    pub(super) const FULL: Self = Self { tenths: MOST };

    /// A call went well the first time.
    pub(super) fn earn(&mut self) {
        self.tenths = MOST.min(self.tenths + 1);
    }

    /// Whether one more try may be made.
    pub(super) fn spend(&mut self) -> bool {
        let left = self.tenths.checked_sub(A_RETRY);
        self.tenths = left.unwrap_or(self.tenths);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_long_run_a_tenth_of_the_calls_is_made_again() {
        let mut budget = Budget::FULL;
        let retries = (0..10_000).filter(|_| {
            budget.earn();
            budget.spend()
        });
        let retries = retries.count();
        assert!((1_000..=1_010).contains(&retries), "{retries}");
    }
}
