//! The Order service: create, confirm, cancel, complete, history.
//!
//! ```text
//!   POST /orders ─▶ order CREATED + OrderCreated + saga RESERVE          (one transaction)
//!   saga          ─▶ RESERVE ─▶ PAY ─▶ CONFIRM ─▶ SHIP ─▶ completed      (each step, one transaction)
//!                       │        │                  │
//!                       ▼        ▼                  ▼ ShipmentReturned
//!                     CANCEL ◀─ RELEASE ◀────────── REFUND               ─▶ compensated
//!   shipment.events ─▶ SHIPPED, COMPLETED, or a saga of kind `return`
//! ```

mod apply;
mod change;
mod create;
mod follow;
mod saga;
mod show;
mod steps;

use std::sync::Arc;

use anyhow::Result;
use axum::{
    Router,
    routing::{get, post},
};
use deadpool_postgres::Pool;
use tokio::sync::Notify;

use crate::{
    db,
    places::{Database, Places},
    web::{self, Http},
};

/// What handlers, consumers and the saga share.
pub(crate) struct Orders {
    pool: Pool,
    http: Http,
    /// Users and shipments are asked for here, wherever they are at present.
    facade: String,
    partners: String,
    /// Wakes the saga when there is something new to do.
    wake: Notify,
}

/// Serves until the process ends.
pub async fn run(places: &Places) -> Result<()> {
    let pool = db::pool(places, Database::Order)?;
    db::await_tables(&pool).await;
    let app = Arc::new(Orders {
        pool: pool.clone(),
        http: Http::default(),
        facade: places.facade.clone(),
        partners: places.partners.clone(),
        wake: Notify::new(),
    });
    apply::spawn(places, &pool);
    follow::spawn(places, &app);
    tokio::spawn(saga::run(app.clone()));
    let router = Router::new()
        .route("/orders", post(create::create))
        .route("/orders/{id}", get(show::details))
        .route("/orders/{id}/history", get(show::history))
        .route("/users/{id}/orders", get(show::of_user))
        .route("/orders/{id}/confirm", post(change::confirm))
        .route("/orders/{id}/cancel", post(change::cancel))
        .route("/orders/{id}/complete", post(change::complete))
        .with_state(app);
    web::serve(&places.order, router).await
}
