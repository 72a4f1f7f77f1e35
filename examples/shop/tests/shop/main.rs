//! The shop on real servers. Each test that needs everything starts everything.

mod composition;
mod events;
mod inbox;
mod page;
mod phases;
mod saga;
mod scene;
mod schemas;
mod table;
mod tutorial;
