//! Accounts: register, log in, profile, delete, and the purge of what was deleted long ago.

use std::sync::Arc;

use anyhow::Result;
use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::json;
use tokio_postgres::{Client, GenericClient};
use uuid::Uuid;

use super::{Users, publish};
use crate::{
    api::{Credentials, NewUser, Profile},
    db, ids, password,
    web::{Failure, Reply},
};

type App = State<Arc<Users>>;

/// Makes a user and tells UserCreated. Registering again with the same password gives the same
/// user.
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
    if let Some(row) = made {
        let id: Uuid = row.get(0);
        let name = format!("{} {}", new.first_name, new.last_name);
        let payload = json!({ "user_id": id, "email": new.email, "name": name });
        publish(&transaction, "user", id, "UserCreated", &payload).await?;
        transaction.commit().await?;
        return Ok(Reply::created(json!({ "id": id })));
    }
    drop(transaction);
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

async fn check(client: &impl GenericClient, email: &str, password: String) -> Result<Option<Uuid>, Failure> {
    let query = "SELECT id, password_hash FROM users WHERE email = $1 AND deleted_at IS NULL";
    let Some(row) = client.query_opt(query, &[&email]).await? else { return Ok(None) };
    Ok(password::is_right(password, row.get(1)).await?.then(|| row.get(0)))
}

/// The profile with the addresses.
pub(super) async fn show(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let client = app.pool.get().await?;
    let id = ids::uuid(&**client, "user", &id).await?;
    let row = client
        .query_opt(
            "SELECT (to_jsonb(u) - 'password_hash' - 'deleted_at' || jsonb_build_object('addresses', coalesce(
                 (SELECT jsonb_agg(to_jsonb(a) - 'user_id' ORDER BY a.id) FROM addresses a WHERE a.user_id = u.id),
                 '[]')))::text
             FROM users u WHERE u.id = $1 AND u.deleted_at IS NULL",
            &[&id],
        )
        .await?;
    Ok(Reply::ok(row.ok_or(Failure::NotFound("user"))?.get::<_, String>(0)))
}

/// Changes names and phone. The guide has no event for that: nobody outside keeps them up to date.
pub(super) async fn change(State(app): App, Path(id): Path<String>, Json(to): Json<Profile>) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "users").await?;
    let id = ids::uuid(&transaction, "user", &id).await?;
    let changed = transaction
        .execute(
            "UPDATE users SET first_name = $2, last_name = $3, phone = $4, updated_at = CURRENT_TIMESTAMP
             WHERE id = $1 AND deleted_at IS NULL",
            &[&id, &to.first_name, &to.last_name, &to.phone],
        )
        .await?;
    if changed == 0 {
        return Err(Failure::NotFound("user"));
    }
    transaction.commit().await?;
    Ok(Reply::ok(json!({ "id": id })))
}

/// Marks a user as deleted and tells UserDeleted. The email is free again at once; the row goes with
/// [`purge`].
pub(super) async fn delete(State(app): App, Path(id): Path<String>) -> Result<Reply, Failure> {
    let mut client = app.pool.get().await?;
    let transaction = db::begin(&mut client).await?;
    db::require(&transaction, "users").await?;
    let id = ids::uuid(&transaction, "user", &id).await?;
    let delete = "UPDATE users SET deleted_at = CURRENT_TIMESTAMP, email = 'deleted-' || id || '@invalid'
        WHERE id = $1 AND deleted_at IS NULL";
    if transaction.execute(delete, &[&id]).await? == 0 {
        return Err(Failure::NotFound("user"));
    }
    publish(&transaction, "user", id, "UserDeleted", &json!({ "user_id": id })).await?;
    transaction.commit().await?;
    Ok(Reply::ok(json!({ "id": id })))
}

/// Removes the rows of users who were deleted so many days ago, with their addresses: the eventual
/// cleanup after soft deletes. Returns how many.
pub async fn purge(client: &Client, days: i32) -> Result<u64> {
    let delete = "DELETE FROM users WHERE deleted_at <= CURRENT_TIMESTAMP - make_interval(days => $1)";
    Ok(client.execute(delete, &[&days]).await?)
}
