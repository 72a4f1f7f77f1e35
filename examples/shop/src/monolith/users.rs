//! Register, log in, profile, addresses, delete.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::json;
use tokio_postgres::GenericClient;

use super::Monolith;
use crate::{
    api::{Address, Credentials, NewUser, Profile},
    db, ids, password,
    web::{Failure, Reply},
};

type App = State<Arc<Monolith>>;

/// A user that is here, and was not deleted in the service in the meantime.
const PRESENT: &str =
    "NOT EXISTS (SELECT FROM id_map m WHERE m.kind = 'user' AND m.serial = u.id AND m.gone_at IS NOT NULL)";

/// Makes a user. Registering again with the same password gives the same user.
pub(super) async fn register(State(app): App, Json(new): Json<NewUser>) -> Result<Reply, Failure> {
    let hash = password::hash(new.password.clone()).await?;
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "users").await?;
    let made = transaction
        .query_opt(
            "INSERT INTO users (email, password_hash, first_name, last_name, phone) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (email) DO NOTHING RETURNING id",
            &[&new.email, &hash, &new.first_name, &new.last_name, &new.phone],
        )
        .await?;
    transaction.commit().await?;
    if let Some(row) = made {
        return Ok(Reply::created(json!({ "id": row.get::<_, i32>(0) })));
    }
    match check(&**client, &new.email, new.password).await? {
        Some(id) => Ok(Reply::ok(json!({ "id": id }))),
        None => Err(Failure::Conflict("this email is taken".to_owned())),
    }
}

/// Tells who it is.
pub(super) async fn login(State(app): App, Json(given): Json<Credentials>) -> Result<Reply, Failure> {
    let client = app.pool.get().await?;
    let id = check(&**client, &given.email, given.password).await?.ok_or(Failure::Unauthorized)?;
    Ok(Reply::ok(json!({ "user_id": id })))
}

async fn check(client: &impl GenericClient, email: &str, password: String) -> Result<Option<i32>, Failure> {
    let query = format!("SELECT u.id, u.password_hash FROM users u WHERE u.email = $1 AND {PRESENT}");
    let Some(row) = client.query_opt(&query, &[&email]).await? else { return Ok(None) };
    Ok(password::is_right(password, row.get(1)).await?.then(|| row.get(0)))
}

/// The profile with the addresses.
pub(super) async fn show(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let client = app.pool.get().await?;
    let id = ids::serial(&**client, "user", &id).await?;
    let query = format!(
        "SELECT (to_jsonb(u) - 'password_hash' || jsonb_build_object('addresses', coalesce(
             (SELECT jsonb_agg(to_jsonb(a) - 'user_id' ORDER BY a.id) FROM addresses a WHERE a.user_id = u.id),
             '[]')))::text
         FROM users u WHERE u.id = $1 AND {PRESENT}"
    );
    let row = client.query_opt(&query, &[&id]).await?.ok_or(Failure::NotFound("user"))?;
    Ok(Reply::ok(row.get::<_, String>(0)))
}

/// Changes names and phone.
pub(super) async fn change(State(app): App, Path(id): Path<String>, Json(to): Json<Profile>) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "users").await?;
    let id = present(&transaction, &id).await?;
    let update = "UPDATE users SET first_name = $2, last_name = $3, phone = $4, updated_at = CURRENT_TIMESTAMP
                  WHERE id = $1";
    transaction.execute(update, &[&id, &to.first_name, &to.last_name, &to.phone]).await?;
    transaction.commit().await?;
    Ok(Reply::ok(json!({ "id": id })))
}

async fn present(client: &impl GenericClient, id: &str) -> Result<i32, Failure> {
    let id = ids::serial(client, "user", id).await?;
    let query = format!("SELECT FROM users u WHERE u.id = $1 AND {PRESENT} FOR UPDATE");
    client.query_opt(&query, &[&id]).await?.ok_or(Failure::NotFound("user"))?;
    Ok(id)
}

/// Adds an address. The same one again gives the one that is there.
pub(super) async fn add_address(
    State(app): App,
    Path(id): Path<String>,
    Json(new): Json<Address>,
) -> Result<Reply, Failure> {
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
        return Ok(Reply::ok(json!({ "id": row.get::<_, i32>(0) })));
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
    transaction.commit().await?;
    Ok(Reply::created(json!({ "id": row.get::<_, i32>(0) })))
}

/// Overwrites an address.
pub(super) async fn change_address(
    State(app): App,
    Path((id, address)): Path<(String, String)>,
    Json(to): Json<Address>,
) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "users").await?;
    let user = present(&transaction, &id).await?;
    let address = ids::serial(&transaction, "address", &address).await?;
    let changed = transaction
        .execute(
            "UPDATE addresses SET address_line1 = $3, address_line2 = $4, city = $5, state = $6, country = $7,
                 pincode = $8, is_default = $9, type = $10
             WHERE id = $1 AND user_id = $2",
            &[
                &address,
                &user,
                &to.line1,
                &to.line2,
                &to.city,
                &to.state,
                &to.country,
                &to.pincode,
                &to.is_default,
                &to.place,
            ],
        )
        .await?;
    if changed == 0 {
        return Err(Failure::NotFound("address"));
    }
    transaction.commit().await?;
    Ok(Reply::ok(json!({ "id": address })))
}

/// Deletes a user with the addresses. The foreign key of orders forbids it for one who has ordered.
pub(super) async fn delete(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "users").await?;
    let id = present(&transaction, &id).await?;
    if transaction.query_opt("SELECT FROM orders WHERE user_id = $1 LIMIT 1", &[&id]).await?.is_some() {
        return Err(Failure::Conflict("this user has orders".to_owned()));
    }
    transaction.execute("DELETE FROM users WHERE id = $1", &[&id]).await?;
    transaction.commit().await?;
    Ok(Reply::ok(json!({ "id": id })))
}
