//! The migration guide's shop: a monolith, the three services that take its place, and the way from
//! one to the other, on outboxd.
//!
//! | module | what it is |
//! |---|---|
//! | [`monolith`] | the monolith: all three domains in one database |
//! | [`user`], [`order`], [`logistics`] | the services, each with its database, outbox and consumers |
//! | [`partners`] | stand-ins for the Product and Payment services |
//! | [`facade`] | the address that clients know; it routes each domain to the monolith or its service |
//! | [`migrate`] | the six phases, each with its check and its way back |
//! | [`seed`] | users, orders and shipments to begin with |
//! | [`load`] | clients that remember what they were told |
//! | [`page`] | what `shop up` shows in a browser |
//! | [`prove`] | `make shop`: everything at once, and the invariants |
//!
//! Below these stand `places` (where everything is), `db`, `web`, `ids`, `catalogue`, `api`,
//! `outbox` and `password`.

#![forbid(unsafe_code)]

pub mod api;
pub mod catalogue;
pub mod crash;
pub mod db;
pub mod facade;
pub mod ids;
pub mod load;
pub mod logistics;
pub mod migrate;
pub mod monolith;
pub mod order;
pub mod outbox;
pub mod page;
pub mod partners;
pub mod password;
pub mod places;
pub mod prove;
pub mod seed;
pub mod user;
pub mod web;
