//! The use cases.

use actix_web::{HttpResponse, web::Data};
use business::email_domains::model::EventKind;

use super::{
    dto::{DomainDto, DomainPageDto, StatsDto, VerdictDto},
    request::{DomainPath, ListQuery, Wanted},
};
use crate::{problem::Problem, server::State};

type Answer = Result<HttpResponse, Problem>;

/// Counts one delivery.
///
/// It is durable when this is answered. Sent twice it counts twice. HTTP lets a proxy send a PUT
/// again when an answer is lost, so through one that does, an event counts at least once.
#[utoipa::path(
    put, path = "/v1/events/{domain}/delivered", tag = "events",
    params(("domain" = String, Path, description = "A mail domain.", example = "example.com")),
    responses((status = 204, description = "Counted."))
)]
pub(crate) async fn delivered(domain: DomainPath, state: Data<State>) -> Answer {
    record(domain, EventKind::Delivered, &state).await
}

/// Counts one bounce.
///
/// It is durable when this is answered, and the domain is no catch-all any more, for good. Sent
/// twice it counts twice, as a delivery does.
#[utoipa::path(
    put, path = "/v1/events/{domain}/bounced", tag = "events",
    params(("domain" = String, Path, description = "A mail domain.", example = "example.com")),
    responses((status = 204, description = "Counted."))
)]
pub(crate) async fn bounced(domain: DomainPath, state: Data<State>) -> Answer {
    record(domain, EventKind::Bounced, &state).await
}

async fn record(DomainPath(domain): DomainPath, kind: EventKind, state: &State) -> Answer {
    state.email_domains.record(domain, kind).await?;
    Ok(HttpResponse::NoContent().finish())
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
    let (_, standing) = state.email_domains.standing(domain, freshness).await?;
    Ok(HttpResponse::Ok().json(VerdictDto::from(standing.verdict)))
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
    let (domain, standing) = state.email_domains.standing(domain, freshness).await?;
    Ok(HttpResponse::Ok().json(DomainDto::new(&domain, standing)))
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
    let page = state.email_domains.page(&request).await?;
    Ok(HttpResponse::Ok().json(DomainPageDto::from(page)))
}

/// The server, and its sums over all domains.
#[utoipa::path(
    get, path = "/v1/stats", tag = "domains",
    responses((status = 200, description = "The sums.", body = StatsDto))
)]
pub(crate) async fn stats(state: Data<State>) -> Answer {
    let summary = state.email_domains.summary().await?;
    let threshold = state.email_domains.policy().threshold();
    let uptime_s = state.started.elapsed().as_secs();
    Ok(HttpResponse::Ok().json(StatsDto::new(
        &summary,
        state.store_name,
        threshold,
        uptime_s,
    )))
}
