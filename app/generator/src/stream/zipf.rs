//! A few domains get most of the mail: the k-th of N in proportion to `k^-s`.

use super::{Event, Name, draw_kind};

#[derive(Debug, Clone)]
pub(crate) struct Zipf {
    rng: fastrand::Rng,
    ranks: Ranks,
    bounce_rate: f64,
}

impl Zipf {
    /// `domains` is at least 1, `exponent` positive and finite.
    pub(super) fn new(rng: fastrand::Rng, domains: u32, exponent: f64, bounce_rate: f64) -> Self {
        Self {
            rng,
            ranks: Ranks::new(domains, exponent),
            bounce_rate,
        }
    }

    pub(super) fn next_event(&mut self) -> Event {
        let domain = self.ranks.draw(&mut self.rng) - 1;
        Event {
            domain,
            name: Name::derived(domain),
            kind: draw_kind(&mut self.rng, self.bounce_rate),
        }
    }
}

/// Draws ranks 1 to `last` with probability in proportion to `rank^-exponent`, exactly and in
/// constant time and memory, by rejection-inversion: W. Hörmann and G. Derflinger, "Rejection-
/// inversion to generate variates from monotone discrete distributions", ACM TOMACS 6 (1996).
///
/// The area under `h(x) = x^-exponent` is inverted at a uniform point, and the nearest rank is
/// taken unless the point lies in what that rank's column does not cover.
#[derive(Debug, Clone)]
struct Ranks {
    last: f64,
    exponent: f64,
    /// The ends of the area: rank 1's column counts in full.
    area_start: f64,
    area_end: f64,
    /// Up to this far left of its rank a point needs no further look.
    sure: f64,
}

impl Ranks {
    fn new(last: u32, exponent: f64) -> Self {
        let mut ranks = Self {
            last: f64::from(last),
            exponent,
            area_start: 0.0,
            area_end: 0.0,
            sure: 0.0,
        };
        ranks.area_start = ranks.area(1.5) - 1.0;
        ranks.area_end = ranks.area(ranks.last + 0.5);
        ranks.sure = 2.0 - ranks.area_inverse(ranks.area(2.5) - ranks.density(2.0));
        ranks
    }

    fn draw(&self, rng: &mut fastrand::Rng) -> u32 {
        loop {
            let point = self.area_end + rng.f64() * (self.area_start - self.area_end);
            let x = self.area_inverse(point);
            let rank = x.round().clamp(1.0, self.last);
            if rank - x <= self.sure || point >= self.area(rank + 0.5) - self.density(rank) {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "clamped to 1..=last, which came from a u32"
                )]
                return rank as u32;
            }
        }
    }

    /// `h(x) = x^-exponent`
    fn density(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// The integral of `h` from 1 to `x`: `(x^(1-s) - 1) / (1-s)`, and `ln x` where s is 1. Written
    /// with `exp_m1`, it loses no digits near 1.
    fn area(&self, x: f64) -> f64 {
        let ln = x.ln();
        let t = (1.0 - self.exponent) * ln;
        if t == 0.0 { ln } else { t.exp_m1() / t * ln }
    }

    fn area_inverse(&self, area: f64) -> f64 {
        // Below -1 there is nothing to invert; rounding may reach there.
        let t = (area * (1.0 - self.exponent)).max(-1.0);
        if t == 0.0 {
            area.exp()
        } else {
            (t.ln_1p() / t * area).exp()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws and compares every rank's count with its exact probability, to five deviations.
    fn assert_follows_zipf(last: u32, exponent: f64) {
        const DRAWS: f64 = 200_000.0;
        let weights: Vec<f64> = (1..=last).map(|k| f64::from(k).powf(-exponent)).collect();
        let total: f64 = weights.iter().sum();
        let mut counts = vec![0_u32; last as usize + 1];
        let ranks = Ranks::new(last, exponent);
        let mut rng = fastrand::Rng::with_seed(9);
        for _ in 0..200_000 {
            counts[ranks.draw(&mut rng) as usize] += 1;
        }
        assert_eq!(counts[0], 0);
        for (weight, count) in weights.iter().zip(&counts[1..]) {
            let p = weight / total;
            let deviation = (DRAWS * p * (1.0 - p)).sqrt();
            let off = (f64::from(*count) - DRAWS * p).abs();
            assert!(
                off <= 5.0 * deviation + 1.0,
                "N {last}, s {exponent}: {p} {count}"
            );
        }
    }

    #[test]
    fn ranks_follow_the_law() {
        for exponent in [0.2, 0.99, 1.0, 1.01, 2.0, 5.0] {
            assert_follows_zipf(50, exponent);
        }
        assert_follows_zipf(1, 1.0);
        assert_follows_zipf(2, 1.0);
    }

    #[test]
    fn ten_million_ranks_stay_in_range_and_reach_far() {
        let ranks = Ranks::new(10_000_000, 1.0);
        let mut rng = fastrand::Rng::with_seed(1);
        let drawn: Vec<u32> = (0..100_000).map(|_| ranks.draw(&mut rng)).collect();
        assert!(drawn.iter().all(|rank| (1..=10_000_000).contains(rank)));
        assert!(drawn.iter().any(|rank| *rank > 5_000_000));
        // P(1) = 1 / H(10^7) = 6.0 %
        let first = drawn.iter().filter(|rank| **rank == 1).count();
        assert!((5_600..6_400).contains(&first), "{first}");
    }
}
