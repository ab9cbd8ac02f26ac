//! Logs: lines on stderr, for stdout belongs to what a program prints as its result.

use std::io::{self, IsTerminal};

use serde::Deserialize;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{self, FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::spans::current_ids;

/// What is logged, and in which shape.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// `auto`, `text` or `json`.
    pub format: LogFormat,
    /// What is logged: levels by module, as in `info,hyper=warn`; the syntax of
    /// [`EnvFilter`](tracing_subscriber::EnvFilter).
    pub filter: String,
}

/// The shape of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text when stderr is a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// The layer that writes the lines. `NO_COLOR` in the environment is honoured.
pub(super) fn layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let terminal = io::stderr().is_terminal();
    let colored = terminal && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    match json {
        false => lines
            .with_ansi(colored)
            .event_format(InTrace {
                format: fmt::format().with_ansi(colored),
                json,
            })
            .boxed(),
        true => lines
            .fmt_fields(JsonFields::new())
            .event_format(InTrace {
                format: fmt::format()
                    .json()
                    .flatten_event(true)
                    .with_span_list(false),
                json,
            })
            .boxed(),
    }
}

/// Lines that say last in which trace, and in which span of it, they were written, if it is kept. By
/// these names OpenTelemetry finds the logs of a trace ("Trace Context in non-OTLP Log Formats").
struct InTrace<F> {
    format: F,
    json: bool,
}

impl<S, N, F> FormatEvent<S, N> for InTrace<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let Some((trace, span)) = current_ids() else {
            return self.format.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.format
            .format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end();
        match line.strip_suffix('}').filter(|_| self.json) {
            Some(fields) => writeln!(
                writer,
                r#"{fields},"trace_id":"{trace}","span_id":"{span}"}}"#
            ),
            None => writeln!(writer, "{line} trace_id={trace} span_id={span}"),
        }
    }
}
