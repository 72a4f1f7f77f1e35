//! The newest position of a source. Everybody reads it through this module.
//!
//! The start reads the position with the slot in hand and every predecessor fenced, and then asks
//! whether the slot exists. A command holds nothing. It reads the slot first and the position after
//! it, so the position of a daemon that goes on in between can only seem to be ahead. Both read
//! through `read`, and both keep their own order on purpose.

use std::time::{Duration, Instant};

use super::position::Position;
use crate::{
    Code, Error, Result,
    config::Kafka,
    kafka::{
        position_topic::{self, Order, Succession},
        topics,
    },
};

/// Longest wait for open transactions of others on the position topic. Kafka aborts them after
/// their time-out.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The same where a person waits for the answer.
pub(crate) const PATIENCE_OF_A_PERSON: Duration = Duration::from_secs(15);

/// What the position topic holds of a source.
#[derive(Debug, Clone, PartialEq)]
pub enum Published {
    /// There is no position.
    Nothing,
    /// There is a record that is not a position. The text says why.
    Unreadable(String),
    /// The newest position.
    Known(Box<Position>),
}

/// How the positions of one source have to follow each other in the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Belief {
    /// A position that goes back is an error (rule 2), and a late one of an unfenced producer is
    /// passed over.
    Strict,
    /// The last one in the topic counts, whatever it says. `setup` reads like this, since `run`
    /// judges the order.
    Credulous,
}

impl Published {
    /// The position, if there is one that can be read.
    #[must_use]
    pub(crate) fn position(&self) -> Option<&Position> {
        match self {
            Self::Known(position) => Some(position),
            Self::Nothing | Self::Unreadable(_) => None,
        }
    }

    /// The position. An unreadable one is an error.
    ///
    /// # Errors
    /// [`Code::PositionInvalid`].
    pub(crate) fn readable(self) -> Result<Option<Box<Position>>> {
        match self {
            Self::Known(position) => Ok(Some(position)),
            Self::Nothing => Ok(None),
            Self::Unreadable(text) => Err(Error::new(Code::PositionInvalid, text)),
        }
    }
}

/// Reads the newest position of `source`. A missing topic counts as one without a position.
///
/// # Errors
/// As [`position_topic::read`].
pub(crate) async fn read(kafka: &Kafka, source: &str, belief: Belief, patience: Duration) -> Result<Published> {
    let deadline = Instant::now() + patience;
    if !position_topic::exists_within(kafka, patience.min(topics::TIMEOUT)).await? {
        return Ok(Published::Nothing);
    }
    let order = match belief {
        Belief::Strict => Order { succession: strict, may_be_late: is_unfenced },
        Belief::Credulous => Order { succession: |_, _| Succession::Newer, may_be_late: |_| false },
    };
    let newest = position_topic::read(kafka, source, order, deadline.saturating_duration_since(Instant::now())).await?;
    Ok(newest.map_or(Published::Nothing, |bytes| decode(&bytes)))
}

fn decode(bytes: &[u8]) -> Published {
    match Position::decode(bytes) {
        Ok(position) => Published::Known(Box::new(position)),
        Err(error) => {
            let what = "the newest position of this source";
            Published::Unreadable(Error::new(Code::PositionInvalid, what).because(error).detail())
        }
    }
}

/// What a record of the position topic is to the one before it.
fn strict(older: &[u8], newer: &[u8]) -> Succession {
    match (Position::decode(older), Position::decode(newer)) {
        (Ok(older), Ok(newer)) if older.regresses_to(&newer) => Succession::Regression,
        (Ok(older), Ok(newer)) if older.outlives(&newer) => Succession::Late,
        _ => Succession::Newer, // What cannot be read is refused as such, if it is the newest.
    }
}

/// Whether a producer wrote the position that nothing fences.
fn is_unfenced(position: &[u8]) -> bool {
    Position::decode(position).is_ok_and(|position| position.unfenced)
}
