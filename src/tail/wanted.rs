//! Which events a person asked for.

use super::event::{Event, Fate};

/// What to show. An empty list takes everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) topics: Vec<String>,
    pub(crate) keys: Vec<String>,
    pub(crate) types: Vec<String>,
}

impl Wanted {
    /// Whether the event has one of the topics, one of the keys and one of the types. A dead letter
    /// has two topics: its own, and the one that its row was meant for.
    pub(super) fn takes(&self, event: &Event<'_>) -> bool {
        let letter = matches!(event.fate, Fate::DeadLetter(_));
        let topic = |wanted: &str| event.topic() == Some(wanted) || (letter && event.meant_for() == Some(wanted));
        takes(&self.topics, topic)
            && takes(&self.keys, |key| event.record.key == Some(key.as_bytes()))
            && takes(&self.types, |wanted| event.event_type.as_deref() == Some(wanted))
    }
}

fn takes(wanted: &[String], is_it: impl Fn(&str) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(|wanted| is_it(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tail::rows::samples::{self, Sample};

    fn wanted(topics: &[&str], keys: &[&str], types: &[&str]) -> Wanted {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Wanted { topics: owned(topics), keys: owned(keys), types: owned(types) }
    }

    #[test]
    fn every_filter_that_is_given_must_match_exactly() {
        let takes = |wanted: Wanted| samples::with(Sample::Plain, |event| wanted.takes(event));
        assert!(takes(wanted(&[], &[], &[])));
        assert!(takes(wanted(&["order.events"], &["7b0e"], &["OrderCreated"])));
        assert!(takes(wanted(&["other", "order.events"], &[], &[])));
        assert!(!takes(wanted(&["order"], &[], &[])));
        assert!(!takes(wanted(&[], &["7b"], &[])));
        assert!(!takes(wanted(&[], &[], &["ordercreated"])));
        assert!(!takes(wanted(&["order.events"], &["7b0e"], &["OrderShipped"])));
    }

    #[test]
    fn a_row_without_a_key_or_a_type_matches_no_filter_of_it() {
        let takes = |wanted: Wanted| samples::with(Sample::Bare, |event| wanted.takes(event));
        assert!(takes(wanted(&["order.events"], &[], &[])));
        assert!(!takes(wanted(&[], &[""], &[])));
        assert!(!takes(wanted(&[], &[], &[""])));
    }

    #[test]
    fn a_dead_letter_is_found_by_both_its_topics_and_a_row_that_stops_the_source_by_the_one_it_was_meant_for() {
        for (sample, topic, takes) in [
            (Sample::DeadLetter, "letters", true),
            (Sample::DeadLetter, "a/b.events", true),
            (Sample::DeadLetter, "order.events", false),
            (Sample::Stops, "a/b.events", true),
            (Sample::Stops, "letters", false),
        ] {
            let found = samples::with(sample, |event| wanted(&[topic], &["7b0e"], &["OrderCreated"]).takes(event));
            assert_eq!(found, takes, "{sample:?} {topic}");
        }
    }
}
