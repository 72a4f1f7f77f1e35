//! What we tell the walsender: how far we are.
//!
//! Page: "Streaming Replication Protocol", Standby status update (F).

use std::time::{Duration, SystemTime};

use bytes::{Buf, BufMut, BytesMut};
use postgres_protocol::message::frontend;
use tokio::{
    io::{AsyncWriteExt, WriteHalf},
    time::timeout,
};

use super::transport::{Transport, lost};
use crate::{Code, Error, Lsn, Result};

/// CopyData's tag and length, then the update's own 34 bytes.
const STATUS_BYTES: usize = 5 + 34;
/// Microseconds from 1970-01-01 to 2000-01-01, where Postgres begins to count.
pub(crate) const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// A standby status update. The slot moves to `flushed`; nothing moves it backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StandbyStatus {
    /// Received.
    pub(crate) written: Lsn,
    /// What is safe with us. The server may forget the log before this (rule 7).
    pub(crate) flushed: Lsn,
    /// The same as `flushed` for a logical consumer. pg_stat_replication shows it.
    pub(crate) applied: Lsn,
    /// Asks the server to answer with a keepalive at once.
    pub(crate) reply_requested: bool,
}

impl StandbyStatus {
    /// Appends the whole CopyData message.
    fn encode(self, now: SystemTime, out: &mut BytesMut) {
        out.put_u8(b'd');
        out.put_u32(STATUS_BYTES as u32 - 1);
        out.put_u8(b'r');
        for position in [self.written, self.flushed, self.applied] {
            out.put_u64(position.0);
        }
        out.put_i64(postgres_clock(now));
        out.put_u8(self.reply_requested.into());
    }
}

/// Microseconds since 2000-01-01, as in `XLogData::clock`.
#[must_use]
fn postgres_clock(time: SystemTime) -> i64 {
    let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    let since_1970 = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => micros(after),
        Err(before) => -micros(before.duration()),
    };
    since_1970.saturating_sub(POSTGRES_EPOCH_US)
}

/// The writing half of a replication stream. It needs nothing of the reading half.
///
/// It is cancel-safe. A future that is dropped in the middle of a message leaves the rest of the
/// message here, and the next call sends that first. A newer status replaces one of which no byte
/// has left, so it never holds more than two.
pub(super) struct StatusSender {
    pub(super) writer: WriteHalf<Transport>,
    unsent: BytesMut,
}

impl StatusSender {
    pub(super) fn new(writer: WriteHalf<Transport>) -> Self {
        Self { writer, unsent: BytesMut::with_capacity(4 * STATUS_BYTES) }
    }

    /// Sends one update. Fails with `postgres-unavailable` when the connection is gone.
    ///
    /// It waits only if the server does not read. The caller bounds it where that matters.
    pub(super) async fn send_status(&mut self, status: StandbyStatus) -> Result<()> {
        replace_unsent(&mut self.unsent, status, SystemTime::now());
        self.flush().await
    }

    async fn flush(&mut self) -> Result<()> {
        let failed = |cause| lost("sending a status to the server", cause);
        while self.unsent.has_remaining() {
            let sent = self.writer.write(&self.unsent).await.map_err(failed)?;
            if sent == 0 {
                return Err(failed(std::io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(sent);
        }
        // TLS may hold a record back.
        self.writer.flush().await.map_err(failed)
    }

    /// Ends the stream and the session: CopyDone, Terminate, then nothing more. Gives up at
    /// `bound`.
    pub(super) async fn close(mut self, bound: Duration) -> Result<()> {
        frontend::copy_done(&mut self.unsent);
        frontend::terminate(&mut self.unsent);
        let end = async {
            self.flush().await?;
            // The server may have hung up already.
            drop(self.writer.shutdown().await);
            Ok(())
        };
        timeout(bound, end)
            .await
            .unwrap_or_else(|_| Err(Error::new(Code::PostgresUnavailable, "the server does not read the end of copy")))
    }
}

/// Keeps the tail of a message that has begun to leave, drops a message that has not, and appends
/// the new one.
fn replace_unsent(unsent: &mut BytesMut, status: StandbyStatus, now: SystemTime) {
    unsent.truncate(unsent.len() % STATUS_BYTES);
    status.encode(now, unsent);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(946_684_801);

    fn encoded(status: StandbyStatus) -> BytesMut {
        let mut bytes = BytesMut::new();
        status.encode(SystemTime::UNIX_EPOCH + NOW, &mut bytes);
        bytes
    }

    #[test]
    fn a_status_is_laid_out_as_the_protocol_page_says() {
        let status = StandbyStatus { written: Lsn(3), flushed: Lsn(2), applied: Lsn(1), reply_requested: true };
        let mut expected = vec![b'd', 0, 0, 0, 38, b'r'];
        for number in [3_u64, 2, 1, 1_000_000] {
            expected.extend(number.to_be_bytes());
        }
        expected.push(1);
        assert_eq!(encoded(status)[..], expected);
        assert_eq!(expected.len(), STATUS_BYTES);
    }

    #[test]
    fn the_clock_counts_from_2000_either_way() {
        assert_eq!(postgres_clock(SystemTime::UNIX_EPOCH), -POSTGRES_EPOCH_US);
        assert_eq!(postgres_clock(SystemTime::UNIX_EPOCH - Duration::from_micros(1)), -POSTGRES_EPOCH_US - 1);
    }

    #[test]
    fn a_status_cut_anywhere_is_finished_before_the_newest_one_and_none_piles_up() {
        let [first, second, third] =
            [1, 2, 3].map(|lsn| StandbyStatus { flushed: Lsn(lsn), ..StandbyStatus::default() });
        let now = SystemTime::UNIX_EPOCH + NOW;
        for sent in 0..=STATUS_BYTES {
            let mut unsent = encoded(first);
            unsent.advance(sent);
            replace_unsent(&mut unsent, second, now);
            replace_unsent(&mut unsent, third, now);
            let whole = encoded(first);
            // A message of which nothing was sent is replaced as a whole.
            let tail = if sent == 0 { &[] } else { &whole[sent..] };
            assert_eq!(unsent[..], [tail, &encoded(third)].concat(), "{sent} bytes had left");
        }
    }
}
