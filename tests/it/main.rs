//! Everything that runs against real servers, in one binary.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod backfill;
mod catalog;
mod check;
mod cli;
mod faults;
mod kafka;
mod matrix;
mod recover;
mod relay;
mod scene;
mod setup;
mod sources;
mod status;
mod verify;
mod wire;
