//! Everything that runs against real servers, in one binary.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod kafka;
