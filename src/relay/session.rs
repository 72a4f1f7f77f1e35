//! One session of a source. It begins with fresh connections, and ends at the first error or when
//! the daemon stops.
//!
//! `start` takes the slot, fences the predecessor and reads the position, in that order. `stream`
//! then relays until something ends it. [`Memory`] holds the little that outlives a session.

use super::{
    context::Context,
    memory::{End, Memory},
    start::Start,
    stream::Stream,
};
use crate::{Result, relay::startup::Step, source::publication};

/// A session that has not begun.
pub(super) struct Session<'a> {
    context: &'a Context,
    memory: &'a mut Memory,
}

impl<'a> Session<'a> {
    /// Opens nothing yet.
    pub(super) fn new(context: &'a Context, memory: &'a mut Memory) -> Self {
        Self { context, memory }
    }

    /// Runs the session to its end.
    ///
    /// # Errors
    /// Whatever ended it. The error's class says what follows.
    pub(super) async fn run(self) -> Result<End> {
        let Self { context, memory } = self;
        context.metrics.set_starting();
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
                let started = start.finish()?;
                Stream::new(context, memory, started).await?.run().await.map_err(publication::is_gone)
            }
        }
    }
}
