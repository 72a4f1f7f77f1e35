//! The User service: register, log in, profile, addresses, delete. Each change puts its event into
//! `user_outbox` in the same transaction.

mod accounts;
mod addresses;
mod apply;

pub use accounts::purge;

use std::sync::Arc;

use anyhow::Result;
use axum::{
    Router,
    routing::{get, post, put},
};
use deadpool_postgres::Pool;
use serde_json::Value;
use tokio_postgres::GenericClient;
use uuid::Uuid;

use crate::{
    db,
    outbox::{self, Event},
    places::{Database, Places},
    web,
};

/// What the handlers share.
pub(crate) struct Users {
    pool: Pool,
}

/// Serves until the process ends.
pub async fn run(places: &Places) -> Result<()> {
    let pool = db::pool(places, Database::User)?;
    db::await_tables(&pool).await;
    apply::spawn(places, &pool);
    let router = Router::new()
        .route("/users", post(accounts::register))
        .route("/login", post(accounts::login))
        .route("/users/{id}", get(accounts::show).put(accounts::change).delete(accounts::delete))
        .route("/users/{id}/addresses", post(addresses::add))
        .route("/users/{id}/addresses/{address}", put(addresses::change))
        .with_state(Arc::new(Users { pool }));
    web::serve(&places.user, router).await
}

/// The key is the user, also for an event of an address: what happens to a user keeps its order.
async fn publish(
    transaction: &impl GenericClient,
    aggregate_type: &str,
    user: Uuid,
    event_type: &str,
    payload: &Value,
) -> Result<(), tokio_postgres::Error> {
    let event = Event { aggregate_type, aggregate_id: user, event_type, payload };
    outbox::publish(transaction, "user_outbox", &event).await
}
