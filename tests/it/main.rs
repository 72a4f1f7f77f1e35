//! Everything that runs against real servers, in one binary.

mod catalog;
mod kafka;
mod sources;
