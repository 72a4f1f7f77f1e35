//! Whether the monolith and a service say the same. Both sides give the images that the sync
//! carries, and the images are compared field by field.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::Value;
use uuid::Uuid;

use super::{Migration, say, sync::Kind};
use crate::{
    db,
    places::{Database, Places},
};

/// What is still on its way is no difference, if it arrives within this time.
const ARRIVES_WITHIN: Duration = Duration::from_secs(20);
/// Differences that are printed.
const SHOWN: usize = 20;

type Images = BTreeMap<String, Value>;

/// Fails with a list when the two sides do not agree. Returns the moment, by the clock of the
/// database that is written, from which on changes have not been compared.
pub(super) async fn agree(migration: &Migration, kind: Kind, service: Database, writer: Database) -> Result<String> {
    let clock = "SELECT localtimestamp::text";
    let moment = migration.connect(writer).await?.query_one(clock, &[]).await?.get(0);
    let (count, found) = lasting(&migration.places, kind.name, service, None).await?;
    conclude(kind, count, &found)?;
    Ok(moment)
}

/// Compares what was changed since that moment, by the images that the writer has sent.
pub(super) async fn agree_since(
    migration: &Migration,
    kind: Kind,
    service: Database,
    (writer, moment): (Database, &str),
) -> Result<()> {
    let changed = "SELECT DISTINCT aggregate_id FROM sync_outbox
                   WHERE event_type = $1 || '_image' AND created_at >= $2::text::timestamp";
    let rows = migration.connect(writer).await?.query(changed, &[&kind.name, &moment]).await?;
    let ids: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    let (count, found) = lasting(&migration.places, kind.name, service, Some(&ids)).await?;
    conclude(kind, count, &found)
}

fn conclude(kind: Kind, count: usize, found: &[String]) -> Result<()> {
    found.iter().take(SHOWN).for_each(|line| say(line));
    ensure!(found.is_empty(), "{} differences in {}", found.len(), kind.table);
    say(&format!("{count} {} compared: no difference", kind.table));
    Ok(())
}

/// The differences that stay, among all rows or these. Customers go on meanwhile, so each look finds
/// something that is on its way. What every look finds is a difference.
pub async fn lasting(
    places: &Places,
    kind: &str,
    service: Database,
    only: Option<&[Uuid]>,
) -> Result<(usize, Vec<String>)> {
    let started = tokio::time::Instant::now();
    let (mut count, mut lasting) = differences(places, kind, service, only).await?;
    while !lasting.is_empty() && started.elapsed() < ARRIVES_WITHIN {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (counted, found) = differences(places, kind, service, only).await?;
        let found: BTreeSet<String> = found.into_iter().collect();
        lasting.retain(|line| found.contains(line));
        count = counted;
    }
    Ok((count, lasting))
}

/// The differences of one look, one line each, and how many were compared.
async fn differences(
    places: &Places,
    kind: &str,
    service: Database,
    only: Option<&[Uuid]>,
) -> Result<(usize, Vec<String>)> {
    let (old, new) =
        tokio::try_join!(images(places, kind, Database::Monolith, only), images(places, kind, service, only))?;
    let ids: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut lines = Vec::new();
    for id in &ids {
        compare(kind, id, (old.get(*id), new.get(*id)), &mut lines);
    }
    Ok((ids.len(), lines))
}

/// The images by their UUID, without what one side alone can know.
async fn images(places: &Places, kind: &str, database: Database, only: Option<&[Uuid]>) -> Result<Images> {
    let client = db::connect(places, database).await?;
    let some = if database == Database::Monolith {
        format!("SELECT {kind}_image(m.serial) FROM id_map m WHERE m.kind = '{kind}' AND m.id = ANY($1)")
    } else {
        format!("SELECT {kind}_image(id) FROM {kind}s WHERE id = ANY($1)")
    };
    let rows = match only {
        Some(ids) => client.query(&some, &[&ids]).await?,
        None => client.query(&format!("SELECT {kind}_image(id) FROM {kind}s"), &[]).await?,
    };
    let mut images = Images::new();
    for row in rows {
        let Some(mut image) = row.get::<_, Option<Value>>(0) else { continue };
        strip(&mut image);
        images.insert(image["id"].as_str().unwrap_or_default().to_owned(), image);
    }
    Ok(images)
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            // The monolith has no snapshots, and the services have no serial numbers.
            fields.retain(|name, _| name != "legacy_id" && name != "snapshot");
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

fn is_gone(image: Option<&Value>) -> bool {
    image.is_none_or(|image| image["deleted"] == true)
}

fn compare(kind: &str, id: &str, (old, new): (Option<&Value>, Option<&Value>), lines: &mut Vec<String>) {
    match (old, new) {
        _ if kind == "user" && is_gone(old) && is_gone(new) => {}
        (Some(old), Some(new)) => fields(kind, id, (old, new), lines),
        (Some(_), None) => lines.push(format!("{kind} {id}: missing in the service")),
        (None, Some(_)) => lines.push(format!("{kind} {id}: missing in the monolith")),
        (None, None) => {}
    }
}

fn fields(kind: &str, id: &str, (old, new): (&Value, &Value), lines: &mut Vec<String>) {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return };
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let (left, right) = (old.get(name), new.get(name));
        if left != right {
            let text = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
            lines.push(format!(
                "{kind} {id}: {name} is {} in the monolith, {} in the service",
                text(left),
                text(right)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(kind: &str, old: Option<Value>, new: Option<Value>) -> Vec<String> {
        let (mut old, mut new) = (old, new);
        old.iter_mut().chain(new.iter_mut()).for_each(strip);
        let mut lines = Vec::new();
        compare(kind, "7b0e", (old.as_ref(), new.as_ref()), &mut lines);
        lines
    }

    #[test]
    fn what_one_side_cannot_know_is_no_difference() {
        let old = json!({ "status": "PAID", "legacy_id": 7, "snapshot": { "customer_name": "then" } });
        let new = json!({ "status": "PAID", "snapshot": { "customer_name": "now" } });
        assert!(lines("order", Some(old), Some(new)).is_empty());
    }

    #[test]
    fn each_field_that_differs_is_a_line() {
        let found = lines("order", Some(json!({ "status": "CREATED" })), Some(json!({ "status": "PAID", "more": 1 })));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[1].contains(r#"status is "CREATED" in the monolith, "PAID" in the service"#), "{found:?}");
    }

    #[test]
    fn a_deleted_user_may_be_gone_on_the_other_side_but_an_order_may_not() {
        assert!(lines("user", None, Some(json!({ "deleted": true }))).is_empty());
        assert_eq!(lines("user", None, Some(json!({ "deleted": false }))).len(), 1);
        assert_eq!(lines("order", Some(json!({})), None).len(), 1);
    }
}
