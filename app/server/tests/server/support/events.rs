use serde_json::Value;

use super::{Kind, Server};

/// So many domains.
pub(crate) fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("d{n}.example")).collect()
}

/// What clients know of the events they sent, by domain and kind.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    domains: Vec<String>,
    known: Vec<[Known; 2]>,
}

/// Of the events of one kind for one domain.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Known {
    /// Answered 204: counted.
    acknowledged: u64,
    /// Never answered: counted or not.
    unanswered: u64,
}

impl Account {
    pub(crate) fn new(domains: &[String]) -> Self {
        Self {
            domains: domains.to_vec(),
            known: vec![<[Known; 2]>::default(); domains.len()],
        }
    }

    pub(crate) fn acknowledge(&mut self, domain: usize, kind: Kind) {
        self.known[domain][kind as usize].acknowledged += 1;
    }

    pub(crate) fn leave_open(&mut self, domain: usize, kind: Kind) {
        self.known[domain][kind as usize].unanswered += 1;
    }

    /// With what other clients know.
    pub(crate) fn add(&mut self, other: &Self) {
        assert_eq!(self.domains, other.domains);
        for (known, more) in self.known.iter_mut().zip(&other.known) {
            for (known, more) in known.iter_mut().zip(more) {
                known.acknowledged += more.acknowledged;
                known.unanswered += more.unanswered;
            }
        }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.all().map(|known| known.acknowledged).sum()
    }

    pub(crate) fn unanswered(&self) -> u64 {
        self.all().map(|known| known.unanswered).sum()
    }

    fn all(&self) -> impl Iterator<Item = &Known> {
        self.known.iter().flatten()
    }

    /// Holds a server against this: of every domain and kind, it must have counted all that was
    /// acknowledged, and no more than that and what was not answered. Its sums must be the sums.
    ///
    /// What it has counted is what is known from now on: nothing of it may be lost later.
    pub(crate) async fn settle(&mut self, server: &Server) {
        let mut connection = server.connect().await;
        let mut wrong = Vec::new();
        for (domain, known) in self.domains.iter().zip(&mut self.known) {
            let told = connection.json(&format!("/v1/domains/{domain}")).await;
            for kind in Kind::ALL {
                let counted = told[kind.as_str()].as_u64().unwrap();
                let known = &mut known[kind as usize];
                let least = known.acknowledged;
                if !(least..=least + known.unanswered).contains(&counted) {
                    wrong.push(format!("{domain} {kind:?}: {counted} of {known:?}"));
                }
                *known = Known {
                    acknowledged: counted,
                    unanswered: 0,
                };
            }
        }
        assert!(wrong.is_empty(), "counted wrongly: {wrong:#?}");
        assert_eq!(connection.json("/v1/stats").await["events"], self.sums());
    }

    /// The sums as a server tells them.
    fn sums(&self) -> Value {
        let sum = |kind: Kind| {
            let of_kind = self.known.iter().map(|known| known[kind as usize]);
            of_kind.map(|known| known.acknowledged).sum::<u64>()
        };
        serde_json::json!({
            "delivered": sum(Kind::Delivered),
            "bounced": sum(Kind::Bounced),
        })
    }
}
