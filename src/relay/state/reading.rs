//! What was read and is not cut off as a batch yet.

use std::time::Duration;

use crate::{Lsn, source::position::CommitId};

/// The transaction that is being read.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) final_lsn: Lsn,
    pub(super) xid: u32,
    pub(super) time: i64,
    /// Insert messages so far, before any filtering.
    pub(super) rows: u64,
    /// Whether any of them was a row to publish or to mark, rather than one to pass over.
    pub(super) carries_rows: bool,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ends at or before the position.
    Redelivered,
    /// The split transaction of the position: its first rows are published.
    Resumed,
    /// Behind the position.
    New,
}

/// What was read and not yet cut off as a batch.
#[derive(Debug, Default)]
pub(super) struct Building {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    /// The rows were published before this session.
    pub(super) redelivered: bool,
    /// The last whole transaction in it.
    pub(super) boundary: Option<Boundary>,
    pub(super) oldest: Option<i64>,
    /// When the first row of it became whole, for the linger.
    pub(super) since: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Boundary {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    pub(super) commit: CommitId,
}
