//! Everything that runs against real servers, in one binary.

mod cli;
mod faults;
mod kafka;
mod relay;
mod scene;
