//! Works as the reference does: per request over a pool, SELECT the row, then INSERT or UPDATE it,
//! without a transaction. So it loses counts when two requests meet, and answers 500 when two
//! insert the same domain; what counts here is how many requests it answers 2xx.

use actix_web::{HttpResponse, web};
use sqlx::{PgPool, postgres::PgPoolOptions};

/// As in the reference's `main.go`. It keeps only 2 of them open while idle; here all stay open,
/// which is kinder to it.
const POOL: u32 = 50;

pub(crate) const TABLE: &str = "CREATE TABLE domains (
    domain text PRIMARY KEY, delivered bigint NOT NULL, bounced bigint NOT NULL)";

pub(crate) async fn run(database: &str) -> anyhow::Result<()> {
    let pool = PgPoolOptions::new()
        .max_connections(POOL)
        .connect_lazy(database)?;
    super::serve(move |app| {
        app.app_data(web::Data::new(pool.clone()))
            .route("/v1/events/{domain}/{kind}", web::put().to(put));
    })
    .await
}

async fn put(path: web::Path<(String, String)>, pool: web::Data<PgPool>) -> HttpResponse {
    let (domain, kind) = path.into_inner();
    match count(&pool, &domain, kind == "bounced").await {
        Ok(()) => HttpResponse::NoContent().finish(),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

async fn count(pool: &PgPool, domain: &str, bounced: bool) -> sqlx::Result<()> {
    let row: Option<(i64, i64)> =
        sqlx::query_as("SELECT delivered, bounced FROM domains WHERE domain = $1")
            .bind(domain)
            .fetch_optional(pool)
            .await?;
    let sql = if row.is_some() {
        "UPDATE domains SET delivered = $2, bounced = $3 WHERE domain = $1"
    } else {
        "INSERT INTO domains (domain, delivered, bounced) VALUES ($1, $2, $3)"
    };
    let (mut delivered_now, mut bounced_now) = row.unwrap_or_default();
    if bounced {
        bounced_now += 1;
    } else {
        delivered_now += 1;
    }
    sqlx::query(sql)
        .bind(domain)
        .bind(delivered_now)
        .bind(bounced_now)
        .execute(pool)
        .await?;
    Ok(())
}
