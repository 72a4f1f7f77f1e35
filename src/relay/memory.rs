//! What outlives a session: how it ended, and the little that the next one may know of it.

use std::time::SystemTime;

use super::rows::Verdicts;
use crate::{
    kafka::{Batching, PublishFailure},
    outbox::Records,
    source::position::Progress,
};

/// How a session ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The daemon stops, and what was in flight is finished.
    Stopped,
    /// Another session follows at once.
    Again,
    /// Another instance leads.
    StandBy,
}

/// What the next session of this process may know from the last.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The server, as it was when it had shown what was published up to this position; rows were dropped for lack of
    /// room meanwhile, and come again.
    pub(crate) trusted: Option<(ServerLife, Progress)>,
    /// After a batch that Kafka found too large: its records one by one, to learn which of them is.
    pub(crate) batching: Batching,
    /// How far the stream was handed over when that batch was refused: beyond it the rows are not to blame.
    pub(super) suspected: Option<Progress>,
    /// The records that Kafka refused.
    pub(super) verdicts: Verdicts,
}

impl Memory {
    /// Learns from a failed publication. Returns whether rows of it are to blame: the next session then finds them out.
    /// It sends the same batch record by record if need be, and treats as poison what Kafka refused for itself.
    pub(super) fn learn(&mut self, records: &Records, failure: &PublishFailure) -> bool {
        let PublishFailure::Rejected { rows, error, certain } = failure else { return false };
        tracing::warn!(code = error.code().as_str(), rows = rows.len(), certain, "{}", error.detail());
        self.batching = Batching::OneByOne;
        if !certain {
            return true;
        }
        let mut learned = false;
        for record in rows.iter().filter_map(|&row| records.get(row)) {
            learned |= self.verdicts.add(record, error);
        }
        // A verdict that was known and did not help is a reason to stop, not to try for ever.
        learned
    }
}

/// One life of one server: a restored copy is another life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerLife {
    /// From IDENTIFY_SYSTEM.
    pub(crate) system_id: String,
    /// From IDENTIFY_SYSTEM.
    pub(crate) timeline: u32,
    /// `pg_postmaster_start_time()`.
    pub(crate) started: SystemTime,
}
