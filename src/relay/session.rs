//! One session of a source: from fresh connections to the first error, or to the end of the daemon.
//!
//! `start` takes the slot, fences the predecessor and reads the position, in that order; `stream` relays until
//! something ends it. What must outlive a session, and may, is in [`Memory`].

use std::time::SystemTime;

use super::{rows::TooLarge, start::Start, stream::Stream, supervisor::Context};
use crate::{Result, kafka::Batching, relay::startup::Step, telemetry::SourceState};

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
    /// The server, as it was when it had shown the last published commit; rows were dropped for lack of room meanwhile,
    /// and come again.
    pub trusted: Option<ServerLife>,
    /// After a batch that Kafka found too large: its records one by one, to learn which of them is.
    pub batching: Batching,
    /// The records that were.
    pub too_large: TooLarge,
}

/// One life of one server: a restored copy is another life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerLife {
    /// From IDENTIFY_SYSTEM.
    pub system_id: String,
    /// From IDENTIFY_SYSTEM.
    pub timeline: u32,
    /// `pg_postmaster_start_time()`.
    pub started: SystemTime,
}

/// One session to be.
pub(super) struct Session<'a> {
    context: &'a Context,
    memory: &'a mut Memory,
}

impl<'a> Session<'a> {
    /// A session with nothing opened yet.
    pub(super) fn new(context: &'a Context, memory: &'a mut Memory) -> Self {
        Self { context, memory }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// Whatever ended it; its class says what follows.
    pub(super) async fn run(self) -> Result<End> {
        let Self { context, memory } = self;
        context.metrics.set_state(SourceState::Starting);
        let mut start = Start::new(context, memory);
        let started = tokio::select! {
            started = start.run() => started?,
            () = context.stopping() => return Ok(End::Stopped),
        };
        match started {
            Step::StandBy => Ok(End::StandBy),
            _ => Stream::new(context, memory, start.finish().await?).await?.run().await,
        }
    }
}
