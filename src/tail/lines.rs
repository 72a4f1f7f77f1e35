//! The lines of one task on their way to the printer: filtered, counted, in chunks of whole events.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc;

use super::{
    event::Event,
    json,
    text::{self, Look},
    wanted::Wanted,
};

/// A chunk of this size goes to the printer although more events are at hand.
const CHUNK: usize = 64 << 10;

/// How an event is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// One JSON object a line.
    Json,
    /// A few lines for a person.
    Text {
        /// Whether they are coloured.
        colours: bool,
    },
}

/// Where a task puts its events. A clone has a buffer of its own, and shares the count.
#[derive(Clone)]
pub(super) struct Lines {
    chunks: mpsc::Sender<Vec<u8>>,
    pending: Vec<u8>,
    wanted: Arc<Wanted>,
    format: Format,
    /// How many events may still be printed.
    left: Arc<AtomicU64>,
}

impl Lines {
    pub(super) fn new(chunks: mpsc::Sender<Vec<u8>>, wanted: Wanted, format: Format, limit: Option<u64>) -> Self {
        let left = Arc::new(AtomicU64::new(limit.unwrap_or(u64::MAX)));
        Self { chunks, pending: Vec::new(), wanted: Arc::new(wanted), format, left }
    }

    /// Puts the event at the end of the buffer, if it was asked for and is not one too many.
    pub(super) fn push(&mut self, event: &Event<'_>) {
        if !self.wanted.takes(event) {
            return;
        }
        let one_less = |left: u64| left.checked_sub(1);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
            return;
        }
        // Writing into memory cannot fail.
        let _ = match self.format {
            Format::Json => json::write(event, &mut self.pending),
            Format::Text { colours } => text::write(event, &Look::new(colours), &mut self.pending),
        };
    }

    /// Whether every event is printed, or in a buffer, that was asked for.
    pub(super) fn is_enough(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// Whether another event may be pushed before a flush.
    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < CHUNK && !self.is_enough()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Gives the buffer to the printer, as soon as the reader has taken enough of what it was given
    /// before. Returns whether anybody prints it. Cancel-safe.
    pub(super) async fn flush(&mut self) -> bool {
        if self.pending.is_empty() {
            return !self.chunks.is_closed();
        }
        let Ok(permit) = self.chunks.reserve().await else { return false };
        permit.send(std::mem::take(&mut self.pending));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tail::rows::samples::{self, Sample};

    fn lines(limit: Option<u64>, capacity: usize) -> (Lines, mpsc::Receiver<Vec<u8>>) {
        let (chunks, printed) = mpsc::channel(capacity);
        (Lines::new(chunks, Wanted::default(), Format::Json, limit), printed)
    }

    fn push(lines: &mut Lines) {
        samples::with(Sample::Plain, |event| lines.push(event));
    }

    #[tokio::test]
    async fn the_limit_counts_for_all_tasks_together_and_only_what_was_asked_for() {
        let (mut first, mut printed) = lines(Some(2), 4);
        first.wanted = Arc::new(Wanted { types: vec!["Other".to_owned()], ..Wanted::default() });
        push(&mut first);
        assert!(first.is_empty() && !first.is_enough());
        first.wanted = Arc::default();
        let mut second = first.clone();
        push(&mut first);
        push(&mut second);
        assert!(first.is_enough() && !second.has_room());
        push(&mut first);
        assert!(first.flush().await && second.flush().await);
        for _ in 0..2 {
            assert_eq!(printed.recv().await.unwrap().iter().filter(|byte| **byte == b'\n').count(), 1);
        }
    }

    #[tokio::test]
    async fn a_chunk_waits_for_the_reader_and_holds_whole_events() {
        let (mut lines, mut printed) = lines(None, 1);
        while lines.has_room() {
            push(&mut lines);
        }
        assert!(lines.flush().await);
        push(&mut lines);
        // Nobody has taken the first chunk, so a flush that is given up keeps the second one here.
        let late = tokio::time::timeout(std::time::Duration::ZERO, lines.flush()).await;
        assert!(late.is_err() && !lines.is_empty());
        let chunk = printed.recv().await.unwrap();
        assert!(chunk.len() >= CHUNK && chunk.len() < 2 * CHUNK && chunk.ends_with(b"}\n"));
        assert!(lines.flush().await && lines.is_empty());
        drop(printed);
        push(&mut lines);
        assert!(!lines.flush().await, "nobody prints it any more");
    }
}
