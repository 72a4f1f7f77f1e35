//! Kafka's frames: a size in four bytes, and then that many bytes, which begin with a header.

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Splits a stream into whole frames, with their sizes. No byte is lost when [`Frames::next`] is
/// dropped half-way.
#[derive(Debug, Default)]
pub(super) struct Frames(Vec<u8>);

impl Frames {
    /// The next frame; `None` at the end of the stream.
    pub(super) async fn next(&mut self, from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(size) = self.0.first_chunk::<4>() {
                let end = 4 + usize::try_from(i32::from_be_bytes(*size)).context("a frame of negative size")?;
                if self.0.len() >= end {
                    let rest = self.0.split_off(end);
                    return Ok(Some(std::mem::replace(&mut self.0, rest)));
                }
            }
            if from.read_buf(&mut self.0).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// The header of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub api_key: i16,
    pub version: i16,
    pub correlation: i32,
}

impl Request {
    pub(super) fn parse(frame: &[u8]) -> Result<Self> {
        let header =
            frame.get(4..12).and_then(|header| header.first_chunk::<8>()).context("a request without header")?;
        let &[a, b, c, d, e, f, g, h] = header;
        Ok(Self {
            api_key: i16::from_be_bytes([a, b]),
            version: i16::from_be_bytes([c, d]),
            correlation: i32::from_be_bytes([e, f, g, h]),
        })
    }
}

/// The correlation id of an answer: the number that its request had.
pub(super) fn correlation(frame: &[u8]) -> Result<i32> {
    let id = frame.get(4..8).and_then(|id| id.first_chunk::<4>()).context("an answer without header")?;
    Ok(i32::from_be_bytes(*id))
}

/// What follows the correlation id of an answer.
pub(super) fn body(frame: &[u8]) -> Vec<u8> {
    frame.get(8..).unwrap_or_default().to_vec()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_whole_however_the_bytes_arrive() {
        let request = [0, 0, 0, 8, 0, 26, 0, 1, 0, 0, 0, 7];
        let bytes = [request, request].concat();
        for cut in 0..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let mut from = first.chain(second);
            let mut frames = Frames::default();
            for _ in 0..2 {
                let frame = frames.next(&mut from).await.unwrap().unwrap();
                assert_eq!(Request::parse(&frame).unwrap(), Request { api_key: 26, version: 1, correlation: 7 });
            }
            assert!(frames.next(&mut from).await.unwrap().is_none());
        }
    }
}
