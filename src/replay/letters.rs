//! The rows that went to a dead-letter topic. Their tables do not tell them from other rows that are
//! marked, so their letters have to.

use std::collections::BTreeSet;

use super::blocking;
use crate::{
    Code, Error, Result,
    config::{Envelope, Kafka, Source, names::FALLBACK_TOPIC},
    kafka::topic_reader::{Seen, Span, TopicReader},
    outbox::MEANT_FOR,
};

/// More rows than this are no work for a list of ids.
const MOST: usize = 50_000;

/// The header that a dead letter has, and no other record.
const ERROR_CODE: &str = "outboxd_error_code";

/// What the dead-letter topics hold.
#[derive(Debug, Default)]
pub(super) struct Letters {
    /// The ids of the rows of this source.
    pub(super) ids: BTreeSet<String>,
    /// Letters that were meant for topics which the source's template does not make.
    pub(super) others: u64,
}

/// Reads the letters of this source.
///
/// # Errors
/// [`Code::ReplayRefused`]: there are too many; what an unreachable server or a missing right brings.
pub(super) async fn read(source: &Source, kafka: &Kafka) -> Result<Letters> {
    let (source, kafka) = (source.clone(), kafka.clone());
    blocking(move || {
        let reader = TopicReader::open(&kafka, "replay")?;
        let mut letters = Letters::default();
        for (topic, partitions) in reader.topics()? {
            if topic != FALLBACK_TOPIC && !source.mapping.dead_letter_topic.can_make(&topic) {
                continue;
            }
            let mut spans = reader.spans(&topic, &partitions)?;
            // What is not committed yet is of rows that are not marked yet.
            let ends = reader.stable_ends(&topic, &spans)?;
            spans.iter_mut().zip(ends).for_each(|(span, end): (&mut Span, _)| span.end = end.max(span.first));
            reader.read(&topic, &spans, &mut |seen| {
                letters.take(seen, &source);
                if letters.ids.len() <= MOST {
                    return Ok(());
                }
                let text = format!("the dead-letter topics hold more than {MOST} rows: choose with --id instead");
                Err(Error::new(Code::ReplayRefused, text))
            })?;
        }
        Ok(letters)
    })
    .await
}

impl Letters {
    /// Sources may share a topic for letters, and their ids may be the same numbers. What tells them
    /// apart is the topic that a letter was meant for.
    fn take(&mut self, letter: &Seen<'_>, source: &Source) {
        if letter.header(ERROR_CODE).is_none() {
            return;
        }
        let text = |name: &str| letter.header(name).and_then(|value| std::str::from_utf8(value).ok());
        if text(MEANT_FOR).is_some_and(|topic| !source.mapping.topic.can_make(topic)) {
            self.others += 1;
            return;
        }
        let router = matches!(source.mapping.envelope, Envelope::Debezium(_)).then(|| text("id")).flatten();
        self.ids.extend(text("event_id").or(router).map(str::to_owned));
    }
}
