//! The page at `/`: what the server does, for people. Served from the binary, and nothing in it comes
//! from elsewhere.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS},
};

use crate::problem::{Kind, Problem};

/// Nothing but what this server sends.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The page: rate, latency, queue and verdicts as they change, look-up, and an event to try.
#[utoipa::path(
    get, path = "/", tag = "description",
    responses((status = 200, description = "A page.", content_type = "text/html", body = String))
)]
pub(crate) async fn page() -> HttpResponse {
    answer("text/html; charset=utf-8", include_str!("page/index.html"))
}

/// A file of that page.
#[utoipa::path(
    get, path = "/page/{file}", tag = "description",
    params(("file" = String, Path, description = "Its name.", example = "page.css")),
    responses((status = 200, description = "The file.", content_type = "*/*", body = String))
)]
pub(crate) async fn file(request: HttpRequest) -> Result<HttpResponse, Problem> {
    match request.match_info().query("file") {
        "page.css" => Ok(answer(
            "text/css; charset=utf-8",
            include_str!("page/page.css"),
        )),
        "page.js" => Ok(answer(
            "text/javascript; charset=utf-8",
            include_str!("page/page.js"),
        )),
        _ => Err(Problem::new(Kind::NotFound)),
    }
}

fn answer(content_type: &str, text: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(content_type)
        // Another version may be there after a restart.
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body(text)
}
