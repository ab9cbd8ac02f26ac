//! What a figure is compared with: the least that any server or store of its kind has to do.
//!
//! | file | what it does |
//! | --- | --- |
//! | `bare` | answers, and stores nothing |
//! | `reference` | works as the original of this server does |
//! | `upsert` | the bulk statement of PostgreSQL, without a server before it |
//! | `log_and_map` | one thread that appends, syncs and counts in a hash map |

pub(crate) mod bare;
pub(crate) mod log_and_map;
pub(crate) mod reference;
pub(crate) mod upsert;

use std::{net::TcpListener, thread::available_parallelism};

use actix_web::{App, HttpServer, web};

/// Serves `routes` on a free port, whose address goes to standard output, as catchall serves its
/// own: one worker a core, TCP_NODELAY.
async fn serve(
    routes: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("http://{}", listener.local_addr()?);
    HttpServer::new(move || App::new().configure(routes.clone()))
        .workers(available_parallelism()?.get())
        .tcp_nodelay(true)
        .backlog(4_096)
        .listen(listener)?
        .run()
        .await?;
    Ok(())
}
