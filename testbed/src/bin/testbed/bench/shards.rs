//! `--shards`: one table read through several slots, whose publications carry a row filter on a
//! hash of the key.
//!
//! Each shard is a source of its own here, with a topic of its own. Every walsender decodes the
//! whole log, and only then throws away what its filter refuses. So the shards divide the sending
//! and all that follows, but not the decoding.

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    report::Report,
    setting::{Setting, Source, TABLE},
    shape::Shape,
    together::{self, Drained},
};

const COUNTS: [usize; 3] = [1, 2, 4];

pub(crate) async fn measure(setting: &Setting, shape: Shape, report: &mut Report) -> Result<()> {
    let mut found = Vec::new();
    for count in [COUNTS.as_slice(), &COUNTS].concat() {
        let name = format!("shards_{}", found.len());
        found.push((count, run(setting, &name, count, shape).await?));
    }
    let lines = found.iter().map(|(count, drained)| (count.to_string(), drained));
    let table = Drained::table(lines);
    report.section(&format!("Drain of {shape}, by number of shards, two rounds"), table.text());
    let figures: Vec<Value> =
        found.iter().map(|(shards, drained)| json!({"shards": shards, "outboxd": drained.json()})).collect();
    report.figure("shards", figures);
    Ok(())
}

/// Sets up, loads, drains, cleans up.
async fn run(setting: &Setting, database: &str, count: usize, shape: Shape) -> Result<Drained> {
    let client = setting.database(database).await?;
    let sources: Vec<Source> = (0..count).map(|shard| source(database, shard, count)).collect();
    for source in &sources {
        setting.set_up(&client, source).await?;
    }
    shape.load(&client).await?;
    let drained = together::drain(setting, &sources, shape.rows).await?;
    for source in &sources {
        setting.drop_slot(&source.slot()).await?;
        setting.kafka.delete_topic(&source.topic()).await?;
    }
    client.batch_execute(&format!("TRUNCATE {TABLE}; CHECKPOINT")).await?;
    Ok(drained)
}

/// The source of one shard. The publication of a single shard has no filter.
fn source(database: &str, shard: usize, count: usize) -> Source {
    let filter = (count > 1).then(|| format!("uuid_hash(aggregate_id) & {} = {shard}", count - 1));
    Source { filter, ..Source::new(database, &format!("{database}_{shard}"), "none") }
}
