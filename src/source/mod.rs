//! What a source is on both servers.

pub mod compare;
pub mod lock;
pub mod position;
pub(crate) mod producers;
pub(crate) mod publication;
pub mod server;
pub mod takeover;
