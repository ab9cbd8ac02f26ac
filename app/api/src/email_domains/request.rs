//! What is read from a request, checked.

mod bulk;
mod cloud_event;
mod event;
mod faults;
#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(
    not(feature = "fuzz"),
    allow(unreachable_pub, reason = "tests call it from here")
)]
pub mod fuzz;
mod key;
mod lookup;

use std::{
    future::{Ready, ready},
    num::NonZeroU16,
};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::header::{CACHE_CONTROL, HeaderMap},
    web::Query,
};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use business::email_domains::{
    model::DomainName,
    ports::{Cursor, Freshness, PageRequest},
    verdict::Verdict,
};
use percent_encoding::percent_decode;

#[cfg(feature = "bench")]
pub use self::bulk::count_lines;
pub(crate) use self::{
    bulk::{EventsBody, Sent},
    cloud_event::CloudEvent,
    event::Events,
    faults::Faults,
    key::IdempotencyKey,
    lookup::{LookupBody, Names},
};
use crate::problem::{FieldError, Kind, Problem};

/// Domains on a page, if nothing is said.
const DEFAULT_LIMIT: NonZeroU16 = NonZeroU16::MIN.saturating_add(99);
/// Domains on a page at most.
const MAX_LIMIT: u16 = 1_000;
/// Faults of one query that are told.
const MAX_ERRORS: usize = 16;
/// Where `{domain}` stands in a path, in every route that has it.
const DOMAIN_SEGMENT: usize = 3;

/// The `{domain}` of the path.
pub(crate) struct DomainPath(pub(crate) DomainName);

impl FromRequest for DomainPath {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        // The path as it was sent: the router's own decoding replaces what is not UTF-8 and
        // leaves some escapes. It never decodes a slash, so segments are the same to both.
        let mut segments = request.path().as_bytes().split(|byte| *byte == b'/');
        let raw = segments.nth(DOMAIN_SEGMENT).unwrap_or_default();
        ready(parse_domain(raw).map(Self))
    }
}

fn parse_domain(raw: &[u8]) -> Result<DomainName, Problem> {
    let text = percent_decode(raw)
        .decode_utf8()
        .map_err(|_| Problem::invalid_domain("the percent-encoded bytes are not UTF-8"))?;
    Ok(DomainName::parse(&text)?)
}

/// How fresh an answer the caller wants: `Cache-Control: no-cache` or `max-age=0` (RFC 9111,
/// section 5.2.1) asks the store itself.
pub(crate) struct Wanted(pub(crate) Freshness);

impl FromRequest for Wanted {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(freshness(request.headers()))))
    }
}

fn freshness(headers: &HeaderMap) -> Freshness {
    let asks_store = headers
        .get_all(CACHE_CONTROL)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(|directive| directive.split_once('=').unwrap_or((directive, "")))
        .map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
        .any(|(name, value)| {
            name.eq_ignore_ascii_case("no-cache")
                || (name.eq_ignore_ascii_case("max-age") && value.parse() == Ok(0_u64))
        });
    if asks_store {
        Freshness::Latest
    } else {
        Freshness::Cached
    }
}

/// The query of a list of domains.
pub(crate) struct ListQuery(pub(crate) PageRequest);

impl FromRequest for ListQuery {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(parse_list(request.query_string()).map(Self))
    }
}

fn parse_list(query: &str) -> Result<PageRequest, Problem> {
    let mut request = PageRequest {
        verdict: None,
        after: None,
        limit: DEFAULT_LIMIT,
    };
    parse_pairs(query, |name, value| match name {
        "verdict" => parse_verdict(value).map(|verdict| request.verdict = Some(verdict)),
        "cursor" => parse_cursor(value).map(|cursor| request.after = Some(cursor)),
        "limit" => parse_limit(value).map(|limit| request.limit = limit),
        _ => Err("unknown parameter"),
    })?;
    Ok(request)
}

/// The query of the tail.
#[derive(Clone, Debug)]
pub(crate) struct TailQuery {
    /// Only this domain.
    pub(crate) domain: Option<DomainName>,
    /// How many a second at the most.
    pub(crate) per_s: NonZeroU16,
}

impl FromRequest for TailQuery {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(parse_tail(request.query_string()))
    }
}

fn parse_tail(query: &str) -> Result<TailQuery, Problem> {
    let mut wants = TailQuery {
        domain: None,
        per_s: DEFAULT_LIMIT,
    };
    parse_pairs(query, |name, value| match name {
        "domain" => DomainName::parse(value)
            .map(|domain| wants.domain = Some(domain))
            .map_err(|_| "not a domain name"),
        "per_s" => parse_limit(value).map(|per_s| wants.per_s = per_s),
        _ => Err("unknown parameter"),
    })?;
    Ok(wants)
}

/// Gives each parameter of a query, of which none may stand twice, to `take`.
fn parse_pairs(
    query: &str,
    mut take: impl FnMut(&str, &str) -> Result<(), &'static str>,
) -> Result<(), Problem> {
    let pairs = Query::<Vec<(String, String)>>::from_query(query)
        .map_err(|_| Problem::new(Kind::InvalidQuery))?
        .into_inner();
    let mut errors = Vec::new();
    for (index, (name, value)) in pairs.iter().enumerate() {
        let taken = if pairs.iter().take(index).any(|(earlier, _)| earlier == name) {
            Err("stands twice")
        } else {
            take(name, value)
        };
        if let Err(reason) = taken {
            errors.push(FieldError::new(name, reason));
            if errors.len() == MAX_ERRORS {
                break;
            }
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Problem::with_errors(Kind::InvalidQuery, errors))
    }
}

fn parse_verdict(text: &str) -> Result<Verdict, &'static str> {
    match text {
        "catch-all" => Ok(Verdict::CatchAll),
        "not-catch-all" => Ok(Verdict::NotCatchAll),
        "unknown" => Ok(Verdict::Unknown),
        _ => Err("must be catch-all, not-catch-all or unknown"),
    }
}

fn parse_limit(text: &str) -> Result<NonZeroU16, &'static str> {
    text.parse()
        .ok()
        .filter(|limit: &NonZeroU16| limit.get() <= MAX_LIMIT)
        .ok_or("must be a number from 1 to 1000")
}

fn parse_cursor(text: &str) -> Result<Cursor, &'static str> {
    BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .map(|bytes| Cursor(bytes.into()))
        .map_err(|_| "must be the `next` of the page before")
}

/// A cursor as clients see it.
pub(crate) fn cursor_text(cursor: &Cursor) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(&cursor.0)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;
    use crate::routes;

    #[test]
    fn a_domain_stands_where_it_is_looked_for() {
        for (route, _) in routes::table() {
            let at = route
                .template
                .split('/')
                .position(|segment| segment == "{domain}");
            assert!(
                at.is_none_or(|at| at == DOMAIN_SEGMENT),
                "{}",
                route.template
            );
        }
    }

    #[test]
    fn one_level_of_percent_encoding_is_taken_off() {
        for (raw, name) in [
            ("b%C3%BCcher.example", Some("xn--bcher-kva.example")),
            ("b%c3%bccher.example", Some("xn--bcher-kva.example")),
            ("bücher.example", Some("xn--bcher-kva.example")),
            ("%65xample.com", Some("example.com")),
            ("example%2Ecom", Some("example.com")),
            ("%2565xample.com", None),
            ("a%2Fb.example", None),
            ("a%20b.example", None),
            ("a+b.example", None),
            ("a%00b.example", None),
            ("%ff.example", None),
            ("%.example", None),
            ("%zz.example", None),
            ("", None),
        ] {
            let parsed = parse_domain(raw.as_bytes())
                .ok()
                .map(|name| name.to_string());
            assert_eq!(parsed.as_deref(), name, "{raw}");
        }
    }

    #[test]
    fn the_store_is_asked_when_the_caller_insists() {
        for (lines, wanted) in [
            (&["no-cache"][..], Freshness::Latest),
            (&["NO-CACHE"], Freshness::Latest),
            (&["no-transform , No-Cache"], Freshness::Latest),
            (&["max-age=0"], Freshness::Latest),
            (&["Max-Age = \"0\""], Freshness::Latest),
            (&["no-transform", "no-cache"], Freshness::Latest),
            (&[], Freshness::Cached),
            (&["max-age=1"], Freshness::Cached),
            (&["max-age="], Freshness::Cached),
            (&["x-no-cache, no-cachet"], Freshness::Cached),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CACHE_CONTROL, HeaderValue::from_static(line));
            }
            assert_eq!(freshness(&headers), wanted, "{lines:?}");
        }
    }

    fn errors(query: &str) -> Vec<String> {
        let problem = parse_list(query).unwrap_err();
        problem
            .errors()
            .iter()
            .map(|error| error.field.clone())
            .collect()
    }

    #[test]
    fn a_query_is_taken_whole_or_each_fault_is_named() {
        let request = parse_list("limit=1000&verdict=not-catch-all&cursor=AAH_").unwrap();
        assert_eq!(request.limit.get(), 1000);
        assert_eq!(request.verdict, Some(Verdict::NotCatchAll));
        assert_eq!(request.after, Some(Cursor([0, 1, 255].into())));
        assert_eq!(parse_list("").unwrap().limit.get(), 100);

        assert_eq!(errors("limit=0"), ["limit"]);
        assert_eq!(errors("limit=1001"), ["limit"]);
        assert_eq!(errors("limit=99999"), ["limit"]);
        assert_eq!(errors("cursor=A"), ["cursor"]);
        assert_eq!(errors("cursor=AAH%2F"), ["cursor"]);
        assert_eq!(
            errors("verdict=catchall&color=red&limit=2"),
            ["verdict", "color"]
        );
        assert_eq!(errors("limit=2&limit=2"), ["limit"]);
        assert_eq!(errors(&"a&".repeat(100)).len(), MAX_ERRORS);
    }

    #[test]
    fn a_cursor_comes_back_as_it_was() {
        let cursor = Cursor((0..=255).collect());
        assert_eq!(parse_cursor(&cursor_text(&cursor)), Ok(cursor));
    }
}
