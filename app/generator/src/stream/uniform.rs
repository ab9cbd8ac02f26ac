//! Every domain equally likely: the stream on which folding events by domain gains nothing.

use super::{Event, Name, draw_kind};

#[derive(Debug, Clone)]
pub(crate) struct Uniform {
    rng: fastrand::Rng,
    domains: u32,
    bounce_rate: f64,
}

impl Uniform {
    /// `domains` is at least 1.
    pub(super) fn new(rng: fastrand::Rng, domains: u32, bounce_rate: f64) -> Self {
        Self {
            rng,
            domains,
            bounce_rate,
        }
    }

    pub(super) fn next_event(&mut self) -> Event {
        let domain = self.rng.u32(..self.domains);
        Event {
            domain,
            name: Name::derived(domain),
            kind: draw_kind(&mut self.rng, self.bounce_rate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_domain_gets_its_share() {
        let mut stream = Uniform::new(fastrand::Rng::with_seed(1), 100, 0.0);
        let mut counts = [0_u32; 100];
        for _ in 0..100_000 {
            counts[stream.next_event().domain as usize] += 1;
        }
        // 1,000 each; five standard deviations are 157.
        assert!(
            counts.iter().all(|n| (840..=1_160).contains(n)),
            "{counts:?}"
        );
    }
}
