//! The page that shows the API description: Swagger UI, served from the binary.

use std::{borrow::Cow, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{self, ContentEncoding},
    web::Bytes,
};

use crate::problem::{Kind, Problem};

/// Leads to the page: it needs the slash to find its files.
#[utoipa::path(
    get, path = "/docs", tag = "description",
    responses((status = 302, description = "To `/docs/`.", headers(("Location" = String))))
)]
pub(crate) async fn redirect() -> HttpResponse {
    HttpResponse::Found()
        .insert_header((header::LOCATION, "/docs/"))
        .finish()
}

/// This description, for people.
#[utoipa::path(
    get, path = "/docs/", tag = "description",
    responses((status = 200, description = "A page.", content_type = "text/html", body = String))
)]
pub(crate) async fn page() -> Result<HttpResponse, Problem> {
    asset("index.html")
}

/// A file of that page.
#[utoipa::path(
    get, path = "/docs/{file}", tag = "description",
    params(("file" = String, Path, description = "Its name.", example = "swagger-ui.css")),
    responses((status = 200, description = "The file.", content_type = "*/*", body = String))
)]
pub(crate) async fn file(request: HttpRequest) -> Result<HttpResponse, Problem> {
    asset(request.match_info().query("file"))
}

fn asset(name: &str) -> Result<HttpResponse, Problem> {
    let config = Arc::new(utoipa_swagger_ui::Config::from("/openapi.json"));
    let file = utoipa_swagger_ui::serve(name, config)
        .map_err(|error| Problem::caused_by(Kind::Internal, error.to_string()))?
        .ok_or_else(|| Problem::new(Kind::NotFound))?;
    let mut response = HttpResponse::Ok();
    if file.gzpipped {
        response.insert_header(ContentEncoding::Gzip);
    }
    // What is in the binary is sent from there.
    let bytes = match file.bytes {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    Ok(response.content_type(file.content_type).body(bytes))
}
