//! Topic and key templates, bound to the columns of a table.

use super::{
    binding::UsedColumn,
    cell::Text,
    poison::{Poison, PoisonReason},
};
use crate::config::names::{self, IllegalTopic};

/// A piece of a bound template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(Box<str>),
    Column(UsedColumn),
    /// `{topic}` in the dead-letter template: the topic that the row was meant for.
    Topic,
}

/// The column, when the template is one column and nothing else.
pub(super) fn only_column(parts: &[Part]) -> Option<UsedColumn> {
    match parts {
        [Part::Column(used)] => Some(*used),
        _ => None,
    }
}

/// Checks that a record may go to a topic of this name. Beyond Kafka's own rules, names that start
/// with two underscores are the brokers' own, and the position topic is ours alone (rule 3).
pub(super) fn check_topic(name: &str, position_topic: &str) -> Result<(), Poison> {
    let what = match names::check_topic(name) {
        Err(IllegalTopic::Empty) => "is empty".to_owned(),
        Err(IllegalTopic::TooLong) => format!("has {} bytes, more than {}", name.len(), names::TOPIC_BYTES),
        Err(IllegalTopic::Characters) => "is not a legal name (letters, digits, '.', '_' and '-')".to_owned(),
        Ok(()) if name.starts_with("__") => "is reserved for the brokers".to_owned(),
        Ok(()) if name == position_topic => "is the position topic".to_owned(),
        Ok(()) => return Ok(()),
    };
    let mut shown: String = name.chars().take(64).collect();
    if shown.len() < name.len() {
        shown.push('…');
    }
    Err(Poison::new(PoisonReason::TopicInvalid, format!("topic {shown:?} {what}")))
}

/// Gives the template's text to `put`, piece by piece. `column` reads a column, and `{topic}`
/// stands for `topic`.
pub(super) fn render<'a>(
    parts: &[Part],
    topic: &str,
    column: impl Fn(UsedColumn) -> Result<Option<Text<'a>>, Poison>,
    mut put: impl FnMut(&str),
) -> Result<(), Rendering> {
    for part in parts {
        match part {
            Part::Text(text) => put(text),
            Part::Topic => put(topic),
            Part::Column(used) => put(&column(*used)?.ok_or(Rendering::Null(*used))?),
        }
    }
    Ok(())
}

/// Why a template gave no text.
pub(super) enum Rendering {
    /// This column is NULL.
    Null(UsedColumn),
    /// A column cannot be read.
    Poison(Poison),
}

impl From<Poison> for Rendering {
    fn from(poison: Poison) -> Self {
        Self::Poison(poison)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_what_kafka_allows_and_nothing_of_its_own_or_ours() {
        let long = "x".repeat(249);
        for name in ["order.events", "A-b_c.9", "...", "_x", &long] {
            assert_eq!(check_topic(name, "outboxd.positions"), Ok(()), "{name}");
        }
        let longer = "x".repeat(250);
        for name in ["", ".", "..", "a b", "a/b", "é", "__consumer_offsets", "outboxd.positions", &longer] {
            let refused = check_topic(name, "outboxd.positions").unwrap_err();
            assert_eq!(refused.reason, PoisonReason::TopicInvalid, "{name}");
        }
    }
}
