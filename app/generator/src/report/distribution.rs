//! The distribution of latencies, as rows with bars.

use std::iter;

use hdrhistogram::Histogram;

/// The width of the longest bar of the distribution.
const BAR_WIDTH: u64 = 32;

/// How many latencies lie below 1, 2, 5, 10, ... microseconds and not below the bound before, from
/// the first bound with any to the last.
pub(super) fn distribution(latency: &Histogram<u64>) -> Vec<(u64, u64)> {
    let bounds = iter::successors(Some(1_u64), |decade| Some(decade * 10))
        .flat_map(|decade| [decade, 2 * decade, 5 * decade]);
    let mut rows = Vec::new();
    let mut before = 0;
    for bound in bounds {
        let below = latency.count_between(0, bound - 1);
        if below > before || !rows.is_empty() {
            rows.push((bound, below - before));
        }
        before = below;
        if below >= latency.len() {
            break;
        }
    }
    rows
}

/// One of the bounds of the distribution.
pub(super) fn bound(micros: u64) -> String {
    let (value, unit) = match micros {
        0..1_000 => (micros, "µs"),
        1_000..1_000_000 => (micros / 1_000, "ms"),
        _ => (micros / 1_000_000, "s"),
    };
    format!("{value:>3} {unit}")
}

/// A bar in eighths of a character, its length in proportion to `count`.
pub(super) fn bar(count: u64, most: u64) -> String {
    let eighths = count * BAR_WIDTH * 8 / most.max(1);
    let whole = iter::repeat_n('█', usize::try_from(eighths / 8).unwrap_or(0));
    let rest = [
        None,
        Some('▏'),
        Some('▎'),
        Some('▍'),
        Some('▌'),
        Some('▋'),
        Some('▊'),
        Some('▉'),
    ];
    let rest = rest
        .get(usize::try_from(eighths % 8).unwrap_or(0))
        .copied()
        .flatten();
    whole.chain(rest).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_distribution_counts_every_latency_once() {
        let mut latency = Histogram::new_with_bounds(1, 1_000_000, 3).unwrap();
        for micros in [30, 70, 70, 900] {
            latency.record(micros).unwrap();
        }
        assert_eq!(
            distribution(&latency),
            [(50, 1), (100, 2), (200, 0), (500, 0), (1_000, 1)]
        );
    }

    #[test]
    fn bars_are_in_proportion() {
        assert_eq!(bar(10, 10).chars().count(), 32);
        assert_eq!(bar(5, 10).chars().count(), 16);
        assert_eq!(bar(0, 10), "");
    }
}
