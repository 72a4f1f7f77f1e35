//! Everything that runs against real servers, in one binary.

mod catalog;
mod check;
mod cli;
mod faults;
mod kafka;
mod relay;
mod scene;
mod setup;
mod sources;
