//! An event as a few lines for a person. What a row brings cannot do anything to the terminal.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use base64::{Engine, prelude::BASE64_STANDARD};

use super::{
    event::{Event, Fate},
    value::Value,
};
use crate::outbox::write_rfc3339;

/// How the parts look.
pub(super) struct Look {
    topic: Style,
    key: Style,
    aside: Style,
    warning: Style,
    error: Style,
}

impl Look {
    pub(super) fn new(colours: bool) -> Self {
        if !colours {
            let plain = Style::new();
            return Self { topic: plain, key: plain, aside: plain, warning: plain, error: plain };
        }
        Self {
            topic: AnsiColor::Green.on_default().bold(),
            key: AnsiColor::Cyan.on_default(),
            aside: Style::new().dimmed(),
            warning: AnsiColor::Yellow.on_default(),
            error: AnsiColor::Red.on_default().bold(),
        }
    }
}

/// Appends the lines.
///
/// # Errors
/// Only what `out` gives; a `Vec` gives none.
pub(super) fn write(event: &Event<'_>, look: &Look, out: &mut impl Write) -> io::Result<()> {
    head(event, look, out)?;
    match &event.fate {
        Fate::Sent => {}
        Fate::DeadLetter(poison) => {
            write!(out, "  {}dead letter: ", look.warning)?;
            plain(out, &poison.to_string())?;
            writeln!(out, "{:#}", look.warning)?;
        }
        Fate::Stops(error) => {
            write!(out, "  {}would stop the source: ", look.error)?;
            plain(out, &error.to_string())?;
            return writeln!(out, "{:#}", look.error);
        }
    }
    for (name, value) in event.record.headers() {
        write!(out, "  {}", look.aside)?;
        plain(out, name)?;
        write!(out, ":{:#} ", look.aside)?;
        text(out, value)?;
    }
    if event.record.headers().len() > 0 {
        out.write_all(b"\n")?;
    }
    out.write_all(b"  ")?;
    match Value::of(event.record.value) {
        Value::Null => write!(out, "{}(null){:#}", look.aside, look.aside)?,
        Value::Json(text) | Value::Text(text) => plain(out, text)?,
        Value::Bytes(bytes) => bytes_in_base64(out, bytes)?,
    }
    out.write_all(b"\n")
}

/// The line with topic, key and type, and the one with time and place.
fn head(event: &Event<'_>, look: &Look, out: &mut impl Write) -> io::Result<()> {
    write!(out, "{}", look.topic)?;
    plain(out, event.topic().unwrap_or("(no topic)"))?;
    write!(out, "{:#}  {}", look.topic, look.key)?;
    match event.record.key {
        None => out.write_all(b"(no key)")?,
        key => text(out, key)?,
    }
    write!(out, "{:#}", look.key)?;
    if let Some(event_type) = &event.event_type {
        out.write_all(b"  ")?;
        plain(out, event_type)?;
    }
    write!(out, "\n  {}", look.aside)?;
    // A dead letter gets the time of sending.
    if let Some(millis) = event.record.timestamp {
        let mut time = Vec::new();
        // A time that RFC 3339 cannot express is no time of a record.
        if write_rfc3339(millis.saturating_mul(1000), &mut time).is_ok() {
            out.write_all(&time)?;
            out.write_all(b"  ")?;
        }
    }
    plain(out, event.source)?;
    out.write_all(b"  ")?;
    plain(out, event.table)?;
    if let Some(place) = event.place {
        write!(out, "  {}  xid {}", place.lsn, place.xid)?;
    }
    writeln!(out, "{:#}", look.aside)
}

/// A key or the value of a header.
fn text(out: &mut impl Write, bytes: Option<&[u8]>) -> io::Result<()> {
    match Value::of_text(bytes) {
        Value::Null => out.write_all(b"(null)"),
        Value::Json(text) | Value::Text(text) => plain(out, text),
        Value::Bytes(bytes) => bytes_in_base64(out, bytes),
    }
}

fn bytes_in_base64(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    write!(out, "(base64) {}", BASE64_STANDARD.encode(bytes))
}

/// Text in which every control character but a tab or a line break is escaped. A line break is
/// followed by an indent, so that no line of a value looks like the head of an event.
fn plain(out: &mut impl Write, text: &str) -> io::Result<()> {
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_control() && c != '\t') {
        out.write_all(&rest.as_bytes()[..at])?;
        let mut after = rest[at..].chars();
        match after.next() {
            Some('\n') => out.write_all(b"\n  ")?,
            Some(control) => write!(out, "{}", control.escape_default())?,
            None => {}
        }
        rest = after.as_str();
    }
    out.write_all(rest.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tail::rows::samples::{self, Sample};

    fn shown(sample: Sample, colours: bool) -> String {
        let mut out = Vec::new();
        samples::with(sample, |event| write(event, &Look::new(colours), &mut out)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_event_is_a_few_lines_of_which_only_the_first_is_not_indented() {
        assert_eq!(
            shown(Sample::Plain, false),
            "order.events  7b0e  OrderCreated\n  \
             2024-01-15T10:30:00.125Z  shop  public.order_outbox  16/B374D848  xid 771\n  \
             event_id: e1  event_type: OrderCreated  aggregate_type: order  aggregate_id: 7b0e  \
             content-type: application/json\n  \
             {\"event_id\":\"e1\",\"event_type\":\"OrderCreated\",\"timestamp\":\"2024-01-15T10:30:00.125Z\",\
             \"data\":{\"total\": 1500.00}}\n"
        );
    }

    #[test]
    fn colours_change_nothing_but_the_look() {
        for sample in [Sample::Plain, Sample::Bare, Sample::DeadLetter, Sample::Stops, Sample::Waiting] {
            let coloured = shown(sample, true);
            assert!(coloured.contains('\u{1b}'));
            let mut plain = String::new();
            for (number, part) in coloured.split('\u{1b}').enumerate() {
                let text = if number == 0 { part } else { part.split_once('m').unwrap().1 };
                plain.push_str(text);
            }
            assert_eq!(plain, shown(sample, false));
        }
    }

    #[test]
    fn a_row_cannot_do_anything_to_the_terminal() {
        let shown = shown(Sample::Hostile, false);
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n' && c != '\t'), "{shown:?}");
        assert!(shown.contains("a\\u{1b}[2J\\u{9b}2J\tb\n  c\\\n"), "{shown}");
        assert!(shown.starts_with("order.events  7b\\u{7}0e  "), "{shown}");
    }

    #[test]
    fn a_row_that_cannot_become_a_record_says_why() {
        let letter = shown(Sample::DeadLetter, false);
        assert!(letter.starts_with("letters  7b0e  OrderCreated\n  shop  "), "{letter}");
        assert!(letter.contains("\n  dead letter: topic-invalid: "), "{letter}");
        let stops = shown(Sample::Stops, false);
        assert!(stops.starts_with("a/b.events  7b0e  OrderCreated\n"), "{stops}");
        assert!(stops.contains("\n  would stop the source: row-invalid: event \"e1\""), "{stops}");
        assert_eq!(stops.lines().count(), 3, "{stops}");
    }

    #[test]
    fn a_tombstone_and_a_missing_key_are_told() {
        let bare = shown(Sample::Bare, false);
        assert!(bare.starts_with("order.events  (no key)\n"), "{bare}");
        assert!(bare.ends_with("\n  (null)\n"), "{bare}");
    }
}
