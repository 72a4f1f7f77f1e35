//! The topics of a source, as far as they can be known before its rows are published.

use std::{collections::BTreeMap, time::Duration};

use tokio_postgres::Client;

use crate::{
    Result,
    config::{
        Mark, OnPoison, Source,
        names::{FALLBACK_TOPIC, check_topic},
    },
    postgres::catalog::{
        TableInfo,
        waiting::{Waiting, waiting},
    },
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

/// The topics that the waiting rows of these tables go to, and those of their dead letters, with the
/// age of the oldest row of each.
///
/// # Errors
/// What the server says, for example that the role may not read a table.
pub(crate) async fn topics_of_waiting_rows(
    client: &Client,
    source: &Source,
    tables: &[TableInfo],
) -> Result<BTreeMap<String, Option<Duration>>> {
    let mapping = &source.mapping;
    let mut found = BTreeMap::new();
    for table in tables {
        let waiting = waiting(client, table, mapping, source.mark == Mark::Update, MOST).await?;
        // A row whose topic cannot exist is poison, and needs none.
        for Waiting { topic, oldest } in waiting.into_iter().filter(|waiting| can_be_made(&waiting.topic)) {
            if source.on_poison == OnPoison::DeadLetter
                && let Some(letters) = mapping.dead_letter_topic.constant_for(&topic).filter(|name| can_be_made(name))
            {
                // A dead letter has the time of sending.
                found.entry(letters).or_insert(None);
            }
            let age = found.entry(topic).or_insert(None);
            *age = (*age).max(oldest);
        }
    }
    Ok(found)
}

/// Names that begin with two underscores are the brokers' own.
fn can_be_made(name: &str) -> bool {
    check_topic(name).is_ok() && !name.starts_with("__")
}
