//! From the bytes of the socket to whole messages. It polls a reader and does no other I/O. It
//! knows tags and lengths, nothing else.
//!
//! Page: "Message Formats" (a tag byte, then an Int32 length that counts itself, then the body).

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};

use super::transport::lost;
use crate::{Code, Error, Result};

/// Tag and length.
const HEADER: usize = 5;
/// One read takes up to this much.
const BASE: usize = 256 * 1024;
/// A buffer that grew for a large message keeps up to this size, so that a run of such messages
/// does not allocate.
const KEEP: usize = 1024 * 1024;

/// The tag of a message of the stream.
const COPY_DATA: u8 = b'd';
/// The largest message that Postgres makes of a row (`MaxAllocSize`).
const LARGEST_ROW: usize = 1 << 30;

/// One message, borrowed from the buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// The message type.
    pub(super) tag: u8,
    /// What follows the length.
    pub(super) body: &'a [u8],
}

/// The receive buffer: `bytes[start..end]` is received and not yet taken.
///
/// For a message larger than itself it grows as that message's bytes arrive. It never grows because
/// a length field says so, and never past `limit`.
#[derive(Debug)]
pub(super) struct FrameBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    limit: usize,
    /// Bytes of all messages taken so far.
    taken: u64,
}

impl FrameBuffer {
    /// An empty buffer that refuses messages above `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: vec![0; BASE], start: 0, end: 0, limit, taken: 0 }
    }

    /// From now on the buffer takes messages of up to `limit` bytes.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Bytes of all messages taken so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes received and not yet taken.
    pub(super) fn buffered(&self) -> usize {
        self.end - self.start
    }

    /// Size of the message at the front, including its header, once its header is here.
    fn front(&self) -> Result<Option<usize>> {
        let Some(&[tag, a, b, c, d]) = self.bytes[self.start..self.end].first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length < 4 {
            return Err(Error::new(
                Code::PostgresProtocol,
                format!("a message of {length} bytes: too short to be one"),
            ));
        }
        if length >= self.limit {
            // Only a row makes a message of the stream that large. Anything else is no message at all.
            let is_row = tag == COPY_DATA && length <= LARGEST_ROW;
            let code = if is_row { Code::MessageTooLarge } else { Code::PostgresProtocol };
            let text = format!("a message of {length} bytes is larger than the bound of {} bytes", self.limit);
            return Err(Error::new(code, text));
        }
        Ok(Some(length + 1))
    }

    /// Whether a whole message is here.
    pub(super) fn is_ready(&self) -> Result<bool> {
        Ok(self.front()?.is_some_and(|total| total <= self.buffered()))
    }

    /// The tag of the next message if all of that message is here.
    pub(super) fn peek(&self) -> Result<Option<u8>> {
        Ok(self.is_ready()?.then(|| self.bytes[self.start]))
    }

    /// Takes the next message if all of it is here.
    pub(super) fn next(&mut self) -> Result<Option<Frame<'_>>> {
        let Some(total) = self.front()?.filter(|total| *total <= self.buffered()) else { return Ok(None) };
        let frame = &self.bytes[self.start..self.start + total];
        self.start += total;
        self.taken += total as u64;
        Ok(Some(Frame { tag: frame[0], body: &frame[HEADER..] }))
    }

    /// Reads until a whole message is here. Then it reads what else has arrived, without waiting,
    /// up to the buffer's end.
    ///
    /// It is cancel-safe: it counts bytes in the moment that it reads them.
    pub(super) fn poll_fill(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        if self.is_ready()? {
            return Poll::Ready(Ok(()));
        }
        loop {
            match self.poll_more(reader, cx)? {
                // One read of TLS returns one record. Reading on takes what else has arrived, so
                // that a batch gets as many messages as there are.
                Poll::Ready(true) => {}
                Poll::Ready(false) | Poll::Pending if self.is_ready()? => return Poll::Ready(Ok(())),
                // The buffer was full without a whole message and has been made larger, so reading
                // goes on.
                Poll::Ready(false) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// One read into the free part of the buffer. `false` when there is no room left behind whole
    /// messages.
    pub(super) fn poll_more(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool>> {
        let ready = self.is_ready()?;
        if !ready {
            self.make_room()?;
        } else if self.end == self.bytes.len() {
            return Poll::Ready(Ok(false));
        }
        let mut space = ReadBuf::new(&mut self.bytes[self.end..]);
        match Pin::new(reader).poll_read(cx, &mut space) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) if !space.filled().is_empty() => {
                let read = space.filled().len();
                self.end += read;
                Poll::Ready(Ok(true))
            }
            // The caller gets whole messages before it learns that nothing follows them. The reason
            // is often among them.
            Poll::Ready(_) if ready => Poll::Ready(Ok(false)),
            Poll::Ready(Ok(())) => {
                Poll::Ready(Err(Error::new(Code::PostgresUnavailable, "the server closed the connection")))
            }
            Poll::Ready(Err(cause)) => Poll::Ready(Err(lost("reading from the server", cause))),
        }
    }

    /// Makes room for the rest of the message at the front. It moves the message forward, grows for
    /// it, or gives back what an earlier one needed.
    fn make_room(&mut self) -> Result<()> {
        let have = self.buffered();
        let need = self.front()?.unwrap_or(HEADER);
        if self.bytes.len() > KEEP && need <= BASE {
            let mut fresh = vec![0; BASE];
            fresh[..have].copy_from_slice(&self.bytes[self.start..self.end]);
            self.bytes = fresh;
        } else if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
        }
        self.start = 0;
        self.end = have;
        if self.end == self.bytes.len() {
            // The buffer gets twice what has arrived, so a length field alone costs nothing (G6).
            self.bytes.resize((have * 2).min(need.max(BASE)), 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// Gives out the script's pieces one read at a time, then the end.
    struct Pieces(std::collections::VecDeque<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            match self.0.pop_front() {
                Some(piece) if piece.is_empty() => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Some(mut piece) => {
                    let rest = piece.split_off(piece.len().min(buf.remaining()));
                    buf.put_slice(&piece);
                    if !rest.is_empty() {
                        self.0.push_front(rest);
                    }
                    Poll::Ready(Ok(()))
                }
                None => Poll::Ready(Ok(())),
            }
        }
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    /// Everything that comes out until an error ends it; the error's text is last.
    fn drain(limit: usize, pieces: Vec<Vec<u8>>) -> (Vec<(u8, Vec<u8>)>, String, FrameBuffer) {
        let mut buffer = FrameBuffer::new(limit);
        let mut reader = Pieces(pieces.into());
        let mut seen = Vec::new();
        loop {
            match buffer.poll_fill(&mut reader, &mut Context::from_waker(Waker::noop())) {
                Poll::Pending => continue,
                Poll::Ready(Err(error)) => return (seen, error.to_string(), buffer),
                Poll::Ready(Ok(())) => {}
            }
            while let Some(frame) = buffer.next().unwrap() {
                seen.push((frame.tag, frame.body.to_vec()));
            }
        }
    }

    #[test]
    fn a_stream_in_single_bytes_gives_the_same_messages() {
        let mut bytes = message(b'w', b"hello");
        bytes.extend(message(b'Z', b""));
        let pieces = bytes.iter().map(|byte| vec![*byte]).collect();
        let (seen, end, _) = drain(64, pieces);
        assert_eq!(seen, [(b'w', b"hello".to_vec()), (b'Z', vec![])]);
        assert!(end.contains("closed the connection"), "{end}");
    }

    #[test]
    fn a_message_above_the_bound_is_refused_before_it_is_held() {
        let mut bytes = message(b'd', &[0; 59]);
        assert_eq!(drain(64, vec![bytes.clone()]).0.len(), 1);
        bytes.splice(1..5, 0x7FFF_FFFF_u32.to_be_bytes());
        let (seen, end, buffer) = drain(1 << 30, vec![bytes.clone()]);
        assert!(seen.is_empty() && end.contains("postgres-protocol"), "{end}");
        assert_eq!(buffer.bytes.len(), BASE);
        bytes.splice(1..5, 65_u32.to_be_bytes());
        assert!(drain(64, vec![bytes.clone()]).1.contains("message-too-large"));
        bytes.splice(1..5, 3_u32.to_be_bytes());
        assert!(drain(64, vec![bytes]).1.contains("too short"));
    }

    #[test]
    fn the_buffer_grows_with_what_arrives_and_shrinks_back() {
        let large = message(b'd', &vec![7; 3 * KEEP]);
        let mut buffer = FrameBuffer::new(1 << 30);
        let cx = &mut Context::from_waker(Waker::noop());
        // The length is announced, little has arrived: nothing is taken yet.
        assert!(buffer.poll_fill(&mut Pieces([large[..100].to_vec(), vec![]].into()), cx).is_pending());
        assert_eq!(buffer.bytes.len(), BASE);
        let mut rest = Pieces([large[100..].to_vec(), message(b'Z', b"I")].into());
        assert!(matches!(buffer.poll_fill(&mut rest, cx), Poll::Ready(Ok(()))));
        assert!(buffer.bytes.len() <= large.len());
        assert_eq!(buffer.next().unwrap().unwrap().body.len(), 3 * KEEP);
        assert!(matches!(buffer.poll_fill(&mut rest, cx), Poll::Ready(Ok(()))));
        assert_eq!(buffer.bytes.len(), BASE);
        assert_eq!(buffer.next().unwrap(), Some(Frame { tag: b'Z', body: b"I" }));
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_messages_are_the_same(
            bodies in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..600)), 0..20),
            cuts in prop::collection::vec(0_usize..400, 1..50),
        ) {
            let mut bytes: Vec<u8> = bodies.iter().flat_map(|(tag, body)| message(*tag, body)).collect();
            let mut pieces = Vec::new();
            for cut in cuts.iter().cycle().take(4_000) {
                let rest = bytes.split_off((*cut).min(bytes.len()));
                pieces.push(std::mem::replace(&mut bytes, rest));
            }
            pieces.push(bytes);
            prop_assert_eq!(drain(1 << 20, pieces).0, bodies);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let pieces = vec![bytes];
            drop(drain(1 << 16, pieces));
        }
    }
}
