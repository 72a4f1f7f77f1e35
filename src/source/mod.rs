//! What a source is on both servers.

pub mod compare;
pub mod facts;
pub mod lock;
pub mod newest;
pub mod position;
pub(crate) mod producers;
pub(crate) mod publication;
#[cfg(test)]
pub(crate) mod samples;
pub mod server;
pub mod standing;
pub mod takeover;
pub(crate) mod verdict;
