//! What is answered.

use business::{
    email_domains::{
        model::DomainName,
        ports::Totals,
        service::{Receipt, Standing, StandingsPage, Summary},
        verdict::Verdict,
    },
    kernel::UnixSeconds,
};
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::request::{Faults, cursor_text};
use crate::problem::FieldError;

/// What is known about a domain: `catch-all` when at least the threshold was delivered and nothing
/// bounced, `not catch-all` when anything ever bounced, `unknown` otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[schema(as = Verdict)]
pub(crate) enum VerdictDto {
    #[serde(rename = "catch-all")]
    CatchAll,
    #[serde(rename = "not catch-all")]
    NotCatchAll,
    #[serde(rename = "unknown")]
    Unknown,
}

impl From<Verdict> for VerdictDto {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::CatchAll => Self::CatchAll,
            Verdict::NotCatchAll => Self::NotCatchAll,
            Verdict::Unknown => Self::Unknown,
        }
    }
}

/// One domain. One that was never seen is `unknown`, with nothing counted.
#[derive(Serialize, ToSchema)]
#[schema(as = Domain)]
pub(crate) struct DomainDto {
    /// Its name in canonical form: lower case, A-labels, no trailing dot.
    #[schema(example = "example.com")]
    domain: String,
    verdict: VerdictDto,
    /// Messages its server took.
    #[schema(example = 1042)]
    delivered: u64,
    /// Messages its server refused.
    #[schema(example = 0)]
    bounced: u64,
    /// When its first event was recorded (RFC 3339); null if none ever was.
    #[schema(value_type = Option<String>, format = DateTime, example = "2026-11-21T09:00:00Z", required)]
    first_seen: Option<Moment>,
    /// When its last event was recorded (RFC 3339); null if none ever was.
    #[schema(value_type = Option<String>, format = DateTime, example = "2026-11-21T10:30:00Z", required)]
    last_seen: Option<Moment>,
    /// Events are acknowledged that this may not show, for the store is, or was, away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    behind: bool,
}

impl DomainDto {
    pub(crate) fn new(domain: &DomainName, standing: Standing) -> Self {
        let Standing { tally, verdict } = standing;
        Self {
            domain: domain.as_str().to_owned(),
            verdict: verdict.into(),
            delivered: tally.delivered,
            bounced: tally.bounced,
            first_seen: tally.seen.map(|seen| Moment(seen.first)),
            last_seen: tally.seen.map(|seen| Moment(seen.last)),
            behind: false,
        }
    }

    pub(crate) fn behind(self, behind: bool) -> Self {
        Self { behind, ..self }
    }
}

/// Some domains, in an order of the store's own.
#[derive(Serialize, ToSchema)]
#[schema(as = DomainPage)]
pub(crate) struct DomainPageDto {
    /// At most as many as were asked for. There may be fewer, or none, and still a `next`.
    domains: Vec<DomainDto>,
    /// The `cursor` of the next page. Absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "ZXhhbXBsZS5jb20")]
    next: Option<String>,
    /// Events are acknowledged that this may not show, for the store is, or was, away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    behind: bool,
}

impl DomainPageDto {
    pub(crate) fn new(page: &StandingsPage, behind: bool) -> Self {
        let domains = page
            .domains
            .iter()
            .map(|(name, standing)| DomainDto::new(name, *standing));
        Self {
            domains: domains.collect(),
            next: page.next.as_ref().map(cursor_text),
            behind,
        }
    }
}

/// What became of the events of one request.
#[derive(Serialize, ToSchema)]
#[schema(as = Receipt)]
pub(crate) struct ReceiptDto {
    /// Events that are counted, or will be (202).
    #[schema(example = 998)]
    accepted: u64,
    /// CloudEvents that had been counted before.
    #[schema(example = 0)]
    duplicates: u64,
    /// Events that are wrong and were left out, as `on_invalid=skip` allows.
    #[schema(example = 2)]
    skipped: u64,
    /// The first 100 of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
}

impl ReceiptDto {
    pub(crate) fn new(receipt: &Receipt, skipped: Faults) -> Self {
        Self {
            accepted: receipt.counted.sum() + receipt.spooled.sum(),
            duplicates: receipt.duplicates.sum(),
            skipped: skipped.count,
            errors: skipped.errors,
        }
    }
}

/// The domains that were asked for, in the order in which they were.
#[derive(Serialize, ToSchema)]
#[schema(as = Domains)]
pub(crate) struct DomainsDto {
    domains: Vec<DomainDto>,
    /// Events are acknowledged that this may not show, for the store is, or was, away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    behind: bool,
}

impl DomainsDto {
    pub(crate) fn new(standings: &[(DomainName, Standing)], behind: bool) -> Self {
        let domains = standings
            .iter()
            .map(|(name, standing)| DomainDto::new(name, *standing));
        Self {
            domains: domains.collect(),
            behind,
        }
    }
}

/// The server and its sums.
#[derive(Serialize, ToSchema)]
#[schema(as = Stats)]
pub(crate) struct StatsDto {
    /// Of the server.
    #[schema(example = "0.1.0")]
    version: &'static str,
    /// Which store it has.
    #[schema(example = "memory")]
    store: &'static str,
    /// How much must be delivered, without a bounce, to call a domain a catch-all.
    #[schema(example = 1000)]
    threshold: u64,
    /// How long it has been serving, in whole seconds.
    #[schema(example = 3600)]
    uptime_s: u64,
    domains: DomainSums,
    events: EventSums,
    /// An idempotency key made from this moment on is remembered if it ever counted (RFC 3339).
    #[schema(value_type = String, format = DateTime, example = "2026-11-20T10:30:00Z")]
    keys_from: Moment,
    /// When the sums held (RFC 3339).
    #[schema(value_type = String, format = DateTime, example = "2026-11-21T10:30:00Z")]
    as_of: Moment,
    /// Events are acknowledged that this may not show, for the store is, or was, away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    behind: bool,
}

/// Domains ever seen, by verdict.
#[derive(Serialize, ToSchema)]
pub(crate) struct DomainSums {
    #[schema(example = 10)]
    total: u64,
    #[schema(example = 3)]
    catch_all: u64,
    #[schema(example = 5)]
    not_catch_all: u64,
    #[schema(example = 2)]
    unknown: u64,
}

/// Events ever counted, by kind.
#[derive(Serialize, ToSchema)]
pub(crate) struct EventSums {
    #[schema(example = 6400)]
    delivered: u64,
    #[schema(example = 12)]
    bounced: u64,
}

impl From<Totals> for DomainSums {
    fn from(totals: Totals) -> Self {
        Self {
            total: totals.domains,
            catch_all: totals.catch_all,
            not_catch_all: totals.not_catch_all,
            unknown: totals.unknown(),
        }
    }
}

impl From<Totals> for EventSums {
    fn from(totals: Totals) -> Self {
        Self {
            delivered: totals.delivered,
            bounced: totals.bounced,
        }
    }
}

impl StatsDto {
    pub(crate) fn new(
        summary: &Summary,
        store: &'static str,
        threshold: u64,
        uptime_s: u64,
    ) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            store,
            threshold,
            uptime_s,
            domains: summary.totals.into(),
            events: summary.totals.into(),
            keys_from: Moment(summary.keys_from),
            as_of: Moment(summary.as_of),
            behind: false,
        }
    }

    pub(crate) fn behind(self, behind: bool) -> Self {
        Self { behind, ..self }
    }
}

/// A moment as text (RFC 3339), in UTC.
#[derive(Clone, Copy)]
pub(crate) struct Moment(pub(crate) UnixSeconds);

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Cannot fail: 32 bits of seconds end in the year 2106.
        let moment = Timestamp::from_second(self.0.get().into()).unwrap_or(Timestamp::UNIX_EPOCH);
        serializer.collect_str(&moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_rfc_3339() {
        for (seconds, text) in [
            (0, "\"1970-01-01T00:00:00Z\""),
            (1_795_251_600, "\"2026-11-21T09:00:00Z\""),
            (u32::MAX, "\"2106-02-07T06:28:15Z\""),
        ] {
            let moment = Moment(UnixSeconds::from(seconds));
            assert_eq!(serde_json::to_string(&moment).unwrap(), text);
        }
    }
}
