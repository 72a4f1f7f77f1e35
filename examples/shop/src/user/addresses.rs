//! Addresses. Each change raises the version, and the event carries it.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Value, json};
use tokio_postgres::GenericClient;
use uuid::Uuid;

use super::{Users, publish};
use crate::{
    api::Address,
    db, ids,
    web::{Failure, Reply},
};

type App = State<Arc<Users>>;

async fn present(client: &impl GenericClient, id: &str) -> Result<Uuid, Failure> {
    let id = ids::uuid(client, "user", id).await?;
    let query = "SELECT FROM users WHERE id = $1 AND deleted_at IS NULL FOR UPDATE";
    client.query_opt(query, &[&id]).await?.ok_or(Failure::NotFound("user"))?;
    Ok(id)
}

/// Adds an address and tells AddressAdded. The same one again gives the one that is there.
pub(super) async fn add(State(app): App, Path(id): Path<String>, Json(new): Json<Address>) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "users").await?;
    let user = present(&transaction, &id).await?;
    let same = transaction
        .query_opt(
            "SELECT id FROM addresses WHERE user_id = $1 AND address_line1 = $2 AND city = $3 AND pincode = $4
             AND type = $5",
            &[&user, &new.line1, &new.city, &new.pincode, &new.place],
        )
        .await?;
    if let Some(row) = same {
        return Ok(Reply::ok(json!({ "id": row.get::<_, Uuid>(0) })));
    }
    let row = transaction
        .query_one(
            "INSERT INTO addresses (user_id, address_line1, address_line2, city, state, country, pincode, is_default,
                 type)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id",
            &[
                &user,
                &new.line1,
                &new.line2,
                &new.city,
                &new.state,
                &new.country,
                &new.pincode,
                &new.is_default,
                &new.place,
            ],
        )
        .await?;
    let address: Uuid = row.get(0);
    publish(&transaction, "address", user, "AddressAdded", &payload(user, address, &new, 1)).await?;
    transaction.commit().await?;
    Ok(Reply::created(json!({ "id": address, "version": 1 })))
}

/// Overwrites an address and tells AddressUpdated. A version that is not the present one is
/// refused.
pub(super) async fn change(
    State(app): App,
    Path((id, address)): Path<(String, String)>,
    Json(to): Json<Address>,
) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "users").await?;
    let user = present(&transaction, &id).await?;
    let address = ids::uuid(&transaction, "address", &address).await?;
    let row = transaction
        .query_opt("SELECT version FROM addresses WHERE id = $1 AND user_id = $2 FOR UPDATE", &[&address, &user])
        .await?;
    let version: i32 = row.ok_or(Failure::NotFound("address"))?.get(0);
    if to.version.is_some_and(|read| read != version) {
        return Err(Failure::Conflict(format!("the address has version {version}")));
    }
    transaction
        .execute(
            "UPDATE addresses SET address_line1 = $2, address_line2 = $3, city = $4, state = $5, country = $6,
                 pincode = $7, is_default = $8, type = $9, version = version + 1
             WHERE id = $1",
            &[&address, &to.line1, &to.line2, &to.city, &to.state, &to.country, &to.pincode, &to.is_default, &to.place],
        )
        .await?;
    publish(&transaction, "address", user, "AddressUpdated", &payload(user, address, &to, version + 1)).await?;
    transaction.commit().await?;
    Ok(Reply::ok(json!({ "id": address, "version": version + 1 })))
}

fn payload(user: Uuid, address: Uuid, now: &Address, version: i32) -> Value {
    json!({
        "user_id": user, "address_id": address, "version": version, "line1": now.line1, "line2": now.line2,
        "city": now.city, "state": now.state, "country": now.country, "pincode": now.pincode, "type": now.place,
    })
}
