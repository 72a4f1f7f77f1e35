//! testbed

#![forbid(unsafe_code)]

pub mod artifacts;
pub mod daemon;
mod eventually;
pub mod kafka;
pub mod oracle;
pub mod ports;
pub mod postgres;
mod process;
pub mod proxy;
pub mod reader;
pub mod workload;

pub use daemon::Daemon;
pub use eventually::eventually;
pub use kafka::Kafka;
pub use oracle::{Audit, Expect};
pub use postgres::{Postgres, Version};
pub use proxy::Proxy;
pub use workload::Load;

use std::sync::atomic::{AtomicU32, Ordering};

/// `<prefix>_<process>_<n>_<random>`: a database, slot or topic name that no other test of this machine uses.
#[must_use]
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}_{}_{n}_{:04x}", std::process::id(), fastrand::u16(..))
}
