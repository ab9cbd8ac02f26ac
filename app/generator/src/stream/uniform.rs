//! Every domain equally likely: the stream on which folding events by domain gains nothing.

use super::{Event, Name, draw_kind};

#[derive(Debug, Clone)]
pub(crate) struct Uniform {
    rng: fastrand::Rng,
    domains: u32,
    /// The next domain, where they come in order.
    next: Option<u32>,
    bounce_rate: f64,
}

impl Uniform {
    /// `domains` is at least 1.
    pub(super) fn new(rng: fastrand::Rng, domains: u32, in_order: bool, bounce_rate: f64) -> Self {
        Self {
            rng,
            domains,
            next: in_order.then_some(0),
            bounce_rate,
        }
    }

    pub(super) fn next_event(&mut self) -> Event {
        let domain = match &mut self.next {
            None => self.rng.u32(..self.domains),
            Some(next) => {
                let domain = *next;
                *next = (domain + 1) % self.domains;
                domain
            }
        };
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
        let mut stream = Uniform::new(fastrand::Rng::with_seed(1), 100, false, 0.0);
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

    #[test]
    fn in_order_every_domain_comes_once_a_round() {
        let mut stream = Uniform::new(fastrand::Rng::with_seed(1), 5, true, 0.5);
        let domains: Vec<u32> = (0..12).map(|_| stream.next_event().domain).collect();
        assert_eq!(domains, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]);
    }
}
