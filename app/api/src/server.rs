//! Binds, serves, drains.

use std::{
    fmt::Debug,
    future::ready,
    io,
    net::{SocketAddr, TcpListener},
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_http::{HttpService, Request, error::DispatchError};
use actix_server::GracefulShutdownSignal;
use actix_service::{
    IntoServiceFactory, ServiceFactory, ServiceFactoryExt as _, fn_service, map_config,
};
use actix_web::{
    App as ActixApp, Error,
    body::MessageBody,
    dev::{AppConfig, ServiceResponse},
    web::{Bytes, Data},
};
use business::email_domains::service::EmailDomains;
use foundation::telemetry::Metrics;
use tokio::net::TcpStream;

use crate::{
    connection::{Connection, ConnectionMetrics, Watch},
    email_domains::{Live, Tail},
    health::Readiness,
    limits::{MAX_WORKERS, Settings},
    middleware::{Bodies, BulkEvents, HttpMetrics, Shared},
    openapi, routes,
    sampled::Sampled,
    stream::Streams,
};

/// How long a client has to close a connection that is closed behind an answer.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// What is served.
#[derive(Clone)]
pub struct App {
    /// The context.
    pub email_domains: EmailDomains,
    /// Which store stands behind it, as `/v1/stats` tells.
    pub store_name: &'static str,
    /// Where the metrics of this server are registered; `/metrics` shows all that is in it.
    pub metrics: Metrics,
    /// What `/readyz` says; [`Server::run`] ends it.
    pub readiness: Readiness,
}

/// What the handlers share.
pub(crate) struct State {
    pub(crate) email_domains: EmailDomains,
    pub(crate) store_name: &'static str,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    pub(crate) bulk_events: BulkEvents,
    pub(crate) sampled: Sampled,
    pub(crate) streams: Streams,
    pub(crate) live: Live,
    pub(crate) tail: Arc<Tail>,
    pub(crate) started: Instant,
    /// The API description, as it is sent.
    pub(crate) description: Bytes,
}

/// An HTTP server that holds its addresses.
#[must_use = "it serves nobody until it is run"]
pub struct Server {
    http: actix_server::Server,
    addresses: Vec<SocketAddr>,
    readiness: Readiness,
    unready: Duration,
}

/// How a server is to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Not ready first, for as long as is set, so that others can turn away.
    Orderly,
    /// At once: it cannot do its work any more.
    AtOnce,
}

impl Server {
    /// Takes the addresses; port 0 is any free one. Who connects waits until the server
    /// [runs](Self::run).
    ///
    /// # Errors
    /// When there is no address, one cannot be taken, a setting is out of bounds, or the metrics are
    /// registered already.
    pub fn bind(listen: &[SocketAddr], settings: &Settings, app: App) -> io::Result<Self> {
        let shared = Shared {
            metrics: HttpMetrics::register(&app.metrics).map_err(io::Error::other)?,
            settings: Arc::new(settings.clone()),
            bodies: Bodies::default(),
            readiness: app.readiness.clone(),
        };
        let sampled = Sampled::register(&app.metrics, settings, shared.bodies.clone());
        let (readiness, metrics) = (app.readiness.clone(), app.metrics.clone());
        let state = Data::new(State {
            email_domains: app.email_domains,
            store_name: app.store_name,
            metrics: app.metrics,
            readiness: app.readiness,
            bulk_events: shared.metrics.bulk_events(),
            sampled: sampled.map_err(io::Error::other)?,
            streams: Streams::register(&metrics).map_err(io::Error::other)?,
            live: Live::default(),
            tail: Arc::new(Tail::register(&metrics).map_err(io::Error::other)?),
            started: Instant::now(),
            description: openapi::rendered()?,
        });
        let workers = settings.worker_threads();
        if workers > MAX_WORKERS {
            let problem = format!("http.workers is at most {MAX_WORKERS}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        if settings.max_bodies_bytes.get() / 2 < settings.max_body_bytes.get() {
            let problem = "http.max_bodies_bytes is at least twice http.max_body_bytes";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let worker_connections = settings.max_connections.get().div_ceil(workers);
        let connections =
            ConnectionMetrics::register(&metrics, worker_connections.saturating_mul(workers))
                .map_err(io::Error::other)?;
        let mut http = actix_server::Server::build()
            .workers(workers)
            .max_concurrent_connections(worker_connections)
            .shutdown_timeout(settings.drain_timeout_s())
            .disable_signals();
        let mut addresses = Vec::new();
        for address in listen {
            let listener = listener(address, settings.backlog.get())?;
            addresses.push(listener.local_addr()?);
            let (state, shared, connections) = (state.clone(), shared.clone(), connections.clone());
            let stopping = http.graceful_shutdown_signal();
            http = http.listen("http", listener, move || {
                let (state, shared) = (state.clone(), shared.clone());
                let app = ActixApp::new()
                    .app_data(state)
                    .configure(|config| routes::configure(config, &shared));
                worker(app, &shared.settings, &connections, stopping.clone())
            })?;
        }
        if addresses.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "no address to listen on",
            ));
        }
        Ok(Self {
            http: http.run(),
            addresses,
            readiness,
            unready: settings.unready(),
        })
    }

    /// The addresses it has, with their real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `stop` is ready. Then `/readyz` says no, for as long as is set, and every answer
    /// to what comes ends its connection; then no connection is accepted any more, and requests that
    /// are being answered get the drain timeout to finish. Requires a tokio runtime, of any kind: the
    /// workers have threads and runtimes of their own.
    ///
    /// When this returns no handler runs any more, unless the drain timeout was over.
    ///
    /// # Errors
    /// When the workers cannot be started.
    pub async fn run(self, stop: impl Future<Output = Stop>) -> io::Result<()> {
        let handle = self.http.handle();
        let mut http = pin!(self.http);
        let stop = tokio::select! {
            ended = &mut http => return ended,
            stop = stop => stop,
        };
        self.readiness.drain();
        if stop == Stop::Orderly {
            tokio::select! {
                ended = &mut http => return ended,
                () = tokio::time::sleep(self.unready) => {}
            }
        }
        // The server has to be polled while it stops.
        let (ended, ()) = tokio::join!(http, handle.stop(true));
        ended
    }
}

/// Waits for connections at an address.
fn listener(address: &SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // Once more, for the standard library has its own idea of how many may wait.
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    rustix::net::listen(&listener, backlog)?;
    Ok(listener)
}

/// Serves the connections of one worker. Actix Web would put it together the same way, but over the
/// bare streams: see [`connection`](crate::connection).
fn worker<F, S, B>(
    app: F,
    settings: &Settings,
    connections: &ConnectionMetrics,
    stopping: GracefulShutdownSignal,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()>
+ use<F, S, B>
where
    F: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig, Response = ServiceResponse<B>, Error = Error>
        + 'static,
    S::InitError: Debug,
    B: MessageBody + 'static,
{
    let watch = Watch::start(
        settings.read_timeout(),
        settings.write_timeout(),
        connections,
    );
    let http = HttpService::build()
        .graceful_shutdown_signal(move || {
            let stopping = stopping.clone();
            async move { stopping.notified().await }
        })
        .keep_alive(settings.keep_alive())
        .client_request_timeout(settings.read_timeout())
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        .on_connect_ext(|connection: &Connection, data| {
            data.insert(Rc::clone(connection.watched()));
        })
        .h1(map_config(app, |()| AppConfig::default()));
    fn_service(move |stream: TcpStream| {
        // Answers to pipelined requests would wait 40 ms for an acknowledgement otherwise. It fails
        // only on a connection that is gone.
        let _ = stream.set_nodelay(true);
        let peer = stream.peer_addr().ok();
        ready(Ok((watch.connection(stream), peer)))
    })
    .and_then(http)
}
