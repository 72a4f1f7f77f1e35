//! How a row becomes a record: topic, key, envelope, columns and headers, each with its default.

use super::template::{Template, TemplatePart};

/// How a row becomes a record. A source that configures nothing of it has [`Mapping::default`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Topic template; `{aggregate_type}.events`.
    pub topic: Template,
    /// Key template; `{aggregate_id}`.
    pub key: Template,
    /// Shape of the value, with the options of that shape; [`Envelope::Event`].
    pub envelope: Envelope,
    /// Names of the columns.
    pub columns: Columns,
    /// Extra headers as (header, column), in the order of the configuration; none by default.
    pub headers: Vec<(String, String)>,
    /// Dead-letter topic template; `{topic}.dead-letter`. `{topic}` is the topic that the row was
    /// meant for.
    pub dead_letter_topic: Template,
}

impl Mapping {
    /// The defaults for a table with these columns. The templates use the columns' names.
    #[must_use]
    pub(crate) fn of_columns(columns: Columns) -> Self {
        let column = |name: &str| TemplatePart::Column(name.to_owned());
        let text = |text: &str| TemplatePart::Text(text.to_owned());
        Self {
            topic: Template::of([column(&columns.aggregate_type), text(".events")]),
            key: Template::of([column(&columns.aggregate_id)]),
            envelope: Envelope::Event,
            columns,
            headers: Vec::new(),
            dead_letter_topic: Template::of([TemplatePart::Topic, text(".dead-letter")]),
        }
    }
}

impl Default for Mapping {
    fn default() -> Self {
        Self::of_columns(Columns::default())
    }
}

/// Column names of the outbox table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// Event id; `id`.
    pub(crate) id: String,
    /// `aggregate_type`.
    pub(crate) aggregate_type: String,
    /// `aggregate_id`.
    pub(crate) aggregate_id: String,
    /// `event_type`.
    pub(crate) event_type: String,
    /// `payload`.
    pub(crate) payload: String,
    /// `created_at`.
    pub(crate) created_at: String,
    /// The mark; `published_at`. Only `mark = "update"` needs it.
    pub(crate) published_at: String,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            id: "id".to_owned(),
            aggregate_type: "aggregate_type".to_owned(),
            aggregate_id: "aggregate_id".to_owned(),
            event_type: "event_type".to_owned(),
            payload: "payload".to_owned(),
            created_at: "created_at".to_owned(),
            published_at: "published_at".to_owned(),
        }
    }
}

/// Shape of the record's value, with the options of that shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Envelope {
    /// A JSON object with event_id, event_type, timestamp and data.
    Event,
    /// Only the payload.
    Payload,
    /// CloudEvents 1.0.
    CloudEvents(CloudEvents),
    /// Debezium's Outbox Event Router.
    Debezium(Debezium),
}

/// The options of CloudEvents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudEvents {
    mode: CloudEventsMode,
    source: String,
}

/// Where a record holds the parts of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudEventsMode {
    /// The attributes are headers, the payload is the value.
    Binary,
    /// The value is one JSON object with attributes and payload.
    Structured,
}

impl CloudEvents {
    /// Events from `source`, a URI reference such as `/orders`.
    ///
    /// # Errors
    /// Says what is wrong with `source`. An event without a source is not valid.
    pub fn new(mode: CloudEventsMode, source: impl Into<String>) -> Result<Self, String> {
        let source = source.into();
        check_cloudevents_source(&source)?;
        Ok(Self { mode, source })
    }

    /// Where the record holds the parts of the event.
    #[must_use]
    pub(crate) fn mode(&self) -> CloudEventsMode {
        self.mode
    }

    /// The attribute `source` of every event. It is never empty.
    #[must_use]
    pub(crate) fn source(&self) -> &str {
        &self.source
    }
}

/// The attribute `source` must not be empty (`conformance/cloudevents.md`, section 1).
pub(super) fn check_cloudevents_source(source: &str) -> Result<(), String> {
    if source.is_empty() {
        return Err("found \"\"; allowed: a URI reference, such as \"/orders\"".to_owned());
    }
    Ok(())
}

/// The names of the specification's own attributes, and of the payload in structured mode.
const CORE_ATTRIBUTES: [&str; 8] =
    ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"];

/// The extension attribute that a configured header of CloudEvents stands for; `None` for a header
/// that does not begin with `ce_`.
///
/// # Errors
/// Says why the rest of the header's name cannot name an extension.
pub(crate) fn cloudevents_extension(header: &str) -> Result<Option<&str>, String> {
    let Some(name) = header.strip_prefix("ce_") else { return Ok(None) };
    let legal = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !legal || CORE_ATTRIBUTES.contains(&name) {
        return Err("an extension's name has only a-z and 0-9 and is not that of a core attribute".to_owned());
    }
    Ok(Some(name))
}

/// The options of Debezium's Outbox Event Router. There are none yet: records are those of the
/// router's defaults with StringConverter. Options for converters, expansion and placements belong
/// here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Debezium {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cloudevents_without_a_source_cannot_be_built() {
        for mode in [CloudEventsMode::Binary, CloudEventsMode::Structured] {
            let refused = CloudEvents::new(mode, "").unwrap_err();
            assert_eq!(refused, "found \"\"; allowed: a URI reference, such as \"/orders\"");
            assert_eq!(CloudEvents::new(mode, "/orders").unwrap().source(), "/orders");
        }
    }

    #[test]
    fn default_templates_follow_the_columns() {
        let columns =
            Columns { aggregate_type: "kind".to_owned(), aggregate_id: "of".to_owned(), ..Columns::default() };
        let mapping = Mapping::of_columns(columns);
        assert_eq!((mapping.topic.to_string(), mapping.key.to_string()), ("{kind}.events".into(), "{of}".into()));
        assert_eq!(mapping.dead_letter_topic.to_string(), "{topic}.dead-letter");
    }
}
