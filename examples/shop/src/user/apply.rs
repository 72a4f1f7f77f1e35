//! What the monolith has written about users, while it is the writer.

use anyhow::Result;
use deadpool_postgres::Pool;
use inbox::{Event, Handler, Subscription};
use serde_json::json;
use tokio_postgres::Transaction;

use crate::{db, places::Places};

pub(super) fn spawn(places: &Places, pool: &Pool) {
    let subscription = Subscription {
        brokers: places.brokers.clone(),
        consumer: "users-sync".to_owned(),
        topics: vec!["monolith.images".to_owned()],
    };
    tokio::spawn(inbox::run(subscription, pool.clone(), Images));
}

struct Images;

impl Handler for Images {
    fn wants(&self, kind: &str) -> bool {
        kind == "user_image"
    }

    async fn handle(&self, transaction: &Transaction<'_>, event: &Event) -> Result<()> {
        db::applying(transaction).await?;
        let image = &event.data;
        let user = event.uuid("id")?;
        if image["deleted"] == json!(true) {
            let delete = "UPDATE users SET deleted_at = CURRENT_TIMESTAMP, email = 'deleted-' || id || '@invalid'
        WHERE id = $1 AND deleted_at IS NULL";
            transaction.execute(delete, &[&user]).await?;
            return Ok(());
        }
        transaction
            .execute(
                "INSERT INTO users SELECT i.* FROM jsonb_populate_record(NULL::users, $1) i
                 ON CONFLICT (id) DO UPDATE SET email = excluded.email, password_hash = excluded.password_hash,
                     first_name = excluded.first_name, last_name = excluded.last_name, phone = excluded.phone,
                     is_verified = excluded.is_verified, updated_at = excluded.updated_at",
                &[image],
            )
            .await?;
        transaction
            .execute(
                "INSERT INTO addresses SELECT i.id, $2, i.address_line1, i.address_line2, i.city, i.state, i.country,
                     i.pincode, i.is_default, i.type, i.created_at, 1
                 FROM jsonb_populate_recordset(NULL::addresses, $1::jsonb -> 'addresses') i
                 ON CONFLICT (id) DO UPDATE SET address_line1 = excluded.address_line1,
                     address_line2 = excluded.address_line2, city = excluded.city, state = excluded.state,
                     country = excluded.country, pincode = excluded.pincode, is_default = excluded.is_default,
                     type = excluded.type, version = addresses.version + 1
                 WHERE (addresses.address_line1, addresses.address_line2, addresses.city, addresses.state,
                        addresses.country, addresses.pincode, addresses.is_default, addresses.type)
                     IS DISTINCT FROM (excluded.address_line1, excluded.address_line2, excluded.city, excluded.state,
                        excluded.country, excluded.pincode, excluded.is_default, excluded.type)",
                &[image, &user],
            )
            .await?;
        transaction
            .execute(
                "INSERT INTO legacy_ids
                 SELECT * FROM (SELECT 'user', ($1::jsonb ->> 'legacy_id')::int, ($1::jsonb ->> 'id')::uuid
                     UNION ALL SELECT 'address', (a ->> 'legacy_id')::int, (a ->> 'id')::uuid
                     FROM jsonb_array_elements($1::jsonb -> 'addresses') a) ids (kind, serial, id)
                 WHERE serial IS NOT NULL ON CONFLICT DO NOTHING",
                &[image],
            )
            .await?;
        Ok(())
    }
}
