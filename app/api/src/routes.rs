//! The one table of routes.

use actix_web::{
    HttpResponse, Route as Handler,
    guard::fn_guard,
    http::Method,
    middleware::from_fn,
    web::{self, ServiceConfig},
};
use business::email_domains::model::EventKind;

use crate::{
    docs,
    email_domains::handlers as email_domains,
    health,
    middleware::{Gate, Shared},
    openapi, page,
    problem::{Kind, Problem},
};

/// One resource, and how requests to it are treated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// Its path, with parameters in braces; also a metric label.
    pub(crate) template: &'static str,
    /// The methods it has.
    pub(crate) methods: &'static [Method],
    /// Whether it is asked too often to log every request.
    pub(crate) hot: bool,
    /// Whether its requests take content. Content that does not belong is refused.
    pub(crate) takes_content: bool,
    /// The event a PUT to it is.
    pub(crate) event: Option<EventKind>,
    /// How it can fail, beside [`EVERYWHERE`].
    pub(crate) problems: &'static [Kind],
}

/// How a request to any route can fail.
pub(crate) const EVERYWHERE: &[Kind] = &[
    Kind::InvalidContent,
    Kind::ReadTimeout,
    Kind::ContentTooLarge,
    Kind::PathTooLong,
    Kind::ContentNotSupported,
    Kind::HeadTooLarge,
    Kind::Internal,
    Kind::AnswerTimeout,
    Kind::ConnectionEnded,
];

const GET: &[Method] = &[Method::GET, Method::HEAD];
const PUT: &[Method] = &[Method::PUT];
const POST: &[Method] = &[Method::POST];
const GET_AND_POST: &[Method] = &[Method::GET, Method::HEAD, Method::POST];

const RECORD: &[Kind] = &[
    Kind::InvalidDomain,
    Kind::InvalidKey,
    Kind::KeyExpired,
    Kind::KeyAhead,
    Kind::MarkMismatch,
    Kind::Overloaded,
    Kind::Unavailable,
    Kind::OutcomeUnknown,
];
const READ: &[Kind] = &[Kind::InvalidDomain, Kind::Overloaded, Kind::Unavailable];

pub(crate) const DELIVERED: Route = Route {
    methods: PUT,
    hot: true,
    event: Some(EventKind::Delivered),
    problems: RECORD,
    ..Route::get("/v1/events/{domain}/delivered")
};
const BOUNCED: Route = Route {
    template: "/v1/events/{domain}/bounced",
    event: Some(EventKind::Bounced),
    ..DELIVERED
};
const DOMAIN: Route = Route {
    hot: true,
    problems: READ,
    ..Route::get("/v1/domains/{domain}")
};
const VERDICT: Route = Route {
    hot: true,
    problems: READ,
    ..Route::get("/v1/domain/{domain}")
};
const DOMAINS: Route = Route {
    problems: &[Kind::InvalidQuery, Kind::Overloaded, Kind::Unavailable],
    ..Route::get("/v1/domains")
};
const BULK: Route = Route {
    methods: POST,
    hot: true,
    takes_content: true,
    problems: &[
        Kind::InvalidQuery,
        Kind::InvalidEncoding,
        Kind::MediaTypeNotSupported,
        Kind::EncodingNotSupported,
        Kind::InvalidEvents,
        Kind::InvalidKey,
        Kind::KeyExpired,
        Kind::KeyAhead,
        Kind::MarkMismatch,
        Kind::Overloaded,
        Kind::Unavailable,
        Kind::OutcomeUnknown,
    ],
    ..Route::get("/v1/events")
};
const LOOKUP: Route = Route {
    methods: POST,
    hot: true,
    takes_content: true,
    problems: &[
        Kind::InvalidQuery,
        Kind::InvalidEncoding,
        Kind::MediaTypeNotSupported,
        Kind::EncodingNotSupported,
        Kind::InvalidLookup,
        Kind::Overloaded,
        Kind::Unavailable,
    ],
    ..Route::get("/v1/domains/lookup")
};
const STATS: Route = Route {
    problems: &[Kind::Overloaded, Kind::Unavailable],
    ..Route::get("/v1/stats")
};
const LIVEZ: Route = Route {
    hot: true,
    ..Route::get("/livez")
};
const READYZ: Route = Route {
    hot: true,
    problems: &[Kind::NotReady],
    ..Route::get("/readyz")
};
const METRICS: Route = Route {
    hot: true,
    ..Route::get("/metrics")
};
const OPENAPI: Route = Route::get("/openapi.json");
const DOCS: Route = Route::get("/docs");
const DOCS_PAGE: Route = Route::get("/docs/");
const DOCS_FILE: Route = Route {
    problems: &[Kind::NotFound],
    ..Route::get("/docs/{file}")
};
const ROOT: Route = Route::get("/");
const PAGE_FILE: Route = Route {
    problems: &[Kind::NotFound],
    ..Route::get("/page/{file}")
};
const LIVE: Route = Route {
    problems: &[Kind::Overloaded],
    ..Route::get("/v1/stats/live")
};
const TAIL: Route = Route {
    problems: &[Kind::InvalidQuery, Kind::Overloaded],
    ..Route::get("/v1/events/tail")
};

/// What no route is served at. Not a template: nothing matches it.
pub(crate) const UNMATCHED: Route = Route {
    methods: &[],
    ..Route::get("unmatched")
};

impl Route {
    const fn get(template: &'static str) -> Self {
        Self {
            template,
            methods: GET,
            hot: false,
            takes_content: false,
            event: None,
            problems: &[],
        }
    }
}

/// All routes with their handlers. The router tries them in this order: the busiest stand first.
pub(crate) fn table() -> Vec<(Route, Handler)> {
    vec![
        (DELIVERED, web::to(email_domains::delivered)),
        (BOUNCED, web::to(email_domains::bounced)),
        (BULK, web::to(email_domains::bulk)),
        (VERDICT, web::to(email_domains::verdict)),
        (LOOKUP, web::to(email_domains::lookup)),
        (DOMAIN, web::to(email_domains::domain)),
        (DOMAINS, web::to(email_domains::domains)),
        (STATS, web::to(email_domains::stats)),
        (LIVEZ, web::to(health::livez)),
        (READYZ, web::to(health::readyz)),
        (METRICS, web::to(health::metrics)),
        (OPENAPI, web::to(openapi::document)),
        (DOCS, web::to(docs::redirect)),
        (DOCS_PAGE, web::to(docs::page)),
        (DOCS_FILE, web::to(docs::file)),
        (ROOT, web::to(page::page)),
        (PAGE_FILE, web::to(page::file)),
        (LIVE, web::to(email_domains::live)),
        (TAIL, web::to(email_domains::tail)),
    ]
}

/// Sets the routes up in one worker.
pub(crate) fn configure(config: &mut ServiceConfig, shared: &Shared) {
    for (route, handler) in table() {
        let methods = route.methods;
        let gate = Gate::new(route, shared);
        let allowed = fn_guard(move |context| methods.contains(&context.head().method));
        let (resource, there) = match route.template {
            // There may be a domain of that name: a GET is for the next route that the path matches.
            template if template == LOOKUP.template => {
                let is_not_get = fn_guard(|context| !GET.contains(&context.head().method));
                (web::resource(template).guard(is_not_get), GET_AND_POST)
            }
            template => (web::resource(template), methods),
        };
        let refused =
            web::to(
                move || async move { Err::<HttpResponse, _>(Problem::method_not_allowed(there)) },
            );
        config.service(
            resource
                .route(handler.guard(allowed))
                .default_service(refused)
                .wrap(from_fn(move |request, next| {
                    gate.clone().pass(request, next)
                })),
        );
    }
    let gate = Gate::new(UNMATCHED, shared);
    let unknown = web::to(|| async { Err::<HttpResponse, _>(Problem::new(Kind::NotFound)) });
    config.default_service(unknown.wrap(from_fn(move |request, next| {
        gate.clone().pass(request, next)
    })));
}
