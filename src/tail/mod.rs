//! Shows events as they would be sent, without Kafka.
//!
//! ```text
//!   temporary slot ─▶ stream ──┐            (follow.rs: one after another, where the connection is lost)
//!                              ├─▶ rows: Encoder ─▶ Event ─▶ wanted? ─▶ json | text ─▶ Lines ─▶ Printer ─▶ stdout
//!   rows without a mark ─▶ waiting
//! ```
//!
//! **In**: sources, and what a person asked for. **Out**: one line, or a few, for each row: topic,
//! key, timestamp, headers and value, byte for byte as `run` would send them, since the same encoder
//! makes them. A row that cannot become a record is shown as what it would be, and the next row
//! follows.
//!
//! What must hold:
//! - nothing on either server changes: no mark is made, no slot or position of a source is touched.
//!   The only slot is a temporary one, which the server drops when its connection ends;
//! - memory is bounded by one chunk for each source and a few that wait for the reader, besides the
//!   largest row, however large a transaction is and however slow the reader;
//! - while the reader stands still, the server still hears from us. A server that shuts down is never
//!   held up: its ordinary session ends first, and with it the stream;
//! - it ends with the signal, with its reader, or where it cannot go on, and says goodbye each time.

pub(crate) mod event;
mod follow;
pub(crate) mod json;
mod lines;
mod printer;
pub(crate) mod rows;
mod sample;
mod stream;
pub(crate) mod text;
pub(crate) mod value;
mod waiting;
pub(crate) mod wanted;

use std::{
    io::{self, Write},
    pin::pin,
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::timeout,
};

use self::{follow::Follower, lines::Lines, printer::Printer};
pub(crate) use self::{
    lines::Format,
    sample::Sample,
    waiting::{LOOKED_AT, stops},
    wanted::Wanted,
};
use crate::{
    Code, Error, Result,
    config::{Mark, Source, Sources},
};

/// What a person asked for.
pub(crate) struct Options {
    pub(crate) wanted: Wanted,
    pub(crate) format: Format,
    /// The number of events after which it ends, if any.
    pub(crate) limit: Option<u64>,
    /// The rows that wait, and not those that are committed from now on.
    pub(crate) unpublished: bool,
}

/// How long a reader may take for what was read already, when it ends at a signal.
const LAST_CHUNKS: Duration = Duration::from_secs(1);

/// Prints until `stop` resolves, the reader goes away, or there is nothing more to print.
///
/// # Errors
/// [`Code::ConfigInvalid`] where the mark of a source does not tell what waits; whatever keeps a
/// source from being read; [`Code::Internal`] where standard output cannot be written.
pub(crate) async fn tail(sources: Sources, options: Options, stop: impl Future<Output = &'static str>) -> Result<()> {
    let Sources { sources, position_topic } = sources;
    if options.unpublished {
        sources.iter().try_for_each(require_mark)?;
    }
    let (chunks, mut printer) = Printer::start()?;
    // While this lives, the printer ends with its reader alone, and not with the last task.
    let lines = Lines::new(chunks, options.wanted, options.format, options.limit);
    let (stopping, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    if options.unpublished {
        tasks.spawn(stoppable(stopped, waiting::print(sources, position_topic, lines.clone())));
    } else {
        for source in sources {
            let follower = Follower::new(source, position_topic.clone(), lines.clone(), stopped.clone());
            tasks.spawn(follower.follow());
        }
    }

    let mut stop = pin!(stop);
    // No task ends by itself unless all is printed that was asked for, or it cannot go on.
    let ended = tokio::select! {
        ended = tasks.join_next() => Some(ended.map_or(Ok(()), outcome)),
        _ = &mut stop => None,
        () = printer.reader_left() => None,
    };
    stopping.send_replace(true);
    while tasks.join_next().await.is_some() {}
    drop(lines);
    match ended {
        Some(ended) => tokio::select! {
            printed = printer.finished() => ended.and(printed),
            _ = &mut stop => ended,
        },
        None => timeout(LAST_CHUNKS, printer.finished()).await.unwrap_or(Ok(())),
    }
}

fn outcome(ended: Result<Result<()>, JoinError>) -> Result<()> {
    ended.unwrap_or_else(|panic| Err(Error::new(Code::Internal, "reading a source").because(panic)))
}

/// The work, or what was done of it when it was told to stop.
async fn stoppable(mut stopped: watch::Receiver<bool>, work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        done = work => done,
        // An error means that the sender is gone. That is a stop as well.
        _ = stopped.wait_for(|stopped| *stopped) => Ok(()),
    }
}

fn require_mark(source: &Source) -> Result<()> {
    if source.mark != Mark::None {
        return Ok(());
    }
    let text = format!(
        "--unpublished: source {} has mark = \"none\", so nothing in its tables tells which rows wait; without \
         --unpublished, rows are shown as they commit, and `outboxd status` shows the lag",
        source.name
    );
    Err(Error::new(Code::ConfigInvalid, text))
}

/// Tells the person something that is no event.
fn say(source: &str, text: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(io::stderr(), "{source}: {text}");
}
