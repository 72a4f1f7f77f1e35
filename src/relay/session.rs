//! One session of a source: from fresh connections to the first error, or to the end of the daemon.
//!
//! `start` takes the slot, fences the predecessor and reads the position, in that order; `stream` relays until
//! something ends it. What must outlive a session, and may, is in [`Memory`].

use super::{
    context::Context,
    memory::{End, Memory},
    start::Start,
    stream::Stream,
};
use crate::{
    Result,
    relay::startup::Step,
    source::{publication, standing::SourceState},
};

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
        let mut start = Start::new(context, &mut *memory);
        if !context.patient {
            start = start.impatient();
        }
        let started = tokio::select! {
            started = start.run() => started?,
            () = context.stopping() => return Ok(End::Stopped),
        };
        match started {
            Step::StandBy => Ok(End::StandBy),
            _ => {
                let started = start.finish().await?;
                Stream::new(context, memory, started).await?.run().await.map_err(publication::is_gone)
            }
        }
    }
}
