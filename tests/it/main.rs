//! Everything that runs against real servers, in one binary.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod backfill;
mod catalog;
mod check;
mod children;
mod cli;
mod credentials;
mod documented;
mod faults;
mod hot;
mod joining;
mod kafka;
mod lag;
mod looks;
mod marks;
mod matrix;
mod overlaps;
mod page;
mod prometheus;
mod recover;
mod relay;
mod retention;
mod runbook;
mod scene;
mod sessions;
mod settings;
mod setup;
mod sources;
mod status;
mod telling;
mod topics;
mod unsent;
mod until_idle;
mod verify;
mod wire;
