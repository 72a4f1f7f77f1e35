//! The dual write. Triggers put an image of every change into the monolith's `sync_outbox`, in the
//! transaction of the change; and every row that is there already is put in once.

use anyhow::Result;
use tokio_postgres::Client;

use super::say;

/// A kind of aggregate: its table in the monolith, and the triggers that tell its changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) table: &'static str,
    /// Tables whose changes change the image, with the column of the aggregate's id.
    triggers: &'static [(&'static str, &'static str)],
}

pub(super) const USERS: Kind =
    Kind { name: "user", table: "users", triggers: &[("users", "id"), ("addresses", "user_id")] };
pub(super) const ORDERS: Kind = Kind { name: "order", table: "orders", triggers: &[("orders", "id")] };
pub(super) const SHIPMENTS: Kind = Kind { name: "shipment", table: "shipments", triggers: &[("shipments", "id")] };

/// Rows of one transaction of the first copy.
const CHUNK: i64 = 200;

/// Switches the triggers on, and copies what is there.
pub(super) async fn on(client: &mut Client, kind: Kind) -> Result<()> {
    let transaction = client.transaction().await?;
    for (table, column) in kind.triggers {
        let sql = format!(
            "DROP TRIGGER IF EXISTS {name}_image ON {table};
             CREATE CONSTRAINT TRIGGER {name}_image AFTER INSERT OR UPDATE OR DELETE ON {table}
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
                 EXECUTE FUNCTION emit_image('{name}', '{column}', 'integer')",
            name = kind.name
        );
        transaction.batch_execute(&sql).await?;
    }
    transaction.commit().await?;
    let copied = copy(client, kind).await?;
    let gone = tell_gone(client, kind).await?;
    say(&format!("sync of {}: triggers are on; {copied} rows copied, {gone} told to be gone", kind.table));
    Ok(())
}

/// Copies in chunks. A row is locked while its image is taken. So a change that comes at the same
/// time waits, and its image is committed later: the later image is the newer one.
async fn copy(client: &mut Client, kind: Kind) -> Result<u64> {
    let (mut last, mut copied) = (0_i32, 0);
    loop {
        let transaction = client.transaction().await?;
        let lock = format!("SELECT id FROM {} WHERE id > $1 ORDER BY id LIMIT $2 FOR UPDATE", kind.table);
        let ids: Vec<i32> = transaction.query(&lock, &[&last, &CHUNK]).await?.iter().map(|row| row.get(0)).collect();
        let Some(&highest) = ids.last() else { return Ok(copied) };
        let insert = format!(
            "INSERT INTO sync_outbox (aggregate_type, aggregate_id, event_type, payload)
             SELECT current_database(), (image ->> 'id')::uuid, '{name}_image', image
             FROM unnest($1::int[]) WITH ORDINALITY AS u (id, n), {name}_image(u.id) image
             WHERE image IS NOT NULL ORDER BY n",
            name = kind.name
        );
        copied += transaction.execute(&insert, &[&ids]).await?;
        transaction.commit().await?;
        last = highest;
    }
}

/// Users that were deleted while the sync was off.
async fn tell_gone(client: &Client, kind: Kind) -> Result<u64> {
    if kind.name != "user" {
        return Ok(0);
    }
    let insert = "INSERT INTO sync_outbox (aggregate_type, aggregate_id, event_type, payload)
                  SELECT current_database(), m.id, 'user_image', user_image(m.serial) FROM id_map m
                  WHERE m.kind = 'user' AND NOT EXISTS (SELECT FROM users u WHERE u.id = m.serial)";
    Ok(client.execute(insert, &[]).await?)
}

/// Switches the triggers off.
pub(super) async fn off(client: &Client, kind: Kind) -> Result<()> {
    for (table, _) in kind.triggers {
        client.batch_execute(&format!("DROP TRIGGER IF EXISTS {}_image ON {table}", kind.name)).await?;
    }
    say(&format!("sync of {} is off", kind.table));
    Ok(())
}
