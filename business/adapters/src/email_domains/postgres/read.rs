//! What is asked of the store.

use std::{cmp, collections::HashMap, str};

use business::{
    email_domains::{
        model::{DomainName, DomainRef, Seen, Tally},
        ports::{Cursor, Page, PageRequest, Probe, StoreId, Totals},
    },
    kernel::{ErrorKind, PortError, UnixSeconds},
};
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    error::{Phase, port_error},
    marks::Generations,
    schema::Rule,
    statement::traced,
};

/// How many rows a page with a verdict looks at, if its limit is not above that.
const PAGE_SCAN: i64 = 1_000;

/// Domain, delivered, bounced, first seen, last seen.
type Row = (String, i64, i64, i64, i64);

pub(super) async fn get(pool: &PgPool, domains: &[DomainName]) -> Result<Vec<Tally>, PortError> {
    let mut names: Vec<&str> = domains.iter().map(DomainName::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let ask = sqlx::query_as(
        "SELECT domain, delivered, bounced, first_seen, last_seen
         FROM domain_tallies WHERE domain = ANY($1)",
    )
    .bind(names);
    let rows: Vec<Row> = traced("SELECT domain_tallies", ask.fetch_all(pool))
        .await
        .map_err(failed("get"))?;
    let found: HashMap<&str, &Row> = rows.iter().map(|row| (row.0.as_str(), row)).collect();
    domains
        .iter()
        .map(|domain| {
            found
                .get(domain.as_str())
                .map_or(Ok(Tally::ZERO), |row| tally(row, "get"))
        })
        .collect()
}

/// In the order of names; the cursor is the name of the last domain that was looked at.
pub(super) async fn page(
    pool: &PgPool,
    request: &PageRequest,
    rule: &Rule,
) -> Result<Page, PortError> {
    let after = match &request.after {
        // Before all names.
        None => "",
        Some(Cursor(bytes)) => str::from_utf8(bytes)
            .ok()
            .and_then(|text| DomainRef::from_stored(text).ok())
            .ok_or_else(|| PortError::new(ErrorKind::Invalid, "page"))?
            .as_str(),
    };
    let limit = usize::from(request.limit.get());
    // One more than the limit shows whether the page is the last.
    let one_more = i64::from(request.limit.get()) + 1;
    let scanned = request
        .verdict
        .map_or(one_more, |_| cmp::max(one_more, PAGE_SCAN));
    let ask = sqlx::query_as(
        "SELECT domain, delivered, bounced, first_seen, last_seen
         FROM domain_tallies WHERE domain > $1 ORDER BY domain LIMIT $2",
    )
    .bind(after)
    .bind(scanned);
    let rows: Vec<Row> = traced("SELECT domain_tallies", ask.fetch_all(pool))
        .await
        .map_err(failed("page"))?;

    let mut page = Page::default();
    let mut last = None;
    for row in &rows {
        if page.domains.len() == limit {
            page.next = last.map(cursor);
            return Ok(page);
        }
        let tally = tally(row, "page")?;
        if request
            .verdict
            .is_none_or(|wanted| wanted == rule.policy().verdict(&tally))
        {
            let name = DomainRef::from_stored(&row.0).map_err(corrupt("page"))?;
            page.domains.push((name.to_name(), tally));
        }
        last = Some(row);
    }
    if i64::try_from(rows.len()).is_ok_and(|seen| seen == scanned) {
        page.next = last.map(cursor);
    }
    Ok(page)
}

pub(super) async fn totals(pool: &PgPool) -> Result<Totals, PortError> {
    // A sum of bigints is numeric. The parts of one row are held at the limit; so is their sum.
    let ask = sqlx::query_as(
        "SELECT
             LEAST(coalesce(sum(delivered), 0), 9223372036854775807)::bigint,
             LEAST(coalesce(sum(bounced), 0), 9223372036854775807)::bigint,
             coalesce(sum(domains), 0)::bigint,
             coalesce(sum(catch_all), 0)::bigint,
             coalesce(sum(not_catch_all), 0)::bigint
         FROM writer_totals",
    );
    let (delivered, bounced, domains, catch_all, not_catch_all): (i64, i64, i64, i64, i64) =
        traced("SELECT writer_totals", ask.fetch_one(pool))
            .await
            .map_err(failed("totals"))?;
    Ok(Totals {
        delivered: count(delivered, "totals")?,
        bounced: count(bounced, "totals")?,
        domains: count(domains, "totals")?,
        catch_all: count(catch_all, "totals")?,
        not_catch_all: count(not_catch_all, "totals")?,
    })
}

pub(super) async fn newest(pool: &PgPool) -> Result<Option<UnixSeconds>, PortError> {
    let ask = sqlx::query_as("SELECT max(recorded_at) FROM writers");
    let (newest,): (Option<i64>,) = traced("SELECT writers", ask.fetch_one(pool))
        .await
        .map_err(failed("newest"))?;
    newest
        .map(|seconds| {
            let seconds = u32::try_from(seconds).map_err(corrupt("newest"))?;
            Ok(UnixSeconds::from(seconds))
        })
        .transpose()
}

pub(super) async fn probe(
    pool: &PgPool,
    rule: &Rule,
    generations: &Generations,
) -> Result<Probe, PortError> {
    let ask = sqlx::query_as(
        "SELECT id, threshold, marks_forgotten_through, marks_forgotten_stamp FROM store",
    );
    let (id, threshold, forgotten_through, forgotten_stamp): (Uuid, Option<i64>, i64, i64) =
        traced("SELECT store", ask.fetch_one(pool))
            .await
            .map_err(failed("probe"))?;
    rule.check(threshold)
        .map_err(|error| error.refusing("probe"))?;
    Ok(Probe {
        store: StoreId(id.as_u128()),
        memory: generations.memory(forgotten_through, forgotten_stamp),
        full: false,
    })
}

fn tally(row: &Row, operation: &'static str) -> Result<Tally, PortError> {
    let &(_, delivered, bounced, first, last) = row;
    let moment = |seconds: i64| {
        u32::try_from(seconds)
            .map(UnixSeconds::from)
            .map_err(corrupt(operation))
    };
    Ok(Tally {
        delivered: count(delivered, operation)?,
        bounced: count(bounced, operation)?,
        seen: Some(Seen {
            first: moment(first)?,
            last: moment(last)?,
        }),
    })
}

fn count(stored: i64, operation: &'static str) -> Result<u64, PortError> {
    u64::try_from(stored).map_err(corrupt(operation))
}

fn cursor(row: &Row) -> Cursor {
    Cursor(row.0.as_bytes().into())
}

fn failed(operation: &'static str) -> impl FnOnce(sqlx::Error) -> PortError {
    move |error| port_error(operation, Phase::Before, error)
}

fn corrupt<E: std::error::Error + Send + Sync + 'static>(
    operation: &'static str,
) -> impl FnOnce(E) -> PortError {
    move |error| PortError::caused_by(ErrorKind::Corrupt, operation, error)
}
