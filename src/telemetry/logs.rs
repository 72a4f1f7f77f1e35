//! Log lines on standard error: one JSON object a line for machines, text for a person at a
//! terminal.
//!
//! In JSON every field of an event and of the spans around it stands at the top of the object. So a
//! search can name any field of
//! `{"level":"INFO","message":"…","source":"order","lsn":"16/B374D848"}`.

use std::{
    fmt,
    io::{self, IsTerminal},
    time::SystemTime,
};

use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter,
        format::{JsonFields, Writer},
        time::FormatTime,
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
};

use crate::config::{Log, LogFilter, LogFormat};

/// Decides which lines are written from now on.
pub(crate) struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// Takes another filter.
    pub(crate) fn set(&self, level: &LogFilter) {
        // An error means that another log of the process was there first.
        let _ = self.0.reload(level.to_env_filter());
    }
}

/// Sends the log of the whole process to standard error. Only the first call in a process has an
/// effect.
pub(crate) fn init(log: &Log) -> Level {
    let terminal = io::stderr().is_terminal();
    let format = log.format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let (subscriber, level) = subscriber(&log.level, format, terminal, io::stderr);
    let _ = tracing::subscriber::set_global_default(subscriber);
    level
}

/// Writes the log to any writer.
fn subscriber<W>(
    level: &LogFilter,
    format: LogFormat,
    colours: bool,
    writer: W,
) -> (impl Subscriber + Send + Sync + use<W>, Level)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_timer(Rfc3339);
    let lines = match format {
        LogFormat::Json => lines.fmt_fields(JsonFields::new()).event_format(FlatJson).boxed(),
        LogFormat::Text => lines.with_ansi(colours).with_target(false).boxed(),
    };
    let (filter, handle) = reload::Layer::new(level.to_env_filter());
    (tracing_subscriber::registry().with(lines.with_filter(filter)), Level(handle))
}

/// UTC with microseconds.
struct Rfc3339;

impl FormatTime for Rfc3339 {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", humantime::format_rfc3339_micros(SystemTime::now()))
    }
}

/// One flat object for each event. A field of an inner span replaces that of an outer span with the
/// same name.
struct FlatJson;

impl<S, N> FormatEvent<S, N> for FlatJson
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Map::new();
        for span in context.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            let extensions = span.extensions();
            let formatted = extensions.get::<FormattedFields<N>>().map_or("", |fields| fields.fields.as_str());
            if let Ok(Value::Object(object)) = serde_json::from_str(formatted) {
                fields.extend(object);
            }
        }
        event.record(&mut Fields(&mut fields));
        let message = fields.remove("message").unwrap_or_default();
        for taken in ["timestamp", "level", "target"] {
            fields.remove(taken);
        }

        // These come first because a person looks for them first.
        let timestamp = humantime::format_rfc3339_micros(SystemTime::now());
        let (level, target) = (event.metadata().level(), event.metadata().target());
        write!(writer, r#"{{"timestamp":"{timestamp}","level":"{level}","message":{message}"#)?;
        for (key, value) in &fields {
            write!(writer, ",{}:{value}", Value::from(key.as_str()))?;
        }
        writeln!(writer, r#","target":{}}}"#, Value::from(target))
    }
}

struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{debug, info, info_span};

    use super::*;
    use crate::Lsn;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, format: LogFormat, log: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let (subscriber, _) = subscriber(&level.parse().unwrap(), format, false, move || writer.clone());
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn json_is_flat_with_the_fields_of_the_spans_around() {
        let text = logged("info", LogFormat::Json, || {
            let _outer = info_span!("source", source = "order", attempt = 1).entered();
            let _inner = info_span!("stream", attempt = 2).entered();
            info!(lsn = %Lsn(16), rows = 3u64, ok = true, "batch \"committed\"");
        });
        let mut line: Map<String, Value> = serde_json::from_str(text.trim_end()).unwrap();
        let timestamp = line.remove("timestamp").unwrap();
        assert!(humantime::parse_rfc3339(timestamp.as_str().unwrap()).is_ok());
        assert_eq!(timestamp.as_str().unwrap().len(), "2024-01-15T10:30:00.000000Z".len());
        let expected = serde_json::json!({
            "level": "INFO", "message": "batch \"committed\"", "target": "outboxd::telemetry::logs::tests",
            "source": "order", "attempt": 2, "lsn": "0/10", "rows": 3, "ok": true,
        });
        assert_eq!(Value::Object(line), expected);
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn text_is_for_a_person() {
        let text = logged("info", LogFormat::Text, || info!(source = "order", "streaming"));
        assert!(text.contains("Z  INFO streaming source=\"order\"\n"), "{text}");
    }

    #[test]
    fn the_level_may_change() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let (subscriber, level) = subscriber(&"info".parse().unwrap(), LogFormat::Text, false, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            let say = |text: &str| debug!("{text}");
            say("hidden");
            level.set(&"debug".parse().unwrap());
            say("shown");
            level.set(&"info".parse().unwrap());
            say("hidden");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("shown") && !text.contains("hidden"), "{text}");
    }

    #[test]
    fn the_level_may_name_modules() {
        let text = logged("info,outboxd::telemetry=debug", LogFormat::Text, || {
            debug!("shown");
            debug!(target: "outboxd::relay", "hidden");
        });
        assert!(text.contains("shown") && !text.contains("hidden"), "{text}");
    }
}
