//! Numbers with their units.

use indicatif::HumanCount;

/// `1 thread`, `2 threads`
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{} {}", HumanCount(count), plural(count, what))
}

/// The noun that goes with `count`.
pub(super) fn plural(count: u64, what: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{what}{ending}")
}

/// A share in percent, eight characters wide. Rounded down, so that 100 % means all.
pub(super) fn share(part: u64, whole: u64) -> String {
    let hundredths = u128::from(part) * 10_000 / u128::from(whole.max(1));
    match (part, hundredths) {
        (0, _) => String::new(),
        (_, 10_000) => "   100 %".to_owned(),
        (_, 0) => "< 0.01 %".to_owned(),
        _ => format!("{:>3}.{:02} %", hundredths / 100, hundredths % 100),
    }
}

/// Microseconds as three digits or so and a unit.
pub(super) fn duration(micros: u64) -> (String, &'static str) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "an hour in microseconds is below 2^52"
    )]
    let (value, unit) = match micros {
        0..1_000 => return (micros.to_string(), "µs"),
        1_000..1_000_000 => (micros as f64 / 1e3, "ms"),
        _ => (micros as f64 / 1e6, "s"),
    };
    let decimals = match value {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    (format!("{value:.decimals$}"), unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_round_up_to_all_or_down_to_none() {
        assert_eq!(share(0, 10), "");
        assert_eq!(share(10, 10), "   100 %");
        assert_eq!(share(999_999, 1_000_000), " 99.99 %");
        assert_eq!(share(1, 1_000_000), "< 0.01 %");
        assert_eq!(share(1, 3), " 33.33 %");
    }

    #[test]
    fn durations_choose_their_unit() {
        let text = |micros| {
            let (value, unit) = duration(micros);
            format!("{value} {unit}")
        };
        assert_eq!(text(0), "0 µs");
        assert_eq!(text(999), "999 µs");
        assert_eq!(text(1_150), "1.15 ms");
        assert_eq!(text(23_456), "23.5 ms");
        assert_eq!(text(234_567), "235 ms");
        assert_eq!(text(1_234_567), "1.23 s");
    }
}
