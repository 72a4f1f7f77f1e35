//! The spans of a row, and their form on the wire.
//!
//! Source: OTLP 1.x, JSON Protobuf encoding,
//! <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>. Names of attributes:
//! <https://opentelemetry.io/docs/specs/semconv/messaging/kafka/>.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Parent;
use crate::{Lsn, telemetry::build::VERSION};

/// `SPAN_KIND_INTERNAL` and `SPAN_KIND_PRODUCER`.
const INTERNAL: u8 = 1;
const PRODUCER: u8 = 4;

/// A row on its way, of which two spans tell: one from its commit in Postgres to its commit in
/// Kafka, and from there another one to its mark. Times are microseconds since the Unix epoch.
#[derive(Debug, Clone)]
pub(crate) struct RowSpan {
    pub(crate) parent: Parent,
    pub(crate) source: Arc<str>,
    pub(crate) topic: String,
    pub(crate) event_id: String,
    pub(crate) event_type: Option<String>,
    /// `None`: nobody asked for it.
    pub(crate) key: Option<String>,
    /// Where the commit record of its transaction starts.
    pub(crate) lsn: Lsn,
    /// By the server's clock.
    pub(crate) committed: i64,
    /// When Kafka had committed it, by ours.
    pub(crate) published: i64,
    /// When its mark was durable, by ours. `None` where the source makes no marks, or its session
    /// ended before.
    pub(crate) marked: Option<i64>,
}

impl RowSpan {
    /// How many spans it is.
    pub(crate) fn spans(&self) -> u64 {
        1 + u64::from(self.marked.is_some())
    }

    /// The spans as OTLP has them.
    fn to_json(&self) -> impl Iterator<Item = Value> {
        let (publish, mark) = (new_id(), new_id());
        let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
        let mut attributes = vec![
            text("messaging.system", "kafka"),
            text("messaging.operation.name", "publish"),
            text("messaging.operation.type", "send"),
            text("messaging.destination.name", &self.topic),
            text("messaging.message.id", &self.event_id),
            text("outboxd.source", &self.source),
            text("outboxd.lsn", &self.lsn.to_string()),
        ];
        attributes.extend(self.event_type.iter().map(|name| text("outboxd.event_type", name)));
        attributes.extend(self.key.iter().map(|key| text("messaging.kafka.message.key", key)));
        // Two clocks may differ. No span ends before it begins.
        let committed = self.committed.min(self.published);
        let published = json!({
            "traceId": hex(&self.parent.trace),
            "spanId": hex(&publish),
            "parentSpanId": hex(&self.parent.span),
            "name": format!("publish {}", self.topic),
            "kind": PRODUCER,
            "startTimeUnixNano": nanos(committed),
            "endTimeUnixNano": nanos(self.published),
            "attributes": attributes,
        });
        let marked = self.marked.map(|marked| {
            json!({
                "traceId": hex(&self.parent.trace),
                "spanId": hex(&mark),
                "parentSpanId": hex(&publish),
                "name": "mark",
                "kind": INTERNAL,
                "startTimeUnixNano": nanos(self.published),
                "endTimeUnixNano": nanos(marked.max(self.published)),
                "attributes": [text("outboxd.source", &self.source), text("messaging.message.id", &self.event_id)],
            })
        });
        [published].into_iter().chain(marked)
    }
}

/// The body of a request: `ExportTraceServiceRequest`.
pub(super) fn request(service: &str, rows: &[RowSpan]) -> Value {
    let spans: Vec<_> = rows.iter().flat_map(RowSpan::to_json).collect();
    json!({"resourceSpans": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]},
        "scopeSpans": [{"scope": {"name": "outboxd", "version": VERSION}, "spans": spans}],
    }]})
}

/// A new id of a span. Zero is none.
fn new_id() -> [u8; 8] {
    fastrand::u64(1..).to_be_bytes()
}

/// 64-bit numbers are strings in this encoding.
fn nanos(micros: i64) -> String {
    (i128::from(micros.max(0)) * 1000).to_string()
}

/// Ids are hexadecimal in this encoding, unlike other bytes.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> RowSpan {
        RowSpan {
            parent: Parent::parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap(),
            source: "order".into(),
            topic: "order.events".into(),
            event_id: "7".into(),
            event_type: Some("OrderCreated".into()),
            key: None,
            lsn: Lsn(16),
            committed: 1_000_000,
            published: 1_002_000,
            marked: Some(1_003_000),
        }
    }

    #[test]
    fn a_row_has_a_span_to_kafka_and_one_from_there_to_its_mark() {
        let body = request("shop", &[row()]);
        let service = &body["resourceSpans"][0]["resource"]["attributes"][0];
        assert_eq!((&service["key"], &service["value"]["stringValue"]), (&json!("service.name"), &json!("shop")));
        let spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
        let [publish, mark] = &spans[..] else { panic!("{spans:?}") };
        for span in spans {
            assert_eq!(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        }
        assert_eq!((&publish["name"], &publish["kind"]), (&json!("publish order.events"), &json!(4)));
        assert_eq!(publish["parentSpanId"], "00f067aa0ba902b7");
        assert_eq!(mark["parentSpanId"], publish["spanId"]);
        let times = [
            &publish["startTimeUnixNano"],
            &publish["endTimeUnixNano"],
            &mark["startTimeUnixNano"],
            &mark["endTimeUnixNano"],
        ];
        assert_eq!(times, ["1000000000", "1002000000", "1002000000", "1003000000"]);
        let text = publish["attributes"].to_string();
        assert!(text.contains(r#"{"key":"outboxd.lsn","value":{"stringValue":"0/10"}}"#), "{text}");
        assert!(text.contains("OrderCreated") && !text.contains("message.key"), "{text}");
    }

    #[test]
    fn no_span_ends_before_it_begins() {
        let body = request("shop", &[RowSpan { committed: 2_000_000, marked: Some(1), ..row() }]);
        let spans = &body["resourceSpans"][0]["scopeSpans"][0]["spans"];
        for span in spans.as_array().unwrap() {
            assert_eq!(
                (&span["startTimeUnixNano"], &span["endTimeUnixNano"]),
                (&json!("1002000000"), &json!("1002000000"))
            );
        }
    }

    #[test]
    fn a_row_that_is_not_marked_has_one_span() {
        let body = request("shop", &[RowSpan { marked: None, key: Some("k".into()), ..row() }]);
        let spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
        assert_eq!(spans.len(), 1);
        assert!(spans[0]["attributes"].to_string().contains("messaging.kafka.message.key"));
    }
}
