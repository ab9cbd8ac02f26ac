//! The use cases.

use std::sync::Arc;

use actix_web::{
    HttpResponse, HttpResponseBuilder,
    http::{
        Method,
        header::{AGE, HeaderName, HeaderValue},
    },
    rt,
    web::Data,
};
use business::email_domains::{
    error::RecordError,
    model::EventKind,
    service::{Counted, Receipt},
};
use tracing::Instrument;

use super::{
    dto::{DomainDto, DomainPageDto, DomainsDto, ReceiptDto, StatsDto, VerdictDto},
    live::{self, LiveDto},
    request::{
        CloudEvent, DomainPath, Events, EventsBody, IdempotencyKey, ListQuery, LookupBody, Names,
        Sent, TailQuery, Wanted,
    },
    tail::{self, TailOutcome, Told as TailEvent},
};
use crate::{
    middleware,
    problem::{Kind, Problem},
    server::State,
    stream,
};

type Answer = Result<HttpResponse, Problem>;

/// The request had been counted, under the same key.
fn replayed() -> (HeaderName, HeaderValue) {
    let name = HeaderName::from_static(middleware::REPLAYED);
    (name, HeaderValue::from_static("true"))
}

/// An answer to a read, given how far that may be behind what was acknowledged.
fn read(behind_s: Option<u32>) -> HttpResponseBuilder {
    let mut answer = HttpResponse::Ok();
    if let Some(behind_s) = behind_s {
        answer.insert_header((AGE, behind_s));
    }
    answer
}

/// Counts one delivery.
///
/// It is durable when this is answered. Sent twice under one `Idempotency-Key` it counts once;
/// without a key it counts twice. HTTP lets a proxy send a PUT again when an answer is lost, so
/// through one that does, an event without a key counts at least once.
#[utoipa::path(
    put, path = "/v1/events/{domain}/delivered", tag = "events",
    params(("domain" = String, Path, description = "A mail domain.", example = "example.com")),
    responses(
        (status = 204, description = "Counted."),
        (
            status = 202,
            description = "Durable, and counted once the store is back (`store.when_down`).",
        ),
    )
)]
pub(crate) async fn delivered(
    domain: DomainPath,
    key: IdempotencyKey,
    state: Data<State>,
) -> Answer {
    record(domain, EventKind::Delivered, key, &state).await
}

/// Counts one bounce.
///
/// It is durable when this is answered, and the domain is no catch-all any more, for good. What is
/// sent twice counts as with a delivery.
#[utoipa::path(
    put, path = "/v1/events/{domain}/bounced", tag = "events",
    params(("domain" = String, Path, description = "A mail domain.", example = "example.com")),
    responses(
        (status = 204, description = "Counted."),
        (
            status = 202,
            description = "Durable, and counted once the store is back (`store.when_down`).",
        ),
    )
)]
pub(crate) async fn bounced(domain: DomainPath, key: IdempotencyKey, state: Data<State>) -> Answer {
    record(domain, EventKind::Bounced, key, &state).await
}

async fn record(
    DomainPath(domain): DomainPath,
    kind: EventKind,
    IdempotencyKey(key): IdempotencyKey,
    state: &State,
) -> Answer {
    let telling = state
        .tail
        .of_event(&domain, kind, || state.email_domains.now());
    let recorded = state.email_domains.record(domain, kind, key).await;
    if let Some(telling) = telling {
        let outcome = match &recorded {
            Ok(Counted::Now) => TailOutcome::Counted,
            Ok(Counted::Before) => TailOutcome::Duplicate,
            Ok(Counted::Later) => TailOutcome::Spooled,
            Err(error) => TailOutcome::from(error),
        };
        telling.tell(outcome);
    }
    let answer = match recorded? {
        Counted::Now => HttpResponse::NoContent().finish(),
        Counted::Before => HttpResponse::NoContent().insert_header(replayed()).finish(),
        Counted::Later => HttpResponse::Accepted().finish(),
    };
    Ok(answer)
}

/// Counts many events at once.
///
/// All are checked before any is counted. One that is wrong refuses them all, unless
/// `on_invalid=skip` is given. They count together or not at all, and are durable when this is
/// answered. Sent twice under one `Idempotency-Key` they count once, and are answered as the first
/// time; without a key they count twice. CloudEvents take no key: one of the same `source` and `id`
/// counts once, and what had been counted is told as `duplicates`.
///
/// Lines (`application/x-ndjson`) may end in CRLF, and blank ones are skipped. A CloudEvent (1.0)
/// is taken in structured, batched and binary mode: in binary mode its attributes are the header
/// fields `ce-specversion`, `ce-id`, `ce-source`, `ce-type` and `ce-subject`, and the content, of
/// any media type, is not looked at. Content may be encoded with gzip or zstd.
#[utoipa::path(
    post, path = "/v1/events", tag = "events",
    params(
        (
            "on_invalid" = Option<String>, Query, nullable = false, pattern = "^(refuse|skip)$",
            description = "`skip` counts what is sound, and tells what is left out; `refuse`, if \
                           not given, counts nothing when anything is wrong.",
        ),
        (
            "Content-Encoding" = Option<String>, Header, nullable = false, example = "zstd",
            description = "`gzip`, `zstd` or `identity`.",
        ),
    ),
    request_body(
        description = "Events, in one of these formats.",
        content(
            (
                String = "application/x-ndjson",
                example = "{\"domain\":\"example.com\",\"type\":\"delivered\"}\n{\"domain\":\"example.org\",\"type\":\"bounced\"}\n",
            ),
            (
                Events = "application/json",
                example = json!([
                    {"domain": "example.com", "type": "delivered"},
                    {"domain": "example.org", "type": "bounced"}
                ]),
            ),
            (
                CloudEvent<'static> = "application/cloudevents+json",
                example = json!({
                    "specversion": "1.0", "id": "1", "source": "/mail/1",
                    "type": "email.delivered", "subject": "example.com"
                }),
            ),
            (
                Vec<CloudEvent<'static>> = "application/cloudevents-batch+json",
                example = json!([{
                    "specversion": "1.0", "id": "2", "source": "/mail/1",
                    "type": "email.bounced", "subject": "example.org"
                }]),
            ),
        ),
    ),
    responses(
        (status = 200, description = "Counted.", body = ReceiptDto),
        (
            status = 202, description = "Durable, and counted once the store is back \
(`store.when_down`): then it is found out which are duplicates.", body = ReceiptDto,
        ),
    )
)]
pub(crate) async fn bulk(events: EventsBody, state: Data<State>) -> Answer {
    let EventsBody {
        sent,
        skipped,
        held,
    } = events;
    let given = state.bulk_events.given(sent.sums());
    let telling = state.tail.of_bulk(&sent, || state.email_domains.now());
    let keyed = matches!(sent, Sent::Together(_, Some(_)));
    // There may be none, or all are left out.
    let receipt = if sent.sums() == (0, 0) {
        Receipt::default()
    } else {
        let email_domains = state.email_domains.clone();
        // What waits to be recorded takes memory until it is, also when nobody waits for the
        // answer any more.
        let recording = rt::spawn(
            async move {
                let recorded = match sent {
                    Sent::Together(changes, key) => {
                        email_domains.record_together(changes, key).await
                    }
                    Sent::Each(members) => email_domains.record_all(members).await,
                };
                drop(held);
                recorded
            }
            .in_current_span(),
        );
        let recorded = recording
            .await
            .map_err(|error| Problem::caused_by(Kind::Internal, error.to_string()))?;
        if let Some(telling) = telling {
            let outcome = match &recorded {
                Ok(receipt) => TailOutcome::of(receipt),
                Err(error) => TailOutcome::from(error),
            };
            telling.tell(outcome);
        }
        match recorded {
            Err(error @ RecordError::Store(_)) => return Err(error.into()),
            Err(refusal) => {
                let problem = Problem::from(refusal);
                given.refused(problem.store_asked());
                return Err(problem);
            }
            Ok(receipt) => receipt,
        }
    };
    given.settled(&receipt);
    let mut answer = match receipt.spooled.sum() {
        0 => HttpResponse::Ok(),
        _ => HttpResponse::Accepted(),
    };
    if keyed && receipt.duplicates.sum() > 0 {
        // As the first time: what was sent is the same, and so is what is left out.
        answer.insert_header(replayed());
        let first = Receipt {
            counted: receipt.duplicates,
            duplicates: receipt.counted,
            ..receipt
        };
        return Ok(answer.json(ReceiptDto::new(&first, skipped)));
    }
    Ok(answer.json(ReceiptDto::new(&receipt, skipped)))
}

/// The verdict on a domain.
///
/// The bare word; `/v1/domains/{domain}` tells more.
#[utoipa::path(
    get, path = "/v1/domain/{domain}", tag = "domains",
    params(
        ("domain" = String, Path, description = "A mail domain.", example = "example.com"),
        (
            "Cache-Control" = Option<String>, Header, nullable = false, example = "no-cache",
            description = "`no-cache` or `max-age=0` asks the store itself, past every cache.",
        ),
    ),
    responses((status = 200, description = "The verdict.", body = VerdictDto, example = "catch-all"))
)]
pub(crate) async fn verdict(
    DomainPath(domain): DomainPath,
    Wanted(freshness): Wanted,
    state: Data<State>,
) -> Answer {
    let behind_s = state.email_domains.behind_s();
    let (_, standing) = state.email_domains.standing(domain, freshness).await?;
    Ok(read(behind_s).json(VerdictDto::from(standing.verdict)))
}

/// What is known of a domain.
#[utoipa::path(
    get, path = "/v1/domains/{domain}", tag = "domains",
    params(
        ("domain" = String, Path, description = "A mail domain.", example = "example.com"),
        (
            "Cache-Control" = Option<String>, Header, nullable = false, example = "no-cache",
            description = "`no-cache` or `max-age=0` asks the store itself, past every cache.",
        ),
    ),
    responses((status = 200, description = "Its verdict and its counts.", body = DomainDto))
)]
pub(crate) async fn domain(
    DomainPath(domain): DomainPath,
    Wanted(freshness): Wanted,
    state: Data<State>,
) -> Answer {
    let behind_s = state.email_domains.behind_s();
    let (domain, standing) = state.email_domains.standing(domain, freshness).await?;
    let domain = DomainDto::new(&domain, standing);
    Ok(read(behind_s).json(domain.behind(behind_s.is_some())))
}

/// What is known of many domains.
///
/// In the order in which they are asked for, with one read of the store. A GET of this path asks
/// for the domain named `lookup`.
#[utoipa::path(
    post, path = "/v1/domains/lookup", tag = "domains",
    params(
        (
            "Cache-Control" = Option<String>, Header, nullable = false, example = "no-cache",
            description = "`no-cache` or `max-age=0` asks the store itself, past every cache.",
        ),
        (
            "Content-Encoding" = Option<String>, Header, nullable = false, example = "gzip",
            description = "`gzip`, `zstd` or `identity`.",
        ),
    ),
    request_body(content(
        (Names<'static> = "application/json", example = json!({"domains": ["example.com"]})),
    )),
    responses((status = 200, description = "Their verdicts and counts.", body = DomainsDto))
)]
pub(crate) async fn lookup(asked: LookupBody, state: Data<State>) -> Answer {
    let LookupBody {
        domains,
        freshness,
        held: _held,
    } = asked;
    let behind_s = state.email_domains.behind_s();
    let standings = state.email_domains.standings(domains, freshness).await?;
    Ok(read(behind_s).json(DomainsDto::new(&standings, behind_s.is_some())))
}

/// The domains that were ever seen, page by page.
///
/// Follow `next` to the end: a domain that is there throughout is listed exactly once.
#[utoipa::path(
    get, path = "/v1/domains", tag = "domains",
    params(
        (
            "verdict" = Option<String>, Query, nullable = false, example = "catch-all",
            pattern = "^(catch-all|not-catch-all|unknown)$",
            description = "Only those that are `catch-all`, `not-catch-all` or `unknown`.",
        ),
        ("cursor" = Option<String>, Query, nullable = false, description = "The `next` of the page before."),
        (
            "limit" = Option<u16>, Query, nullable = false, minimum = 1, maximum = 1000, example = 100,
            description = "How many on a page at most, 100 if not given.",
        ),
    ),
    responses((status = 200, description = "A page.", body = DomainPageDto))
)]
pub(crate) async fn domains(ListQuery(request): ListQuery, state: Data<State>) -> Answer {
    let behind_s = state.email_domains.behind_s();
    let page = state.email_domains.page(&request).await?;
    Ok(read(behind_s).json(DomainPageDto::new(&page, behind_s.is_some())))
}

/// The server, and its sums over all domains.
#[utoipa::path(
    get, path = "/v1/stats", tag = "domains",
    responses((status = 200, description = "The sums.", body = StatsDto))
)]
pub(crate) async fn stats(state: Data<State>) -> Answer {
    let behind_s = state.email_domains.behind_s();
    let summary = state.email_domains.summary().await?;
    let threshold = state.email_domains.policy().threshold();
    let uptime_s = state.started.elapsed().as_secs();
    let stats = StatsDto::new(&summary, state.store_name, threshold, uptime_s);
    Ok(read(behind_s).json(stats.behind(behind_s.is_some())))
}

/// The server in numbers, once a second.
///
/// A stream of Server-Sent Events named `stats`; the data of each is a `Live`. The numbers are of this
/// server, the sums of its store.
#[utoipa::path(
    get, path = "/v1/stats/live", tag = "domains",
    responses((
        status = 200, description = "Until the client leaves or the server stops.",
        content_type = "text/event-stream", body = LiveDto,
    ))
)]
pub(crate) async fn live(method: Method, state: Data<State>) -> Answer {
    let open = state.streams.open()?;
    Ok(stream::answer(&method, live::watch(state, open)))
}

/// The events as they are answered.
///
/// A stream of Server-Sent Events. The data of an `event` is a `TailEvent`: what one request said of
/// one domain; of a bulk request, its first 100 domains and the one that is asked for. Each second begins
/// with the first `per_s` that come, and once a second `skipped` (`TailSkipped`) says how many events were
/// left out since. Who reads too slowly gets a last event, `dropped` (`TailDropped`), that says so. Only
/// events that this server answers are shown.
#[utoipa::path(
    get, path = "/v1/events/tail", tag = "events",
    params(
        (
            "domain" = Option<String>, Query, nullable = false, example = "example.com",
            description = "Only those for this domain.",
        ),
        (
            "per_s" = Option<u16>, Query, nullable = false, minimum = 1, maximum = 1000, example = 10,
            description = "How many a second at most, 100 if not given.",
        ),
    ),
    responses((
        status = 200, description = "Until the client leaves or the server stops.",
        content_type = "text/event-stream", body = TailEvent,
    ))
)]
pub(crate) async fn tail(method: Method, wants: TailQuery, state: Data<State>) -> Answer {
    let open = state.streams.open()?;
    let (tail, readiness) = (Arc::clone(&state.tail), state.readiness.clone());
    let events = tail::watch(tail, readiness, wants, open);
    Ok(stream::answer(&method, events))
}
