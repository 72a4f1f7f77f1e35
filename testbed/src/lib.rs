//! Real Postgres and Kafka servers for the tests, the benches and the demo of outboxd, and an
//! oracle that judges what it did.
//!
//! ```ignore
//! let postgres = Postgres::shared(Version::V15).await?;           // or start(…) for one to stop, pause and kill
//! let kafka = Kafka::shared().await?;
//! let database = postgres.fresh_database("order").await?;
//! let topic = kafka.fresh_topic("order.events", 3).await?;
//! let client = postgres.client(&database).await?;
//! workload::create_outbox(&client, "order_outbox").await?;
//! let load = Load::builder(&postgres.url(&database), "order_outbox", "order").start();
//! let daemon = Daemon::builder(env!("CARGO_BIN_EXE_outboxd"))?.args(&["run", "--config", "{config}"]).config(&text).start()?;
//! daemon.wait_for_line(|line| line.contains("streaming"), Duration::from_secs(10)).await?;
//! load.stop().await?;
//! eventually(Duration::from_secs(30), async || match oracle::audit(&client, Expect::Tables(&["order_outbox"]),
//!     &kafka.brokers(), &[&topic]).await { Ok(a) if a.is_clean() => Ok(()), other => Err(format!("{other:?}")) }).await;
//! ```
//!
//! | module | what it gives |
//! |---|---|
//! | [`postgres`] | [`Postgres`]: majors 15 to 18; settings, pg_hba lines, TLS; every way to stop; standbys, restored disks |
//! | [`kafka`] | [`Kafka`]: KRaft, one broker or several; topics; stop, kill, pause each broker; [`kafka::wire`]: faults at one request; [`kafka::rights`]: users and ACLs |
//! | [`daemon`] | [`Daemon`]: the binary under test, its lines, signals, exit code, HTTP and memory |
//! | [`prometheus`] | [`Prometheus`]: the real server; what it scrapes, its alerts, its queries |
//! | [`proxy`] | [`Proxy`]: delay, hold, drop, cut, reset, slice, limit |
//! | [`clock`] | [`Clock`]: a daemon's wall clock, to be set while it runs |
//! | [`disk`] | [`SmallDisk`]: a disk to be filled up |
//! | [`documents`] | what the documentation shows, held to what the program does |
//! | [`workload`] | the seed's outbox table, and [`Load`]: writers with rollbacks, savepoints and dying servers |
//! | [`reader`] | what a `read_committed` consumer sees, at once or as it comes |
//! | [`oracle`] | [`Audit`]: are the records exactly the rows, once each, in order, all marked? |
//! | [`artifacts`] | downloads (Maven), cached in `$TESTBED_CACHE` or `target/testbed-cache` |
//!
//! **Nothing is left behind**, in whatever way a test ends, even by `kill -9`: see `process.rs`.
//! When we are root, Postgres runs as `postgres` or `nobody`.
//!
//! **Shared servers** live until the test process ends and belong to no runtime, so every
//! `#[tokio::test]` may use them. `TESTBED_POSTGRES_URL` (a superuser's) and
//! `TESTBED_KAFKA_BROKERS` name running servers that take their place, and
//! `cargo run -p testbed -- up` starts such servers. Servers that a test starts for itself are
//! always its own.

#![forbid(unsafe_code)]

pub mod artifacts;
mod browser;
pub mod clock;
pub mod daemon;
pub mod disk;
pub mod documents;
mod eventually;
pub mod kafka;
pub mod oracle;
mod pooler;
pub mod ports;
pub mod postgres;
mod process;
pub mod prometheus;
pub mod proxy;
pub mod reader;
pub mod workload;

pub use browser::Browser;
pub use clock::Clock;
pub use daemon::Daemon;
pub use disk::SmallDisk;
pub use eventually::eventually;
pub use kafka::Kafka;
pub use oracle::{Audit, Expect};
pub use pooler::Pooler;
pub use postgres::{Postgres, Version};
pub use prometheus::Prometheus;
pub use proxy::Proxy;
pub use workload::Load;

use std::sync::atomic::{AtomicU32, Ordering};

/// `<prefix>_<process>_<n>_<random>`: a database, slot or topic name that no other test of this
/// machine uses.
#[must_use]
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}_{}_{n}_{:04x}", std::process::id(), fastrand::u16(..))
}
