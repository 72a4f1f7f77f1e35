//! The stream of a slot in CopyBoth mode: the hot path. No allocation and no copy per message.
//!
//! Page: "Streaming Replication Protocol" (XLogData, Primary keepalive message).

use std::{future::poll_fn, time::Duration};

use tokio::{
    io::{ReadHalf, split},
    time::timeout,
};

use super::{
    frame::FrameBuffer,
    held::HeldStream,
    server_error::ServerError,
    status::{StandbyStatus, StatusSender},
    transport::Transport,
    wire::{Wire, unexpected},
};
use crate::{Code, Error, Lsn, Result};

/// How long [`ReplicationStream::close`] waits for the server to let the slot go.
const CLOSE_BOUND: Duration = Duration::from_secs(2);

/// One message of the stream, borrowed from the receive buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StreamMessage<'a> {
    /// One message of the output plugin.
    XLogData {
        /// Where in the log it comes from. 0/0 for messages that have no place there.
        wal_start: Lsn,
        /// The same again for a logical slot.
        wal_end: Lsn,
        /// The server's clock when it was sent, in microseconds since 2000-01-01.
        clock: i64,
        /// One pgoutput message.
        data: &'a [u8],
    },
    /// A sign of life, and how far the server has decoded.
    Keepalive {
        /// The server has sent everything before it that concerns us.
        wal_end: Lsn,
        /// The server's clock when it was sent, in microseconds since 2000-01-01.
        clock: i64,
        /// Asks for an answer at once, since the server is about to stop or to give us up.
        reply_requested: bool,
    },
    /// A warning or notice, such as Postgres 18's "skipped loading publication".
    Notice(Box<ServerError>),
}

/// The reading half of a replication stream.
pub(super) struct ReplicationReader {
    reader: ReadHalf<Transport>,
    frames: FrameBuffer,
}

impl ReplicationReader {
    pub(super) async fn fill(&mut self) -> Result<()> {
        poll_fn(|cx| self.frames.poll_fill(&mut self.reader, cx)).await
    }

    pub(super) fn next_message(&mut self) -> Result<Option<StreamMessage<'_>>> {
        while self.frames.peek()? == Some(b'S') {
            // ParameterStatus: a reload of the configuration.
            self.frames.next()?;
        }
        let Some(frame) = self.frames.next()? else { return Ok(None) };
        match frame.tag {
            b'd' => copy_data(frame.body).map(Some),
            b'N' => Ok(Some(StreamMessage::Notice(Box::new(ServerError::parse(frame.body))))),
            b'E' => Err(ServerError::parse(frame.body).during("streaming")),
            // CopyDone, or CommandComplete alone, with which a stopping server says that it has
            // sent everything.
            b'c' | b'C' => Err(Error::new(Code::PostgresUnavailable, "the server ended the stream")),
            tag => Err(unexpected(tag, "in the stream")),
        }
    }

    /// Reads and throws away until the server hangs up.
    async fn drain(&mut self) {
        while self.fill().await.is_ok() {
            while let Ok(Some(_)) = self.frames.next() {}
        }
    }
}

fn copy_data(body: &[u8]) -> Result<StreamMessage<'_>> {
    let message =
        match body.split_first() {
            Some((b'w', rest)) => three_numbers(rest).map(|(wal_start, wal_end, clock, data)| {
                StreamMessage::XLogData { wal_start: Lsn(wal_start), wal_end: Lsn(wal_end), clock, data }
            }),
            Some((b'k', rest)) => match rest.len() {
                17.. => {
                    let (wal_end, rest) = rest.split_at(8);
                    number(wal_end).zip(number(rest)).map(|(wal_end, clock)| StreamMessage::Keepalive {
                        wal_end: Lsn(wal_end),
                        clock: clock.cast_signed(),
                        reply_requested: rest[8] != 0,
                    })
                }
                _ => None,
            },
            Some((tag, _)) => return Err(unexpected(*tag, "inside CopyData")),
            None => None,
        };
    message.ok_or_else(|| Error::new(Code::PostgresProtocol, "a message of the stream is cut off"))
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

fn three_numbers(bytes: &[u8]) -> Option<(u64, u64, i64, &[u8])> {
    let (start, rest) = bytes.split_first_chunk()?;
    let (end, rest) = rest.split_first_chunk()?;
    let (clock, rest) = rest.split_first_chunk()?;
    Some((u64::from_be_bytes(*start), u64::from_be_bytes(*end), i64::from_be_bytes(*clock), rest))
}

/// A stream in progress, for one task.
///
/// ```text
/// loop {
///     stream.fill().await?;                        // may be dropped in a select! at any time
///     while let Some(message) = stream.next_message()? { … }
///     stream.send_status(StandbyStatus { flushed: lsn, .. }).await?;
/// }
/// ```
///
/// Dropping it hangs up without a goodbye. The server finds out at its next write and lets the slot
/// go.
pub(crate) struct ReplicationStream {
    pub(super) reader: ReplicationReader,
    pub(super) sender: StatusSender,
    pub(super) room: Option<usize>,
}

impl ReplicationStream {
    pub(super) fn new(wire: Wire) -> Self {
        let room = wire.transport.room();
        let (reader, writer) = split(wire.transport);
        Self { reader: ReplicationReader { reader, frames: wire.frames }, sender: StatusSender::new(writer), room }
    }

    /// Holds the slot for an owner that does other work meanwhile. A status is sent this often.
    pub(crate) fn hold(self, every: Duration) -> HeldStream {
        HeldStream::new(self, every)
    }

    /// How many bytes the socket holds for us before the server has to wait, where that is little
    /// and does not grow.
    pub(crate) fn room(&self) -> Option<usize> {
        self.room
    }

    /// Bytes of all messages that were taken so far.
    pub(crate) fn bytes_taken(&self) -> u64 {
        self.reader.frames.taken()
    }

    /// Waits until at least one whole message is buffered, then takes whatever else has arrived.
    /// Cancel-safe.
    ///
    /// It returns at once while messages are left. So the loop is `fill`, then
    /// [`Self::next_message`] until `None`. Fails with `postgres-unavailable` when the connection
    /// ends, `postgres-protocol` for a message above the bound.
    pub(crate) async fn fill(&mut self) -> Result<()> {
        self.reader.fill().await
    }

    /// The next buffered message, or `None` when another [`Self::fill`] is needed. It does no I/O.
    ///
    /// Fails with what the server reports: `postgres-unavailable` when it stops (57P01) or ends the
    /// stream, `publication-missing`, `slot-lost` and the others that [`ServerError::code`] knows.
    pub(crate) fn next_message(&mut self) -> Result<Option<StreamMessage<'_>>> {
        self.reader.next_message()
    }

    /// Tells the server where we stand.
    pub(crate) async fn send_status(&mut self, status: StandbyStatus) -> Result<()> {
        self.sender.send_status(status).await
    }

    /// Ends the stream and waits, at most 2 s, until the server has hung up. By then the server has
    /// let the slot go.
    ///
    /// An error means only that the server may hold the slot a little longer.
    pub(crate) async fn close(self) -> Result<()> {
        let Self { mut reader, sender, .. } = self;
        // Both run at once: a server that is busy writing reads nothing until we read.
        let end = async { tokio::join!(sender.close(CLOSE_BOUND), reader.drain()).0 };
        timeout(CLOSE_BOUND, end)
            .await
            .unwrap_or_else(|_| Err(Error::new(Code::PostgresUnavailable, "the server did not end the stream in time")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(tag: u8, numbers: &[u64]) -> Vec<u8> {
        let mut body = vec![tag];
        numbers.iter().for_each(|number| body.extend(number.to_be_bytes()));
        body
    }

    #[test]
    fn the_two_messages_are_laid_out_as_the_protocol_page_says() {
        let mut body = numbers(b'w', &[1, 2, 3]);
        body.extend(b"data");
        let data = StreamMessage::XLogData { wal_start: Lsn(1), wal_end: Lsn(2), clock: 3, data: b"data" };
        assert_eq!(copy_data(&body).unwrap(), data);

        let mut body = numbers(b'k', &[1, u64::MAX]);
        body.push(1);
        let keepalive = StreamMessage::Keepalive { wal_end: Lsn(1), clock: -1, reply_requested: true };
        assert_eq!(copy_data(&body).unwrap(), keepalive);
    }

    #[test]
    fn what_is_cut_off_or_unknown_is_an_error() {
        for body in [vec![], numbers(b'w', &[1, 2]), numbers(b'k', &[1, 2]), b"x".to_vec()] {
            assert_eq!(copy_data(&body).unwrap_err().code(), Code::PostgresProtocol, "{body:?}");
        }
    }
}
