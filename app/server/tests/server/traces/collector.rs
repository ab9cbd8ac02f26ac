use std::{
    collections::BTreeMap,
    io::Read,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use actix_web::{
    App, HttpResponse, HttpServer,
    web::{Bytes, Data, post},
};
use flate2::read::GzDecoder;
use foundation::testing::Rotel;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span, span::Link},
};
use prost::Message;

use crate::support::{Setup, until};

/// Put there by `scripts/test-dependencies.sh`.
const ROTEL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../target/rotel/bin/rotel-agent"
);

type Received = Mutex<Vec<ExportTraceServiceRequest>>;

/// A collector, and what came out of it.
pub(super) struct Collector {
    rotel: Rotel,
    received: Arc<Received>,
}

/// A span's place in the world: the ids of its trace and its own.
pub(super) type Place = (String, String);

impl Collector {
    pub(super) fn start() -> Self {
        let received = Arc::<Received>::default();
        let address = receive(Arc::clone(&received));
        let rotel = Rotel::start(Path::new(ROTEL), Some(address));
        Self { rotel, received }
    }

    /// A server that sends it this share of its traces.
    pub(super) fn traced(&self, setup: Setup, sample_ratio: f64) -> Setup {
        setup
            .set("telemetry.traces.endpoint", self.rotel.url())
            .set("telemetry.traces.sample_ratio", sample_ratio)
    }

    /// All spans so far.
    pub(super) fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().unwrap();
        let resources = received.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes
            .flat_map(|scope| scope.spans.iter().cloned())
            .collect()
    }

    /// What is said of the server that sent them.
    pub(super) fn resource(&self) -> BTreeMap<String, String> {
        let received = self.received.lock().unwrap();
        let resource = received[0].resource_spans[0].resource.as_ref().unwrap();
        texts(&resource.attributes)
    }

    /// Waits until so many spans of a name are here, and gives them.
    pub(super) async fn named(&self, name: &str, count: usize) -> Vec<Span> {
        let found = || {
            let spans = self.spans().into_iter();
            spans.filter(|span| span.name == name).collect::<Vec<_>>()
        };
        until(&format!("{count} of {name:?} are here"), async || {
            found().len() >= count
        })
        .await;
        let found = found();
        assert_eq!(found.len(), count, "{name}: {found:#?}");
        found
    }
}

/// Takes what a collector sends, for as long as the tests run.
fn receive(received: Arc<Received>) -> SocketAddr {
    async fn take(received: Data<Received>, body: Bytes) -> HttpResponse {
        let mut plain = Vec::new();
        GzDecoder::new(&*body).read_to_end(&mut plain).unwrap();
        let request = ExportTraceServiceRequest::decode(&*plain).unwrap();
        let mut all = received.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(request);
        HttpResponse::Ok().finish()
    }

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let data = Data::from(received);
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .route("/v1/traces", post().to(take))
        });
        let server = server.workers(1).disable_signals().listen(listener);
        actix_web::rt::System::new().block_on(server.unwrap().run())
    });
    address
}

pub(super) fn place(span: &Span) -> Place {
    (hex(&span.trace_id), hex(&span.span_id))
}

/// Where a span's parent is.
pub(super) fn parent(span: &Span) -> Place {
    (hex(&span.trace_id), hex(&span.parent_span_id))
}

/// Where a span's links lead, in order.
pub(super) fn links(span: &Span) -> Vec<Place> {
    let place = |link: &Link| (hex(&link.trace_id), hex(&link.span_id));
    let mut links: Vec<Place> = span.links.iter().map(place).collect();
    links.sort();
    links
}

/// What a span says of itself, but for the module that made it.
pub(super) fn attributes(span: &Span) -> BTreeMap<String, String> {
    let mut all = texts(&span.attributes);
    all.remove("target");
    all
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|it| it.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes
        .iter()
        .map(|attribute| (attribute.key.clone(), text(&attribute.value)))
        .collect()
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
