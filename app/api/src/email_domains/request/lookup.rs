//! Many domains asked for in one request.

use std::{
    borrow::Cow,
    future::{Ready, ready},
};

use actix_web::{FromRequest, HttpMessage as _, HttpRequest, dev::Payload};
use business::email_domains::{model::DomainName, ports::Freshness};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{
    bulk::{each_element, media_type, text},
    event::from_object,
    faults::{Fault, Faults, Place},
    freshness,
};
use crate::{
    middleware::{Body, Held},
    problem::{FieldError, Kind, Problem},
};

/// Names in one request at the most.
const MAX_NAMES: u64 = 10_000;

/// The domains asked for, and how fresh the answer has to be.
pub(crate) struct LookupBody {
    pub(crate) domains: Vec<DomainName>,
    pub(crate) freshness: Freshness,
    /// The memory they take is the body's.
    pub(crate) held: Held,
}

/// Which domains to look up. Other members are ignored.
#[derive(Deserialize, ToSchema)]
#[schema(as = Lookup)]
pub(crate) struct Names<'a> {
    /// Mail domains, 10,000 at the most.
    #[serde(borrow)]
    #[schema(value_type = Vec<String>, max_items = 10_000, example = json!(["example.com"]))]
    domains: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl FromRequest for LookupBody {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(read(request))
    }
}

fn read(request: &HttpRequest) -> Result<LookupBody, Problem> {
    if !request.query_string().is_empty() {
        let error = FieldError::new("query", "there are no parameters");
        return Err(Problem::with_errors(Kind::InvalidQuery, vec![error]));
    }
    let Body { bytes, held } = request
        .extensions_mut()
        .remove::<Body>()
        .unwrap_or_default();
    if media_type(request.headers()) != "application/json" {
        return Err(Problem::media_type_not_supported("application/json"));
    }
    let domains = names(&bytes).map_err(|faults| {
        Problem::with_some_errors(Kind::InvalidLookup, faults.errors, faults.count)
    })?;
    Ok(LookupBody {
        domains,
        freshness: freshness(request.headers()),
        held,
    })
}

fn names(body: &[u8]) -> Result<Vec<DomainName>, Faults> {
    let list = text(body)
        .and_then(from_object::<Names<'_>>)
        .map_err(Faults::of_whole)?
        .domains
        .get();
    let (mut names, mut faults) = (Vec::new(), Faults::default());
    each_element(list, |index, element| {
        if index == MAX_NAMES {
            return Err("at most 10,000 names");
        }
        match name(element) {
            Ok(name) => names.push(name),
            Err(fault) => faults.add(Place::Index(index), fault),
        }
        Ok(())
    })
    .map_err(|error| Faults::of_whole(Fault::in_json("domains", error)))?;
    if faults.count > 0 {
        return Err(faults);
    }
    Ok(names)
}

fn name(json: &str) -> Result<DomainName, Fault> {
    let Name(text) =
        serde_json::from_str(json).map_err(|error| Fault::in_json("domains", error))?;
    DomainName::parse(&text).map_err(|invalid| Fault::in_domain("domains", invalid))
}
