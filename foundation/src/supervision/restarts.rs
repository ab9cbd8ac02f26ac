use std::{collections::VecDeque, time::Duration};

/// So many restarts within [`WINDOW`] are borne; one more goes a step further.
const BORNE: usize = 3;
const WINDOW: Duration = Duration::from_secs(60);

/// Counts restarts. It has no clock: moments are given, as times since any beginning.
#[derive(Debug, Default)]
pub(super) struct Restarts(VecDeque<Duration>);

impl Restarts {
    /// Notes one, and says whether it was one too many. Then it begins to count anew, for whatever
    /// is done instead.
    pub(super) fn too_many(&mut self, now: Duration) -> bool {
        while self
            .0
            .front()
            .is_some_and(|first| now.saturating_sub(*first) > WINDOW)
        {
            self.0.pop_front();
        }
        self.0.push_back(now);
        let too_many = self.0.len() > BORNE;
        if too_many {
            self.0.clear();
        }
        too_many
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(moments: &[u64]) -> Vec<bool> {
        let mut restarts = Restarts::default();
        let too_many = |s: &u64| restarts.too_many(Duration::from_secs(*s));
        moments.iter().map(too_many).collect()
    }

    #[test]
    fn the_fourth_within_a_minute_is_too_many() {
        assert_eq!(told(&[0, 10, 20, 60]), [false, false, false, true]);
        assert_eq!(told(&[0, 10, 20, 61]), [false; 4]);
        // It begins anew.
        assert_eq!(
            told(&[0, 0, 0, 0, 0, 0, 0, 0])[4..],
            [false, false, false, true]
        );
    }
}
