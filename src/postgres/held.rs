//! A stream that holds its slot while its owner has other work.
//!
//! The walsender ends a stream that stays silent for `wal_sender_timeout`, and a start may take
//! longer than that: it asks Kafka, waits for locks, opens sessions over a slow network. So a task
//! of its own sends the statuses meanwhile. Nothing is read: what the server sends waits in the
//! socket.

use std::time::Duration;

use tokio::{
    sync::oneshot,
    task::{JoinError, JoinHandle},
};

use super::{
    status::{StandbyStatus, StatusSender},
    stream::{ReplicationReader, ReplicationStream},
};
use crate::{Code, Error, Result};

/// A stream whose statuses are sent in the background. They confirm nothing.
///
/// Dropping it hangs up, as dropping the stream does.
pub(crate) struct HeldStream {
    reader: ReplicationReader,
    room: Option<usize>,
    keeper: JoinHandle<Result<StatusSender>>,
    /// Dropping this ends the keeper.
    stop: oneshot::Sender<()>,
}

impl HeldStream {
    pub(super) fn new(stream: ReplicationStream, every: Duration) -> Self {
        let ReplicationStream { reader, sender, room } = stream;
        let (stop, stopped) = oneshot::channel();
        Self { reader, room, keeper: tokio::spawn(keep(sender, every, stopped)), stop }
    }

    /// The stream, for an owner that has time for it again.
    ///
    /// # Errors
    /// `postgres-unavailable`: the connection ended meanwhile.
    pub(crate) async fn release(self) -> Result<ReplicationStream> {
        let Self { reader, room, keeper, stop } = self;
        drop(stop);
        let sender = keeper.await.unwrap_or_else(|gone| Err(ended(&gone)))?;
        Ok(ReplicationStream { reader, sender, room })
    }

    /// Resolves when statuses can no longer be sent. Cancel-safe, until it has resolved once.
    pub(crate) async fn lost(&mut self) -> Error {
        match (&mut self.keeper).await {
            Ok(Err(error)) => error,
            Ok(Ok(_)) => Error::new(Code::Internal, "nobody sends statuses for a stream that is held"),
            Err(gone) => ended(&gone),
        }
    }

    /// Reads and throws away until the server ends the stream, and says why it did.
    pub(crate) async fn last_words(&mut self) -> Error {
        loop {
            if let Err(error) = self.reader.fill().await {
                return error;
            }
            loop {
                match self.reader.next_message() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => return error,
                }
            }
        }
    }
}

async fn keep(mut sender: StatusSender, every: Duration, mut stopped: oneshot::Receiver<()>) -> Result<StatusSender> {
    let mut tick = tokio::time::interval(every);
    loop {
        let send = async {
            tick.tick().await;
            sender.send_status(StandbyStatus::default()).await
        };
        // A status that was cut off within is finished by the next one.
        tokio::select! {
            _ = &mut stopped => return Ok(sender),
            sent = send => sent?,
        }
    }
}

fn ended(gone: &JoinError) -> Error {
    Error::new(Code::PostgresUnavailable, format!("the task that holds the stream has ended: {gone}"))
}
