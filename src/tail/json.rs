//! An event as one line of JSON. `docs/operating/tail.md` has its shape, which is a contract.

use std::io::{self, Write};

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{
    event::{Event, Fate},
    value::Value,
};

/// Appends the line.
///
/// # Errors
/// Only what `out` gives; a `Vec` gives none.
pub(super) fn write(event: &Event<'_>, out: &mut impl Write) -> io::Result<()> {
    out.write_all(b"{\"source\":")?;
    string(out, event.source)?;
    out.write_all(b",\"table\":")?;
    string(out, event.table)?;
    match event.place {
        Some(place) => write!(out, ",\"lsn\":\"{}\",\"xid\":{}", place.lsn, place.xid)?,
        None => out.write_all(b",\"lsn\":null,\"xid\":null")?,
    }
    out.write_all(b",\"topic\":")?;
    optional_string(out, event.topic())?;
    out.write_all(b",\"key\":")?;
    text(out, event.record.key)?;
    if let Fate::Stops(error) = &event.fate {
        write!(out, ",\"error\":\"{}\",\"message\":", error.code())?;
        string(out, &error.detail())?;
        return out.write_all(b"}\n");
    }
    match event.record.timestamp {
        Some(millis) => write!(out, ",\"timestamp\":{millis}")?,
        None => out.write_all(b",\"timestamp\":null")?,
    }
    out.write_all(b",\"headers\":{")?;
    for (number, (name, value)) in event.record.headers().enumerate() {
        if number > 0 {
            out.write_all(b",")?;
        }
        string(out, name)?;
        out.write_all(b":")?;
        text(out, value)?;
    }
    out.write_all(b"},\"encoding\":")?;
    match Value::of(event.record.value) {
        Value::Null => out.write_all(b"null,\"value\":null")?,
        Value::Json(json) => {
            out.write_all(b"\"json\",\"value\":")?;
            spliced(out, json)?;
        }
        Value::Text(text) => {
            out.write_all(b"\"text\",\"value\":")?;
            string(out, text)?;
        }
        Value::Bytes(bytes) => write!(out, "\"base64\",\"value\":\"{}\"", BASE64_STANDARD.encode(bytes))?,
    }
    out.write_all(b"}\n")
}

/// JSON as it is, in one line. Within JSON, a line break can only stand between two parts, where a
/// space does as well.
fn spliced(out: &mut impl Write, json: &str) -> io::Result<()> {
    for (number, line) in json.split(['\n', '\r']).enumerate() {
        if number > 0 {
            out.write_all(b" ")?;
        }
        out.write_all(line.as_bytes())?;
    }
    Ok(())
}

/// A key or the value of a header.
fn text(out: &mut impl Write, bytes: Option<&[u8]>) -> io::Result<()> {
    match Value::of_text(bytes) {
        Value::Null => out.write_all(b"null"),
        Value::Json(text) | Value::Text(text) => string(out, text),
        Value::Bytes(bytes) => write!(out, "{{\"base64\":\"{}\"}}", BASE64_STANDARD.encode(bytes)),
    }
}

fn optional_string(out: &mut impl Write, text: Option<&str>) -> io::Result<()> {
    match text {
        Some(text) => string(out, text),
        None => out.write_all(b"null"),
    }
}

fn string(out: &mut impl Write, text: &str) -> io::Result<()> {
    serde_json::to_writer(out, text).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::tail::rows::samples::{self, Sample};

    fn line(sample: Sample) -> String {
        let mut out = Vec::new();
        samples::with(sample, |event| write(event, &mut out)).unwrap();
        let line = String::from_utf8(out).unwrap();
        assert_eq!(line.matches('\n').count(), 1, "one line: {line:?}");
        serde_json::from_str::<Json>(&line).unwrap();
        line
    }

    #[test]
    fn a_record_is_shown_whole_and_its_numbers_keep_every_digit() {
        assert_eq!(
            line(Sample::Plain),
            concat!(
                r#"{"source":"shop","table":"public.order_outbox","lsn":"16/B374D848","xid":771,"#,
                r#""topic":"order.events","key":"7b0e","timestamp":1705314600125,"#,
                r#""headers":{"event_id":"e1","event_type":"OrderCreated","aggregate_type":"order","#,
                r#""aggregate_id":"7b0e","content-type":"application/json"},"encoding":"json","value":"#,
                r#"{"event_id":"e1","event_type":"OrderCreated","timestamp":"2024-01-15T10:30:00.125Z","#,
                r#""data":{"total": 1500.00}}}"#,
                "\n"
            )
        );
    }

    #[test]
    fn what_there_is_not_is_null() {
        let line: Json = serde_json::from_str(&line(Sample::Bare)).unwrap();
        for field in ["key", "value", "encoding"] {
            assert_eq!(line[field], Json::Null, "{field}");
        }
        assert_eq!(line["headers"]["event_type"], Json::Null);
    }

    #[test]
    fn a_row_that_waits_has_no_place_in_the_log() {
        assert!(line(Sample::Waiting).contains(r#""lsn":null,"xid":null,"topic":"order.events""#));
    }

    #[test]
    fn a_row_that_stops_the_source_has_its_error_and_no_value() {
        let line: Json = serde_json::from_str(&line(Sample::Stops)).unwrap();
        let message = line["message"].as_str().unwrap().to_owned();
        assert!(message.contains("topic-invalid"), "{message}");
        let expected = json!({
            "source": "shop", "table": "public.order_outbox", "lsn": "16/B374D848", "xid": 771,
            "topic": "a/b.events", "key": "7b0e", "error": "row-invalid", "message": message,
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn a_dead_letter_has_no_time_before_it_is_sent() {
        let line: Json = serde_json::from_str(&line(Sample::DeadLetter)).unwrap();
        assert_eq!((&line["topic"], &line["timestamp"]), (&json!("letters"), &Json::Null));
        assert_eq!(line["headers"]["outboxd_error_code"], json!("topic-invalid"));
        assert_eq!(line["headers"]["outboxd_topic"], json!("a/b.events"));
    }

    #[test]
    fn json_with_line_breaks_stays_on_one_line_and_text_is_a_string() {
        assert!(line(Sample::Pretty).contains(r#""data":{   "total":   1500.00, "text": "a\nb"}}"#));
        let line: Json = serde_json::from_str(&line(Sample::Hostile)).unwrap();
        assert_eq!((&line["encoding"], &line["value"]), (&json!("text"), &json!("a\u{1b}[2J\u{9b}2J\tb\nc\\")));
    }
}
