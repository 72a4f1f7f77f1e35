//! `outboxd` carries the rows of a Postgres outbox table to Kafka: each exactly once, keyed, in commit order.

pub mod check;
pub mod cli;
pub mod config;
pub mod error;
pub mod http;
pub mod kafka;
mod lsn;
pub mod outbox;
pub mod pgoutput;
pub mod postgres;
pub mod relay;
pub mod setup;
pub mod telemetry;

pub use config::Config;
pub use error::{Class, Code, Error, Result};
pub use lsn::Lsn;
