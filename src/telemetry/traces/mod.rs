//! Tracing: what became of single rows, as spans in the traces that applications began.
//!
//! A row whose record has a header `traceparent` gets two spans: from its commit in Postgres to its
//! commit in Kafka, and from there to its mark. Off by default. The relay gathers the rows
//! (`relay/traced.rs`), and the exporter sends them.

mod exporter;
mod parent;
mod span;

pub(crate) use exporter::Traces;
pub(crate) use parent::Parent;
pub(crate) use span::RowSpan;
