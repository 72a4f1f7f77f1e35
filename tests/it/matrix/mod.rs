//! The fault matrix: one test or more for each number of `docs/fault-matrix.md`, a file per family. Every test ends with
//! the oracle, or with the exact code with which the source halts.

mod brokers;
mod clock;
mod failover;
mod instances;
mod kafka;
mod network;
mod poison;
mod postgres;
mod refused;
mod relays;
pub(crate) mod restored;
mod resumed;
mod rights;
mod rows;
mod schema;
mod table;
mod times;
mod wire_faults;
mod zombies;
