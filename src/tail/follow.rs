//! One source, as its rows commit, over the end of a connection.
//!
//! A temporary slot ends with its connection, so what commits until the next one is made is not
//! seen. The person is told so.

use std::time::{Duration, Instant};

use tokio::{sync::watch, time::timeout};

use super::{LAST_CHUNKS, lines::Lines, say, stream::Stream};
use crate::{Code, Result, backoff::Backoff, config::Source};

/// A connection that lived longer than this was healthy. The next loss begins the backoff anew.
const HEALTHY: Duration = Duration::from_secs(10);

/// Prints the events of one source.
pub(super) struct Follower {
    source: Source,
    position_topic: String,
    lines: Lines,
    stopped: watch::Receiver<bool>,
}

impl Follower {
    pub(super) fn new(source: Source, position_topic: String, lines: Lines, stopped: watch::Receiver<bool>) -> Self {
        Self { source, position_topic, lines, stopped }
    }

    /// Prints until it is told to stop, nobody reads, or enough is printed.
    ///
    /// # Errors
    /// Whatever is in the way at the beginning. Later, what does not heal by itself.
    pub(super) async fn follow(mut self) -> Result<()> {
        let mut backoff = Backoff::new(self.source.timeouts.backoff_max);
        let mut has_streamed = false;
        loop {
            let began = Instant::now();
            let Err(error) = self.stream(&mut has_streamed).await else {
                // It was read before the end, and may be counted in the limit.
                let _ = timeout(LAST_CHUNKS, self.lines.flush()).await;
                return Ok(());
            };
            if !has_streamed || !heals(error.code()) {
                self.flush().await;
                return Err(error.about(format_args!("source {}", self.source.name)));
            }
            if began.elapsed() > HEALTHY {
                backoff.reset();
            }
            let pause = backoff.next();
            let text = format!(
                "{error}; connecting again in {} ms with a new slot: what commits until then is not shown",
                pause.as_millis()
            );
            say(&self.source.name, &text);
            self.flush().await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.stopped.wait_for(|stopped| *stopped) => return Ok(()),
            }
        }
    }

    /// The same with one connection.
    async fn stream(&mut self, has_streamed: &mut bool) -> Result<()> {
        let mut stopped = self.stopped.clone();
        let open = Stream::open(&self.source, &self.position_topic);
        let mut stream = tokio::select! {
            opened = open => opened?,
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        };
        *has_streamed = true;
        say(&self.source.name, &stream.says());
        let outcome = tokio::select! {
            outcome = stream.run(&mut self.lines) => outcome,
            _ = stopped.wait_for(|stopped| *stopped) => Ok(()),
        };
        stream.close().await;
        outcome
    }

    /// Lets the reader take what was read before a connection ended.
    async fn flush(&mut self) {
        tokio::select! {
            _ = self.lines.flush() => {}
            _ = self.stopped.wait_for(|stopped| *stopped) => {}
        }
    }
}

/// Whether another connection may do better. A table that was made anew is found by its name then,
/// and a row that is too large to be received lies behind.
fn heals(code: Code) -> bool {
    matches!(
        code,
        Code::PostgresUnreachable
            | Code::PostgresUnavailable
            | Code::PostgresExhausted
            | Code::PostgresProtocol
            | Code::PublicationChanged
            | Code::MessageTooLarge
            | Code::SlotLost
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_has_to_repair_ends_it() {
        for code in [Code::PublicationMissing, Code::PostgresDenied, Code::ColumnInvalid, Code::WalLevel] {
            assert!(!heals(code), "{code}");
        }
    }
}
