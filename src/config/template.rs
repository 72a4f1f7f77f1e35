//! Templates of topics and keys: `text {column} text`.
//!
//! Everything that follows from a template alone is here: how it is written and shown, which
//! columns it reads, which name it gives when it reads none, and which names it can give at all.
//! Binding its columns to those of a table is the work of `outbox`; turning it into SQL is the work
//! of `verify`.

use std::fmt;

use super::names::{topic, topic_character};

/// `text {column} text {other}`, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// In order. Only a template that a test made is empty: [`Template::parse`] refuses an empty
    /// text.
    parts: Vec<TemplatePart>,
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplatePart {
    /// Literal text.
    Text(String),
    /// The text of the column with this name.
    Column(String),
    /// `{topic}` in a dead-letter template: the topic that the row was meant for.
    Topic,
}

impl Template {
    /// Reads `text {column} text`. `{{` and `}}` stand for braces.
    ///
    /// # Errors
    /// Says what is wrong with `text`. The caller knows where it was written.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse(text, |column| TemplatePart::Column(column.to_owned()))
    }

    /// Reads a dead-letter template, in which `{topic}` is the topic that the row was meant for.
    ///
    /// # Errors
    /// As [`Template::parse`].
    pub(crate) fn parse_dead_letter(text: &str) -> Result<Self, String> {
        parse(text, |column| match column {
            "topic" => TemplatePart::Topic,
            column => TemplatePart::Column(column.to_owned()),
        })
    }

    /// The template of these parts.
    pub(crate) fn of(parts: impl Into<Vec<TemplatePart>>) -> Self {
        Self { parts: parts.into() }
    }

    /// The parts in order.
    pub(crate) fn parts(&self) -> &[TemplatePart] {
        &self.parts
    }

    /// The names of the columns that the template reads, in order. A column that stands twice comes
    /// twice.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            TemplatePart::Column(name) => Some(name.as_str()),
            TemplatePart::Text(_) | TemplatePart::Topic => None,
        })
    }

    /// The name that the template gives for every row; `None` when the row or its topic decides.
    pub(crate) fn constant(&self) -> Option<String> {
        self.rendered(None)
    }

    /// The name that a dead-letter template gives for every row that was meant for `topic`; `None`
    /// when the row decides.
    pub(crate) fn constant_for(&self, topic: &str) -> Option<String> {
        self.rendered(Some(topic))
    }

    fn rendered(&self, topic: Option<&str>) -> Option<String> {
        let mut name = String::new();
        for part in &self.parts {
            name.push_str(match part {
                TemplatePart::Text(text) => text,
                TemplatePart::Topic => topic?,
                TemplatePart::Column(_) => return None,
            });
        }
        Some(name)
    }

    /// Whether some row could give this name.
    pub(crate) fn can_make(&self, name: &str) -> bool {
        matches(&self.parts, name)
    }

    /// The template of one topic, for every row.
    ///
    /// # Errors
    /// Says why no record may go to a topic of this name.
    pub(crate) fn topic(name: &str, position_topic: &str) -> Result<Self, String> {
        topic(name)?;
        Self::of([TemplatePart::Text(name.to_owned())]).checked_for_topics(position_topic)
    }

    /// Returns the template if its own text can stand in a topic's name. Rule 3: that name must not
    /// be the topic of the positions.
    pub(super) fn checked_for_topics(self, position_topic: &str) -> Result<Self, String> {
        if let [TemplatePart::Text(name)] = &self.parts[..] {
            topic(name)?;
            if name == position_topic {
                return Err(format!("found {name:?}, which is the position topic; allowed: any other topic"));
            }
        }
        for part in &self.parts {
            if let TemplatePart::Text(literal) = part
                && let Some(c) = literal.chars().find(|c| !topic_character(*c))
            {
                return Err(format!(
                    "found {:?}: {c:?} cannot stand in a topic's name; allowed: a-z, A-Z, 0-9, '.', '_' and '-'",
                    self.to_string()
                ));
            }
        }
        Ok(self)
    }
}

/// Shows the template as the configuration has it.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            TemplatePart::Text(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}")),
            TemplatePart::Column(column) => write!(f, "{{{column}}}"),
            TemplatePart::Topic => f.write_str("{topic}"),
        })
    }
}

/// `placeholder` says what the name between braces stands for.
fn parse(text: &str, placeholder: fn(&str) -> TemplatePart) -> Result<Template, String> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        literal.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            literal.push_str(brace);
            rest = after;
            continue;
        }
        if brace == "}" {
            return Err(format!("found {text:?}: \"}}\" without \"{{\"; write \"}}}}\" for the character itself"));
        }
        let end = rest
            .find('}')
            .ok_or_else(|| format!("found {text:?}: \"{{\" without \"}}\"; write \"{{{{\" for the character itself"))?;
        let name = &rest[..end];
        if name.is_empty() || name.contains('{') {
            return Err(format!("found {text:?}: {{{name}}} does not name a column"));
        }
        if !literal.is_empty() {
            parts.push(TemplatePart::Text(std::mem::take(&mut literal)));
        }
        parts.push(placeholder(name));
        rest = &rest[end + 1..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(TemplatePart::Text(literal));
    }
    if parts.is_empty() {
        return Err("found \"\"; allowed: text and {column} placeholders".to_owned());
    }
    Ok(Template { parts })
}

fn matches(parts: &[TemplatePart], name: &str) -> bool {
    match parts {
        [] => name.is_empty(),
        [TemplatePart::Text(text), rest @ ..] => {
            name.strip_prefix(text.as_str()).is_some_and(|name| matches(rest, name))
        }
        [TemplatePart::Column(_) | TemplatePart::Topic] => true,
        [TemplatePart::Column(_) | TemplatePart::Topic, rest @ ..] => {
            name.char_indices().map(|(at, _)| at).chain([name.len()]).any(|at| matches(rest, &name[at..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Template {
        Template::parse(text).unwrap()
    }

    fn dead_letter(text: &str) -> Template {
        Template::parse_dead_letter(text).unwrap()
    }

    #[test]
    fn templates_are_text_and_columns() {
        let parts = |text| template(text).parts;
        let text = |text: &str| TemplatePart::Text(text.to_owned());
        let column = |column: &str| TemplatePart::Column(column.to_owned());
        assert_eq!(parts("{aggregate_type}.events"), [column("aggregate_type"), text(".events")]);
        assert_eq!(parts("a{b}{c}"), [text("a"), column("b"), column("c")]);
        assert_eq!(parts("{{{a}}}"), [text("{"), column("a"), text("}")]);
        assert_eq!(
            Template::parse("{aggregate_type.events").unwrap_err(),
            "found \"{aggregate_type.events\": \"{\" without \"}\"; write \"{{\" for the character itself"
        );
        assert_eq!(
            Template::parse("a}").unwrap_err(),
            "found \"a}\": \"}\" without \"{\"; write \"}}\" for the character itself"
        );
        assert_eq!(Template::parse("{}").unwrap_err(), "found \"{}\": {} does not name a column");
        assert_eq!(Template::parse("{a{b}").unwrap_err(), "found \"{a{b}\": {a{b} does not name a column");
        assert!(Template::parse("").is_err());
    }

    #[test]
    fn a_template_is_shown_as_it_was_written() {
        for text in ["order.events", "{aggregate_type}.events", "a{b}{c}", "{{{a}}}", "}}{{", "{topic}.dead-letter"] {
            assert_eq!(template(text).to_string(), text);
            assert_eq!(dead_letter(text).to_string(), text);
        }
    }

    #[test]
    fn the_topic_is_a_column_like_any_other_but_in_a_dead_letter_template() {
        let columns = |template: &Template| template.columns().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(columns(&template("{topic}.{region}.{topic}")), ["topic", "region", "topic"]);
        assert_eq!(columns(&dead_letter("{topic}.{region}")), ["region"]);
    }

    #[test]
    fn topics_are_what_kafka_allows() {
        let check = |text| Template::parse(text)?.checked_for_topics("outboxd.positions").map(|_| ());
        assert_eq!(check("order.events"), Ok(()));
        assert_eq!(
            check("{a} events").unwrap_err(),
            "found \"{a} events\": ' ' cannot stand in a topic's name; allowed: a-z, A-Z, 0-9, '.', '_' and '-'"
        );
        assert_eq!(
            check("{a}{{b").unwrap_err(),
            "found \"{a}{{b\": '{' cannot stand in a topic's name; allowed: a-z, A-Z, 0-9, '.', '_' and '-'"
        );
        assert_eq!(
            check("outboxd.positions").unwrap_err(),
            "found \"outboxd.positions\", which is the position topic; allowed: any other topic"
        );
        assert!(check("..").is_err());
        assert!(check(&"a".repeat(250)).is_err());
    }

    #[test]
    fn a_template_makes_the_names_that_its_text_allows() {
        let events = template("{aggregate_type}.events");
        assert!(events.can_make("order.events") && events.can_make(".events"));
        assert!(!events.can_make("order.events.dead-letter") && !events.can_make("order"));
        let both = template("a-{x}-b-{y}");
        assert!(both.can_make("a-1-b-2-b-3") && !both.can_make("a-1-c-2"));
        let fixed = template("fixed");
        assert!(fixed.can_make("fixed") && !fixed.can_make("fixed2"));
        assert_eq!(fixed.constant().as_deref(), Some("fixed"));
        assert_eq!(events.constant(), None);
        let letters = dead_letter("{topic}.dlq");
        assert!(letters.can_make("order.dlq") && !letters.can_make("order"));
        assert_eq!(letters.constant(), None);
    }

    #[test]
    fn a_dead_letter_topic_follows_from_the_topic_unless_columns_are_in_it() {
        assert_eq!(dead_letter("{topic}.dlq").constant_for("a").as_deref(), Some("a.dlq"));
        assert_eq!(dead_letter("dlq").constant_for("a").as_deref(), Some("dlq"));
        assert_eq!(dead_letter("{region}.dlq").constant_for("a"), None);
    }
}
