//! Whether the monolith and a service say the same. Both sides give the images that the sync
//! carries, and the images are compared field by field.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Result, bail};
use serde_json::Value;
use tokio_postgres::Client;

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

/// Compares until both sides agree, and fails with a list when they do not.
pub(super) async fn agree(migration: &Migration, kind: Kind, service: Database) -> Result<()> {
    let started = tokio::time::Instant::now();
    loop {
        let (count, found) = differences(&migration.places, kind.name, service).await?;
        if found.is_empty() {
            say(&format!("{count} {} compared: no difference", kind.table));
            return Ok(());
        }
        if started.elapsed() > ARRIVES_WITHIN {
            for line in found.iter().take(SHOWN) {
                say(line);
            }
            bail!("{} differences in {}", found.len(), kind.table);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The differences between the monolith and a service, one line each, and how many were compared.
pub async fn differences(places: &Places, kind: &str, service: Database) -> Result<(usize, Vec<String>)> {
    let old = images(&db::connect(places, Database::Monolith).await?, kind).await?;
    let new = images(&db::connect(places, service).await?, kind).await?;
    let ids: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut lines = Vec::new();
    for id in &ids {
        compare(kind, id, (old.get(*id), new.get(*id)), &mut lines);
    }
    Ok((ids.len(), lines))
}

/// The images by their UUID, without what one side alone can know.
async fn images(client: &Client, kind: &str) -> Result<Images> {
    let rows = client.query(&format!("SELECT {kind}_image(id) FROM {kind}s"), &[]).await?;
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
            lines.push(format!("{kind} {id}: {name} is {} in the monolith, {} in the service", text(left), text(right)));
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
