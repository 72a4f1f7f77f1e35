//! The topics of a source, as far as they can be known before its rows are published.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use crate::{
    Result,
    config::{
        Mark, OnPoison, Source,
        names::{FALLBACK_TOPIC, check_topic},
    },
    postgres::catalog::{TableInfo, waiting},
};

/// The names that are read of a table's waiting rows, at most.
const MOST: u32 = 1000;

/// The topics of a source whose names follow from the configuration without any row.
#[must_use]
pub(crate) fn constant_topics(source: &Source) -> Vec<String> {
    let mapping = &source.mapping;
    let topic = mapping.topic.constant();
    let mut names: Vec<_> = topic.iter().cloned().collect();
    if source.on_poison == OnPoison::DeadLetter {
        let letters = &mapping.dead_letter_topic;
        let letter = topic.map_or_else(|| letters.constant(), |topic| letters.constant_for(&topic));
        // A row may be so broken that it gives no name for its dead-letter topic.
        names.push(letter.unwrap_or_else(|| FALLBACK_TOPIC.to_owned()));
    }
    names.dedup();
    names
}

/// The topics that the waiting rows of these tables go to, and those of their dead letters.
///
/// # Errors
/// What the server says, for example that the role may not read a table.
pub(crate) async fn topics_of_waiting_rows(
    client: &Client,
    source: &Source,
    tables: &[TableInfo],
) -> Result<Vec<String>> {
    let mapping = &source.mapping;
    if mapping.topic.constant().is_some() {
        return Ok(Vec::new());
    }
    let mark = (source.mark == Mark::Update).then_some(mapping.columns.published_at.as_str());
    let mut names = BTreeSet::new();
    for table in tables {
        let topics = waiting::topics(client, table, &mapping.topic, mark, MOST).await?;
        // A row whose topic cannot exist is poison, and needs none.
        for name in topics.into_iter().filter(|name| can_be_made(name)) {
            if source.on_poison == OnPoison::DeadLetter {
                names.extend(mapping.dead_letter_topic.constant_for(&name).filter(|name| can_be_made(name)));
            }
            names.insert(name);
        }
    }
    Ok(names.into_iter().collect())
}

/// Names that begin with two underscores are the brokers' own.
fn can_be_made(name: &str) -> bool {
    check_topic(name).is_ok() && !name.starts_with("__")
}
