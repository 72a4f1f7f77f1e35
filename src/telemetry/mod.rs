//! What an operator sees of a running daemon: log lines, metrics, spans, and the state of each
//! source.
//!
//! The relay tells its [`SourceMetrics`] what happened. `/metrics`, `/readyz` and `/status` read
//! the same handles, so they cannot disagree.

pub(crate) mod build;
mod families;
pub(crate) mod history;
pub(crate) mod logs;
mod metrics;
mod shown;
pub(crate) mod traces;
mod view;

pub(crate) use metrics::{Metrics, Outcome, SourceMetrics};
pub(crate) use shown::{Lag, SeenSlot, Sight};
pub(crate) use view::View;
