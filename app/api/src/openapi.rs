//! The API described by itself (OpenAPI 3.1): what succeeds is written beside each handler, how it
//! fails comes from the table of routes, so that neither can be forgotten.

use std::{collections::BTreeMap, io};

use actix_web::{
    HttpResponse,
    web::{Bytes, Data},
};
use serde_json::Value;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        HeaderBuilder, Object, ObjectBuilder, Ref, RefOr, Required, Response, ResponseBuilder,
        Type,
        content::ContentBuilder,
        example::ExampleBuilder,
        header::Header,
        path::{Operation, ParameterBuilder, ParameterIn, PathItem},
    },
};

use crate::{
    docs, email_domains, health,
    middleware::RequestId,
    page,
    problem::{self, FieldError, Kind, Problem},
    routes::{self, EVERYWHERE, Route},
    server::State,
    stream,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "catchall",
        description = "Counts deliveries and bounces by mail domain, and tells which domains \
accept mail for any address.

Every GET route answers HEAD too. Every error of a request whose head was read is a problem \
document (RFC 9457), told apart by its `type`. A path that is not listed here is answered 404 \
(`not-found`), a method a path does not have 405 (`method-not-allowed`) with `Allow`. What cannot \
be read as a request at all is refused before that, with an empty body: 400 when it is malformed, \
408 when it does not arrive in time, 431 when it is out of all bounds.

Every answer to a request whose head was read has an `X-Request-Id`.",
    ),
    paths(
        email_domains::handlers::delivered,
        email_domains::handlers::bounced,
        email_domains::handlers::bulk,
        email_domains::handlers::verdict,
        email_domains::handlers::domain,
        email_domains::handlers::domains,
        email_domains::handlers::lookup,
        email_domains::handlers::stats,
        email_domains::handlers::live,
        email_domains::handlers::tail,
        health::livez,
        health::readyz,
        health::metrics,
        document,
        docs::redirect,
        docs::page,
        docs::file,
        page::page,
        page::file,
    ),
    components(schemas(
        problem::Document,
        email_domains::TailEvent,
        email_domains::TailSkipped,
        email_domains::TailDropped,
    )),
    tags(
        (name = "events", description = "What happened to messages."),
        (name = "domains", description = "What follows from it."),
        (name = "operation", description = "How the server is."),
        (name = "description", description = "What the server does."),
    ),
    modifiers(&Completed),
)]
struct Description;

/// The document, as it is sent.
///
/// # Errors
/// Never: it has no value JSON cannot say.
pub(crate) fn rendered() -> io::Result<Bytes> {
    Ok(Bytes::from(Description::openapi().to_json()?))
}

/// This description.
#[utoipa::path(
    get, path = "/openapi.json", tag = "description",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object))
)]
pub(crate) async fn document(state: Data<State>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(state.description.clone())
}

/// Adds to every operation what the middleware does to it.
struct Completed;

impl Modify for Completed {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        description
            .info
            .description
            .get_or_insert_default()
            .push_str(&list_of_problems());
        for (route, _) in routes::table() {
            let Some(item) = description.paths.paths.get_mut(route.template) else {
                continue;
            };
            for operation in operations(item) {
                complete(operation, route);
            }
        }
    }
}

/// All kinds of problem, as a Markdown table.
fn list_of_problems() -> String {
    let lines = Kind::ALL.map(|kind| {
        let (status, uri, detail) = (kind.status().as_u16(), kind.type_uri(), kind.detail());
        format!("| `{uri}` | {status} | {detail} |\n")
    });
    format!(
        "\n\n| type | status | meaning |\n| --- | --- | --- |\n{}",
        lines.concat()
    )
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
    ]
    .into_iter()
    .flatten()
}

fn complete(operation: &mut Operation, route: Route) {
    let mut by_status: BTreeMap<u16, Vec<Kind>> = BTreeMap::new();
    let everywhere = EVERYWHERE
        .iter()
        .filter(|kind| !(route.takes_content && **kind == Kind::ContentNotSupported));
    for kind in route.problems.iter().chain(everywhere) {
        by_status
            .entry(kind.status().as_u16())
            .or_default()
            .push(*kind);
    }
    if route.problems.contains(&Kind::InvalidKey) {
        document_key(operation);
    }
    let reads = operation.tags.iter().flatten().any(|tag| tag == "domains");
    let responses = &mut operation.responses.responses;
    for response in responses.values_mut().filter(|_| reads) {
        if let RefOr::T(response) = response
            // A stream goes on: it says in each event how far behind it is.
            && !response.content.contains_key(stream::MEDIA_TYPE)
        {
            response.headers.insert("Age".into(), age().into());
        }
    }
    for (status, kinds) in by_status {
        responses.insert(status.to_string(), failure(&kinds).into());
    }
    for response in responses.values_mut() {
        if let RefOr::T(response) = response {
            response
                .headers
                .insert("X-Request-Id".into(), request_id().into());
        }
    }
    let parameter = ParameterBuilder::new()
        .name("X-Request-Id")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "Names the request: 1 to 128 visible ASCII characters.",
        ))
        .schema(Some(Object::with_type(Type::String)))
        .build();
    operation
        .parameters
        .get_or_insert_default()
        .push(parameter.into());
}

/// What every operation has that takes a key. Its only responses so far are those of success.
fn document_key(operation: &mut Operation) {
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(255))
        .examples(["\"0190c3e2-5a3b-7c11-8a1e-3f0f8fad5bd9\""]);
    let key = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "What is sent again under one key counts once. A UUIDv7 is refused when it is older \
             than what is remembered; any other counts again then.",
        ))
        .schema(Some(schema))
        .build();
    operation
        .parameters
        .get_or_insert_default()
        .push(key.into());
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            let replayed = HeaderBuilder::new()
                .schema(Some(Object::with_type(Type::String)))
                .description(Some("`true`: it had been counted, under this key."))
                .build();
            response
                .headers
                .insert("Idempotency-Replayed".into(), replayed.into());
        }
    }
}

/// How far a read is behind what was acknowledged.
fn age() -> Header {
    HeaderBuilder::new()
        .schema(Some(Object::with_type(Type::Integer)))
        .description(Some(
            "For how many seconds events have been acknowledged that this may not show. Absent \
             when it shows them all.",
        ))
        .build()
}

/// One status, with an example of each problem that has it.
fn failure(kinds: &[Kind]) -> Response {
    let request = RequestId::example();
    let examples = kinds.iter().map(|kind| {
        let errors = match kind {
            Kind::InvalidDomain => vec![FieldError::new("domain", "a domain name cannot be empty")],
            Kind::InvalidQuery => vec![FieldError::new("color", "unknown parameter")],
            Kind::NotReady => vec![FieldError::new("store", "unavailable")],
            Kind::InvalidEvents => vec![FieldError {
                line: Some(3),
                ..FieldError::new("domain", "a domain name cannot be empty")
            }],
            Kind::InvalidLookup => vec![FieldError {
                index: Some(0),
                ..FieldError::new("domains", "a domain name cannot be empty")
            }],
            _ => Vec::new(),
        };
        let document = Problem::with_errors(*kind, errors).document(&request);
        let value: Option<Value> = serde_json::to_value(document).ok();
        (
            kind.slug(),
            ExampleBuilder::new().summary(kind.title()).value(value),
        )
    });
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .examples_from_iter(examples)
        .build();
    let details: Vec<_> = kinds
        .iter()
        .map(|kind| format!("`{}`: {}", kind.slug(), kind.detail()))
        .collect();
    let response = ResponseBuilder::new()
        .description(details.join("\n\n"))
        .content(problem::MEDIA_TYPE, content);
    let headers = [
        (
            "Retry-After",
            retry_after(),
            kinds.iter().any(|kind| kind.retry_after_s().is_some()),
        ),
        (
            "Accept",
            text_header("The media types that are read."),
            kinds.contains(&Kind::MediaTypeNotSupported),
        ),
        (
            "Accept-Encoding",
            text_header("The content encodings that are read."),
            kinds.contains(&Kind::EncodingNotSupported),
        ),
    ];
    let sent = headers.into_iter().filter(|(.., sent)| *sent);
    sent.fold(response, |response, (name, header, _)| {
        response.header(name, header)
    })
    .build()
}

fn request_id() -> Header {
    text_header("The request's id: the one that was sent, or a new one.")
}

fn text_header(description: &str) -> Header {
    HeaderBuilder::new()
        .description(Some(description))
        .schema(Some(Object::with_type(Type::String)))
        .build()
}

fn retry_after() -> Header {
    HeaderBuilder::new()
        .description(Some("When to try again, in seconds."))
        .schema(Some(Object::with_type(Type::Integer)))
        .build()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use actix_web::http::Method;

    use super::*;

    #[test]
    fn it_lists_exactly_what_is_served() {
        let served: BTreeSet<_> = routes::table()
            .into_iter()
            .flat_map(|(route, _)| {
                route
                    .methods
                    .iter()
                    .map(move |method| (route.template, method))
            })
            .filter(|(_, method)| **method != Method::HEAD)
            .map(|(template, method)| (template.to_owned(), method.as_str().to_lowercase()))
            .collect();
        let description: Value = serde_json::from_slice(&rendered().unwrap()).unwrap();
        let paths = description["paths"].as_object().unwrap();
        let listed: BTreeSet<_> = paths
            .iter()
            .flat_map(|(path, item)| {
                item.as_object()
                    .unwrap()
                    .keys()
                    .map(move |method| (path.clone(), method.clone()))
            })
            .collect();
        assert_eq!(listed, served);
    }
}
