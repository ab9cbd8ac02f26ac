//! Which spans are made, and how spans of different traces find each other.
//!
//! Whether a trace is kept is decided before its first span is made, so that none is made for a request
//! that is not traced. A span is made where a trace begins ([`request_span`], [`root_span`]), or inside
//! another that was made ([`inner_span`]); any other is not, unless the logs want it.
//!
//! To make a span that no layer wants takes thousands of instructions all the same, since each layer has
//! a filter of its own: so ours are not even tried. [`Sampling`] is for those of libraries.

use std::cell::Cell;

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Metadata, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer;
use tracing_subscriber::layer::Filter;
use tracing_subscriber::registry::LookupSpan;

/// How many callers a shared span shows at the most: as many links as OpenTelemetry lets a span have.
const MAX_CALLERS: usize = 128;

thread_local! {
    /// Whether the span that is being made is kept, whatever is around it.
    static KEPT: Cell<bool> = const { Cell::new(false) };
}

/// Lets those spans through that belong to a trace that is kept.
pub(super) struct Sampling {
    /// The share of traces that are kept, of those that begin here.
    pub(super) ratio: f64,
    /// Whether the logs want spans too, also of traces that are not kept.
    pub(super) logged: bool,
}

impl<S> Filter<S> for Sampling
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn enabled(&self, metadata: &Metadata<'_>, context: &layer::Context<'_, S>) -> bool {
        let kept = metadata.is_span() && KEPT.replace(false);
        (kept || context.lookup_current().is_some()) && is_ours(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        match is_ours(metadata) {
            true => Interest::sometimes(),
            false => Interest::never(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }
}

/// Sending spans makes spans of its own; to send those too would never end.
fn is_ours(metadata: &Metadata<'_>) -> bool {
    const SENDERS: [&str; 5] = ["opentelemetry", "tonic", "tower", "hyper", "h2"];
    let root = metadata.target().split("::").next().unwrap_or_default();
    !SENDERS.iter().any(|sender| root.starts_with(sender))
}

/// A longer `tracestate` is left out: so much has to be carried on (W3C Trace Context, "tracestate limits"), and
/// each span of the trace has a copy.
const MAX_TRACESTATE: usize = 512;

/// The span of a request, which `make` makes, at debug. With a `traceparent` (W3C Trace Context) it
/// goes on with its caller's trace, and is kept if that is; else it begins one. Both functions look up
/// the header field that they are named after.
pub fn request_span<'h>(
    traceparent: impl FnOnce() -> Option<&'h str>,
    tracestate: impl FnOnce() -> Option<&'h str>,
    make: impl FnOnce() -> Span,
) -> Span {
    // Nobody wants spans: no header is even looked at.
    if LevelFilter::current() < LevelFilter::DEBUG {
        return Span::none();
    }
    let traceparent = traceparent();
    if traceparent.is_none() {
        return root_span(make);
    }
    let headers = Headers {
        traceparent,
        tracestate: tracestate().filter(|state| state.len() <= MAX_TRACESTATE),
    };
    let caller = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
    // One that cannot be read is none.
    if !caller.has_active_span() {
        return root_span(make);
    }
    let kept = caller.span().span_context().is_sampled();
    let span = first_span(|_| kept, make);
    if kept {
        // Refused when nobody sends spans.
        let _ = span.set_parent(caller);
    }
    span
}

/// A span, which `make` makes, that begins a trace of its own.
pub fn root_span(make: impl FnOnce() -> Span) -> Span {
    first_span(|ratio| fastrand::f64() < ratio, make)
}

/// A span, which `make` makes, inside another. When that is not kept there is none.
pub fn inner_span(make: impl FnOnce() -> Span) -> Span {
    if Context::map_current(is_kept) || sampling().is_none_or(|(_, logged)| logged) {
        make()
    } else {
        Span::none()
    }
}

/// The first span of a trace here, if that is kept: given the ratio, `is_kept` decides. Else the logs may
/// want it.
fn first_span(is_kept: impl FnOnce(f64) -> bool, make: impl FnOnce() -> Span) -> Span {
    match sampling() {
        Some((ratio, _)) if is_kept(ratio) => keeping(make),
        Some((_, false)) => Span::none(),
        Some((_, true)) | None => make(),
    }
}

/// The share of traces that are kept, and whether the logs want spans too; nothing when no traces are
/// sent.
fn sampling() -> Option<(f64, bool)> {
    tracing::dispatcher::get_default(|dispatch| {
        let sampling = dispatch.downcast_ref::<Sampling>()?;
        Some((sampling.ratio, sampling.logged))
    })
}

/// The span, which `make` makes, of work that is done at once for several callers. It is part of the
/// trace of the first; it and the spans of the others are linked with each other. Without a caller
/// whose trace is kept there is no span.
pub fn shared_span<'c>(
    callers: impl Iterator<Item = &'c Caller>,
    make: impl FnOnce() -> Span,
) -> Span {
    let mut callers = callers.take(MAX_CALLERS).peekable();
    let Some(first) = callers.next() else {
        return Span::none();
    };
    let span = keeping(make);
    let _ = span.set_parent(Context::clone(&first.0));
    if callers.peek().is_some() {
        let shared = span.context().span().span_context().clone();
        for caller in callers {
            let caller = caller.0.span();
            span.add_link(caller.span_context().clone());
            // It is not when the filter leaves this span out.
            if shared.is_valid() {
                caller.add_link(shared.clone(), Vec::new());
            }
        }
    }
    span
}

fn keeping(make: impl FnOnce() -> Span) -> Span {
    KEPT.set(true);
    let span = make();
    // Nobody may have asked.
    KEPT.set(false);
    span
}

/// A span whose trace is kept, carried to where others do its work. One pointer.
#[derive(Clone, Debug)]
pub struct Caller(Box<Context>);

impl Caller {
    /// The span this is in, if its trace is kept.
    #[must_use]
    pub fn current() -> Option<Self> {
        Context::map_current(|context| {
            // No allocation for the others.
            is_kept(context).then(|| Self(Box::new(context.clone())))
        })
    }
}

/// The ids of the span this is in, if its trace is kept: of the trace and of the span, in hexadecimal.
pub(super) fn current_ids() -> Option<(String, String)> {
    Context::map_current(|context| {
        is_kept(context).then(|| {
            let span = context.span();
            let ids = span.span_context();
            (ids.trace_id().to_string(), ids.span_id().to_string())
        })
    })
}

fn is_kept(context: &Context) -> bool {
    context.has_active_span() && context.span().span_context().is_sampled()
}

struct Headers<'h> {
    traceparent: Option<&'h str>,
    tracestate: Option<&'h str>,
}

impl Extractor for Headers<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        match name {
            "traceparent" => self.traceparent,
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
    use tracing::debug_span;
    use tracing_subscriber::EnvFilter;
    use tracing_subscriber::layer::{Layer, SubscriberExt};

    use super::super::traces;
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[derive(Clone, Debug, Default)]
    struct Sent(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Sent {
        async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(spans);
            Ok(())
        }
    }

    /// The spans that are sent of what `work` does.
    fn sent(ratio: f64, work: impl FnOnce()) -> Vec<SpanData> {
        let exporter = Sent::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let sampling = Sampling {
            ratio,
            logged: false,
        };
        let layer = traces::layer(&provider, EnvFilter::new("debug"), sampling);
        let subscriber = tracing_subscriber::registry().with(Some(layer));
        tracing::subscriber::with_default(subscriber, work);
        exporter.0.lock().unwrap().clone()
    }

    fn request(traceparent: Option<&str>) -> Span {
        request_span(|| traceparent, || None, || debug_span!("request"))
    }

    fn caller(sampled: bool) -> String {
        format!("00-{TRACE}-b7ad6b7169203331-0{}", u8::from(sampled))
    }

    #[test]
    fn the_caller_decides_and_else_the_ratio() {
        for (ratio, traceparent, kept) in [
            (1.0, None, true),
            (0.0, None, false),
            (0.0, Some(caller(true)), true),
            (1.0, Some(caller(false)), false),
            (1.0, Some("rubbish".to_owned()), true),
            (0.0, Some("rubbish".to_owned()), false),
        ] {
            let spans = sent(ratio, || drop(request(traceparent.as_deref())));
            assert_eq!(spans.len(), usize::from(kept), "{ratio} {traceparent:?}");
            let continued = traceparent == Some(caller(true));
            for span in spans {
                let id = span.span_context.trace_id().to_string();
                assert_eq!(id == TRACE, continued);
                let parent = span.parent_span_id.to_string();
                assert_eq!(parent == "b7ad6b7169203331", continued);
            }
        }
    }

    #[test]
    fn what_is_in_no_trace_is_not_sent_nor_is_what_is_in_one_that_is_not_kept() {
        let spans = sent(1.0, || {
            drop(debug_span!("nowhere"));
            assert!(Caller::current().is_none());
            request(Some(&caller(false))).in_scope(|| {
                drop(debug_span!("unkept"));
                assert!(Caller::current().is_none());
                assert_eq!(current_ids(), None);
            });
            assert!(inner_span(|| unreachable!("it is in no trace")).is_none());
            root_span(|| debug_span!("root")).in_scope(|| {
                drop(debug_span!("a library's"));
                drop(inner_span(|| debug_span!("inner")));
                drop(debug_span!(target: "h2::client", "a sender's"));
            });
        });
        let names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
        assert_eq!(names, ["a library's", "inner", "root"]);
        let [library, inner, root] = &spans[..] else {
            panic!("{spans:?}")
        };
        for inside in [library, inner] {
            assert_eq!(inside.parent_span_id, root.span_context.span_id());
        }
    }

    #[test]
    fn no_span_is_tried_for_a_trace_that_is_not_kept() {
        let untried = || unreachable!("it is not kept");
        let spans = sent(0.0, || {
            assert!(root_span(untried).is_none());
            let traceparent = caller(false);
            assert!(request_span(|| Some(&traceparent), || None, untried).is_none());
            assert!(request_span(|| None, || None, untried).is_none());
        });
        assert!(spans.is_empty());
    }

    #[test]
    fn spans_that_are_not_kept_are_there_for_the_logs_that_want_them() {
        let exporter = Sent::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        for traced in [false, true] {
            let sampling = Sampling {
                ratio: 0.0,
                logged: true,
            };
            let layer = traced.then(|| traces::layer(&provider, EnvFilter::new("debug"), sampling));
            let lines = tracing_subscriber::fmt::layer().with_writer(std::io::sink);
            let lines = lines.with_filter(LevelFilter::DEBUG);
            let subscriber = tracing_subscriber::registry().with(lines).with(layer);
            tracing::subscriber::with_default(subscriber, || {
                for span in [
                    request(None),
                    request(Some(&caller(false))),
                    root_span(|| debug_span!("root")),
                    inner_span(|| debug_span!("inner")),
                ] {
                    assert!(!span.is_none(), "{span:?}");
                }
            });
        }
        assert!(exporter.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_shared_span_is_the_first_callers_and_linked_with_the_others() {
        let spans = sent(1.0, || {
            let requests = [request(None), request(None), request(None)];
            let callers = requests
                .each_ref()
                .map(|span| span.in_scope(Caller::current).unwrap());
            drop(shared_span(callers.iter(), || debug_span!("shared")));
            assert!(shared_span([].into_iter(), || debug_span!("nobody's")).is_disabled());
        });
        let [shared, first, others @ ..] = &spans[..] else {
            panic!("{spans:?}")
        };
        let context = |span: &SpanData| span.span_context.clone();
        let links =
            |span: &SpanData| Vec::from_iter(span.links.iter().map(|it| it.span_context.clone()));
        assert_eq!(
            (shared.parent_span_id, context(shared).trace_id()),
            (context(first).span_id(), context(first).trace_id())
        );
        assert_eq!(
            links(shared),
            others.iter().map(context).collect::<Vec<_>>()
        );
        assert_eq!(links(first), []);
        assert_eq!(others.len(), 2);
        for other in others {
            assert_eq!(links(other), [context(shared)]);
        }
    }

    #[test]
    fn a_caller_takes_one_pointer_there_or_not() {
        assert_eq!(size_of::<Option<Caller>>(), size_of::<usize>());
    }

    #[test]
    fn a_shared_span_has_a_bounded_number_of_links() {
        let spans = sent(1.0, || {
            let request = request(None);
            let caller = request.in_scope(Caller::current).unwrap();
            let callers = std::iter::repeat_n(&caller, 10 * MAX_CALLERS);
            drop(shared_span(callers, || debug_span!("shared")));
        });
        assert_eq!(spans[0].links.len(), MAX_CALLERS - 1);
        assert_eq!(spans[0].links.dropped_count, 0);
    }
}
