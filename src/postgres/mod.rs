//! Postgres: the wire, and in [`catalog`] what is asked and written in SQL.
//!
//! ```text
//!   URL ─▶ ConnectOptions ─┬─ replication() ──▶ ReplicationClient: slots, identity, history
//!                          │                       └─ start_replication() ──▶ ReplicationStream:
//!                          │                                          messages in, statuses out
//!                          └─ sql(purpose) ───▶ SqlSession (tokio_postgres::Client)
//! ```
//!
//! **In**: a connection URL and a password; commands; standby statuses. **Out**: what the server
//! answers, and the messages of a slot, borrowed from the receive buffer; [`Error`](crate::Error)s
//! that keep the server's own report.
//!
//! Both kinds of session go through one door (`connect`), so hosts, TLS, authentication and
//! run-time parameters are the same for both. tokio-postgres has no replication mode, so the
//! replication client stands on postgres-protocol.
//!
//! What must hold:
//! - no byte is lost and no message torn when a future is dropped, reading or writing;
//! - no allocation and no copy per message in the stream; memory follows what has arrived, up to a
//!   bound, never what a length field claims;
//! - every wait has a bound, except [`ReplicationStream::fill`], for which the caller has
//!   keepalives;
//! - no password in any error or debug output;
//! - nothing here decides about the slot's position: `relay` decides what is confirmed.
//!
//! Pages of the PostgreSQL documentation: "Message Flow", "Message Formats", "SASL Authentication",
//! "Streaming Replication Protocol", "Error and Notice Message Fields", and libpq's "Connection
//! Strings".

pub mod catalog;
mod certificates;
mod client;
mod connect;
mod credentials;
pub(crate) mod farewell;
mod frame;
mod held;
mod login;
mod options;
mod passfile;
mod server_error;
mod session;
mod status;
mod stream;
mod timeline;
mod tls;
mod transport;
mod wire;

pub use client::{CreateSlot, CreatedSlot, ReplicationClient};
pub(crate) use held::HeldStream;
pub use options::ConnectOptions;
pub use server_error::{ServerError, server_error, sql_error, sqlstate};
pub use session::SqlSession;
pub(crate) use status::POSTGRES_EPOCH_US;
pub(crate) use status::StandbyStatus;
pub(crate) use stream::{ReplicationStream, StreamMessage};
pub(crate) use timeline::SystemIdentity;
