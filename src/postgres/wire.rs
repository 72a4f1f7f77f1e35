//! One connection, message by message: frames in, encoded messages out.

use std::future::poll_fn;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use super::{
    frame::{Frame, FrameBuffer},
    transport::{Transport, lost},
};
use crate::{Code, Error, Result};

/// A transport with its receive buffer. Used until CopyBoth begins.
pub(super) struct Wire {
    pub(super) transport: Transport,
    pub(super) frames: FrameBuffer,
}

impl Wire {
    /// `limit` bounds one received message.
    pub(super) fn new(transport: Transport, limit: usize) -> Self {
        Self { transport, frames: FrameBuffer::new(limit) }
    }

    pub(super) async fn send(&mut self, encode: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> Result<()> {
        let mut bytes = BytesMut::new();
        encode(&mut bytes).map_err(|cause| Error::new(Code::Internal, "encoding a message").because(cause))?;
        let sent = match self.transport.write_all(&bytes).await {
            Ok(()) => self.transport.flush().await,
            Err(cause) => Err(cause),
        };
        sent.map_err(|cause| lost("writing to the server", cause))
    }

    /// The next message, waiting for it.
    pub(super) async fn receive(&mut self) -> Result<Frame<'_>> {
        poll_fn(|cx| self.frames.poll_fill(&mut self.transport, cx)).await?;
        self.frames.next()?.ok_or_else(|| Error::new(Code::Internal, "a filled buffer holds no message"))
    }
}

/// An error about a message that does not belong where it came.
pub(super) fn unexpected(tag: u8, whereabouts: &str) -> Error {
    let tag = char::from(tag).escape_default();
    Error::new(Code::PostgresProtocol, format!("the server sent a message of type '{tag}' {whereabouts}"))
}

/// The text up to the zero byte, and what follows it.
pub(super) fn c_string(bytes: &[u8]) -> Result<(String, &[u8])> {
    let cut = bytes.iter().position(|byte| *byte == 0);
    let end = cut.ok_or_else(|| Error::new(Code::PostgresProtocol, "a text in a message does not end"))?;
    Ok((String::from_utf8_lossy(&bytes[..end]).into_owned(), &bytes[end + 1..]))
}
