//! How long the stream lets messages gather behind a backlog.
//!
//! As long as nobody waits on the socket, a walsender that writes row by row wakes nobody, and to
//! wake us costs it more than to write the row. So behind a backlog the reader sleeps now and then.
//! But a walsender that finds no room in the socket sleeps too, and is woken only when most of the
//! room is free again. TCP's buffers grow with the traffic and hold far more than is written during
//! the longest rest. A Unix socket's buffer is small and does not grow. There the rest is as long as
//! it takes to fill half of it.

use std::time::Duration;

/// So many messages at once are a backlog, and so is a transaction that the server sends this long
/// after its commit. A reader that is woken for every row never sees many together, so the age
/// counts as well.
const BACKLOG_MESSAGES: usize = 24;
const BACKLOG_AGE: Duration = Duration::from_millis(10);

/// The longest and the shortest rest.
const LONGEST: Duration = Duration::from_millis(2);
const SHORTEST: Duration = Duration::from_micros(100);

/// What the kernel counts for each write besides its bytes: a `sk_buff` and the rounding of its
/// memory. The walsender makes one write a message.
const BYTES_OF_A_WRITE: usize = 768;

/// The rests of one stream.
#[derive(Debug)]
pub(super) struct Rest {
    /// Bytes that the socket holds for us, where that is little.
    room: Option<usize>,
    pause: Duration,
    /// Messages and bytes that were taken since the last rest.
    messages: usize,
    bytes: u64,
}

impl Rest {
    /// A stream that has not rested. `room` is as [`ReplicationStream::room`] says.
    ///
    /// [`ReplicationStream::room`]: crate::postgres::ReplicationStream::room
    pub(super) fn new(room: Option<usize>) -> Self {
        Self { room, pause: LONGEST, messages: 0, bytes: 0 }
    }

    /// The stream has taken messages.
    pub(super) fn took(&mut self, messages: usize, bytes: u64) {
        self.messages += messages;
        self.bytes += bytes;
    }

    /// How long to rest now that all messages are taken, if there is a backlog. A stream that is
    /// not behind does not rest.
    pub(super) fn due(&mut self, behind: Duration) -> Option<Duration> {
        let messages = std::mem::take(&mut self.messages);
        let bytes = usize::try_from(std::mem::take(&mut self.bytes)).unwrap_or(usize::MAX);
        let is_backlog = messages >= BACKLOG_MESSAGES || messages > 0 && behind >= BACKLOG_AGE;
        if !is_backlog {
            return None;
        }
        if let Some(room) = self.room {
            let held = bytes.saturating_add(messages.saturating_mul(BYTES_OF_A_WRITE));
            let longer = room as f64 / 2.0 / held as f64;
            self.pause = self.pause.mul_f64(longer.clamp(0.5, 2.0)).clamp(SHORTEST, LONGEST);
        }
        Some(self.pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 212_992;

    /// Rests until the pause settles. The walsender writes `messages` of `size` bytes each
    /// millisecond, as far as the socket has room.
    fn settled(room: Option<usize>, messages: f64, size: u64) -> Duration {
        let mut rest = Rest::new(room);
        let mut pause = LONGEST;
        for _ in 0..50 {
            let fit = room.map_or(f64::MAX, |room| room as f64 / (size as f64 + BYTES_OF_A_WRITE as f64));
            let written = (messages * pause.as_secs_f64() * 1e3).min(fit) as usize;
            rest.took(written.max(BACKLOG_MESSAGES), written as u64 * size);
            pause = rest.due(Duration::ZERO).unwrap();
        }
        pause
    }

    #[test]
    fn where_the_socket_has_room_a_rest_is_long() {
        assert_eq!(settled(None, 150.0, 500), LONGEST);
        assert_eq!(settled(Some(ROOM), 5.0, 500), LONGEST);
    }

    #[test]
    fn a_small_socket_is_read_before_it_is_full() {
        for (messages, size) in [(110.0, 500), (150.0, 120), (20.0, 50_000)] {
            let pause = settled(Some(ROOM), messages, size);
            let held = messages * pause.as_secs_f64() * 1e3 * (size as f64 + BYTES_OF_A_WRITE as f64);
            assert!(held < ROOM as f64 * 0.75 || pause == SHORTEST, "{messages} of {size}: {pause:?} hold {held}");
            assert!(held > ROOM as f64 * 0.25, "{messages} of {size}: {pause:?} hold {held}");
        }
    }

    #[test]
    fn a_stream_that_is_not_behind_does_not_rest() {
        let mut rest = Rest::new(None);
        assert_eq!(rest.due(BACKLOG_AGE), None);
        rest.took(BACKLOG_MESSAGES - 1, 10_000);
        assert_eq!(rest.due(Duration::ZERO), None);
        rest.took(1, 500);
        assert_eq!(rest.due(Duration::ZERO), None);
        rest.took(1, 500);
        assert_eq!(rest.due(BACKLOG_AGE), Some(LONGEST));
        rest.took(BACKLOG_MESSAGES, 500);
        assert_eq!(rest.due(Duration::ZERO), Some(LONGEST));
    }
}
