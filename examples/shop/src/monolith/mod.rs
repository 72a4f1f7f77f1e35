//! The monolith: users, orders and logistics in one database, with direct calls and transactions
//! across all three.
//!
//! The migration adds three things to it. Each write asks `module_state` whether the module still
//! belongs here. The logistics module tells others by events once orders are written elsewhere. And
//! [`apply`] takes what the services have written, so that every phase has a way back.

mod apply;
mod orders;
mod shipments;
mod users;

use std::sync::Arc;

use anyhow::Result;
use axum::{
    Router,
    routing::{get, post, put},
};
use deadpool_postgres::Pool;

use crate::{
    db,
    places::{Database, Places},
    web::{self, Http},
};

/// What the handlers share.
pub(crate) struct Monolith {
    pool: Pool,
    http: Http,
    /// Where the User service is asked about users whose rows have not arrived yet.
    facade: String,
}

/// Serves until the process ends.
pub async fn run(places: &Places) -> Result<()> {
    let pool = db::pool(places, Database::Monolith)?;
    let monolith = Arc::new(Monolith { pool: pool.clone(), http: Http::default(), facade: places.facade.clone() });
    apply::spawn(places, &pool);
    web::serve(&places.monolith, router(monolith)).await
}

fn router(monolith: Arc<Monolith>) -> Router {
    Router::new()
        .route("/users", post(users::register))
        .route("/login", post(users::login))
        .route("/users/{id}", get(users::show).put(users::change).delete(users::delete))
        .route("/users/{id}/addresses", post(users::add_address))
        .route("/users/{id}/addresses/{address}", put(users::change_address))
        .route("/users/{id}/orders", get(orders::of_user))
        .route("/orders", post(orders::create))
        .route("/orders/{id}", get(orders::show))
        .route("/orders/{id}/history", get(orders::history))
        .route("/orders/{id}/confirm", post(orders::confirm))
        .route("/orders/{id}/cancel", post(orders::cancel))
        .route("/orders/{id}/complete", post(orders::complete))
        .route("/summary", get(orders::summary))
        .route("/shipments/{id}", get(shipments::show))
        .route("/shipments/by-order/{order}", get(shipments::by_order))
        .route("/track/{number}", get(shipments::track))
        .route("/shipments/{id}/assign", post(shipments::assign))
        .route("/shipments/{id}/dispatch", post(shipments::dispatch))
        .route("/shipments/{id}/attempts", post(shipments::attempt))
        .route("/shipments/{id}/deliver", post(shipments::deliver))
        .route("/shipments/{id}/return", post(shipments::give_back))
        .with_state(monolith)
}
