//! Which topics belong to which source: numbers for their names, and what a template can make.

use std::collections::HashMap;

use crate::config::{Template, TemplatePart};

/// Where a row goes whose dead-letter topic cannot be named; outbox knows it by the same name.
pub(super) const FALLBACK_DEAD_LETTERS: &str = "outboxd.dead-letter";

/// Numbers for the names of topics. Memory grows with the number of topics, not with that of rows.
#[derive(Debug, Default)]
pub(super) struct TopicNumbers {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
    /// Rows come in runs of one topic.
    last: u32,
}

impl TopicNumbers {
    /// The number of this name, a new one if need be.
    pub(super) fn number(&mut self, name: &str) -> u32 {
        if self.names.get(self.last as usize).is_some_and(|last| last == name) {
            return self.last;
        }
        if let Some(&number) = self.numbers.get(name) {
            self.last = number;
            return number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        self.last = number;
        number
    }

    /// All names by number.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }
}

/// The text of a template without columns.
pub(super) fn constant(template: &Template) -> Option<String> {
    let text = |part| match part {
        TemplatePart::Text(text) => Some(text),
        TemplatePart::Column(_) => None,
    };
    template.parts.iter().cloned().map(text).collect()
}

/// The name of a dead-letter topic that follows from the topic alone; `None` when columns are part of it.
pub(super) fn dead_letter_topic(template: &Template, topic: &str) -> Option<String> {
    let text = |part| match part {
        TemplatePart::Text(text) => Some(text),
        TemplatePart::Column(column) if column == "topic" => Some(topic.to_owned()),
        TemplatePart::Column(_) => None,
    };
    template.parts.iter().cloned().map(text).collect()
}

/// Whether some row could make this name.
pub(super) fn can_make(template: &Template, name: &str) -> bool {
    matches(&template.parts, name)
}

fn matches(parts: &[TemplatePart], name: &str) -> bool {
    match parts {
        [] => name.is_empty(),
        [TemplatePart::Text(text), rest @ ..] => {
            name.strip_prefix(text.as_str()).is_some_and(|name| matches(rest, name))
        }
        [TemplatePart::Column(_)] => true,
        [TemplatePart::Column(_), rest @ ..] => {
            name.char_indices().map(|(at, _)| at).chain([name.len()]).any(|at| matches(rest, &name[at..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(parts: &[&str]) -> Template {
        let part = |part: &&str| match part.strip_prefix('=') {
            Some(column) => TemplatePart::Column(column.to_owned()),
            None => TemplatePart::Text((*part).to_owned()),
        };
        Template { parts: parts.iter().map(part).collect() }
    }

    #[test]
    fn a_template_makes_the_names_that_its_text_allows() {
        let events = template(&["=aggregate_type", ".events"]);
        assert!(can_make(&events, "order.events") && can_make(&events, ".events"));
        assert!(!can_make(&events, "order.events.dead-letter") && !can_make(&events, "order"));
        let both = template(&["a-", "=x", "-b-", "=y"]);
        assert!(can_make(&both, "a-1-b-2-b-3") && !can_make(&both, "a-1-c-2"));
        assert!(can_make(&template(&["fixed"]), "fixed") && !can_make(&template(&["fixed"]), "fixed2"));
        assert_eq!(constant(&template(&["fixed"])).as_deref(), Some("fixed"));
        assert_eq!(constant(&events), None);
    }

    #[test]
    fn a_dead_letter_topic_follows_from_the_topic_unless_columns_are_in_it() {
        assert_eq!(dead_letter_topic(&template(&["=topic", ".dlq"]), "a").as_deref(), Some("a.dlq"));
        assert_eq!(dead_letter_topic(&template(&["=region", ".dlq"]), "a"), None);
    }

    #[test]
    fn a_name_keeps_its_number() {
        let mut numbers = TopicNumbers::default();
        assert_eq!(["a", "b", "a", "a", "b"].map(|name| numbers.number(name)), [0, 1, 0, 0, 1]);
        assert_eq!(numbers.names(), ["a", "b"]);
    }
}
