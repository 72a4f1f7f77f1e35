//! Would a start halt, and with what? This is the one place that judges what both sides hold. The
//! start itself, `status`, `recover` and the set-up ask it.
//!
//! | position | slot | verdict |
//! |---|---|---|
//! | any | another's | `config-invalid` |
//! | any | lost | `slot-lost` (rule 17) |
//! | unreadable | any | `position-invalid` |
//! | of another system | any | `system-changed` |
//! | none | exists | `position-lost` (rule 4) |
//! | `streaming` | none | `slot-missing` (rule 4) |
//! | `streaming` | exists | what [`compare`] says |
//! | `creating`, `backfill` | any | none: `run` goes on by itself |
//! | none | none | none: the source was never set up |

use super::{
    compare::{Server, compare, require_same_system, require_slot_behind},
    newest::Published,
    position::{Phase, Position},
};
use crate::{Code, Error, Lsn, Result, postgres::catalog::SlotInfo};

/// What a verdict rests on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Evidence<'a> {
    pub(crate) name: &'a str,
    /// The source's database.
    pub(crate) database: &'a str,
    pub(crate) slot: Option<&'a SlotInfo>,
    pub(crate) published: &'a Published,
    /// The server, as far as it is known.
    pub(crate) server: Option<&'a Server>,
}

/// What an interrupted backfill means to the caller. `run` takes it up by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupted {
    /// The backfill goes on. This is for the start, and for everybody who asks what it would do.
    GoesOn,
    /// The backfill needs its slot. This is for `setup`, which never makes the slot of a source for
    /// which rows were published.
    NeedsItsSlot,
}

/// What a start would halt for, as far as that shows before the stream begins.
pub(crate) fn verdict(evidence: Evidence<'_>) -> Option<Error> {
    judge(evidence).err()
}

fn judge(Evidence { name, database, slot, published, server }: Evidence<'_>) -> Result<()> {
    if let Some(slot) = slot {
        require_own(name, slot, database)?;
        require_kept(name, slot)?;
    }
    let position = match published {
        Published::Unreadable(text) => return Err(Error::new(Code::PositionInvalid, text.clone())),
        Published::Nothing => None,
        Published::Known(position) => Some(position),
    };
    if let (Some(position), Some(server)) = (position, server) {
        require_same_system(position, &server.system_id)?;
    }
    require_pair(position.map(AsRef::as_ref), slot.is_some(), Interrupted::GoesOn)?;
    match (position, slot, server) {
        (Some(position), ..) if position.phase != Phase::Streaming => Ok(()),
        (Some(position), Some(_), Some(server)) => compare(position, server),
        (Some(position), Some(slot), None) => require_slot_behind(position, slot.confirmed_flush),
        _ => Ok(()),
    }
}

/// Rule 4: a slot and a position belong together.
///
/// # Errors
/// [`Code::PositionLost`], [`Code::SlotMissing`].
pub(crate) fn require_pair(position: Option<&Position>, slot_exists: bool, interrupted: Interrupted) -> Result<()> {
    let needs_slot = |phase| match phase {
        Phase::Streaming => true,
        Phase::Backfill => interrupted == Interrupted::NeedsItsSlot,
        Phase::Creating => false,
    };
    match position {
        None if slot_exists => {
            let text = "the slot exists, but the position topic holds no position for this source";
            Err(Error::new(Code::PositionLost, text))
        }
        Some(position) if !slot_exists && needs_slot(position.phase) => Err(slot_missing(position.progress.lsn)),
        _ => Ok(()),
    }
}

fn slot_missing(lsn: Lsn) -> Error {
    Error::new(Code::SlotMissing, format!("the source was published up to {lsn}, but its slot does not exist"))
}

/// Slots belong to the whole cluster, so one of our name may be another's. Nobody waits for that
/// one, and nobody drops it.
///
/// # Errors
/// [`Code::ConfigInvalid`]: the slot is of another database or of another plugin, or it decodes
/// prepared transactions early.
pub(crate) fn require_own(name: &str, slot: &SlotInfo, database: &str) -> Result<()> {
    if slot.plugin.as_deref() == Some("pgoutput") && slot.database.as_deref() == Some(database) {
        return require_whole(name, slot);
    }
    let plugin = slot.plugin.as_deref().unwrap_or("none (physical)");
    let theirs = slot.database.as_deref().unwrap_or("none");
    let text = format!(
        "slot {name}: it is another's: plugin {plugin}, database {theirs}, and the source is in database {database}; \
         choose another name with `slot`, or another `name` of the source"
    );
    Err(Error::new(Code::ConfigInvalid, text))
}

/// A slot with `two_phase` sends a transaction at PREPARE, before anybody knows whether it commits.
fn require_whole(name: &str, slot: &SlotInfo) -> Result<()> {
    if !slot.two_phase {
        return Ok(());
    }
    let text = format!(
        "slot {name}: it decodes prepared transactions at PREPARE, before anybody knows whether they commit \
         (two_phase); choose another name with `slot`: outboxd makes its own"
    );
    Err(Error::new(Code::ConfigInvalid, text))
}

/// Rule 17: a slot that the server has invalidated never sends anything again.
///
/// # Errors
/// [`Code::SlotLost`], with the server's reason.
pub(crate) fn require_kept(name: &str, slot: &SlotInfo) -> Result<()> {
    match slot.lost() {
        Some(reason) => Err(Error::new(Code::SlotLost, format!("slot {name}: {reason}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::samples::{position, server, slot};

    fn published(phase: Phase) -> Published {
        Published::Known(Box::new(position(phase)))
    }

    fn code(slot: Option<&SlotInfo>, published: &Published, server: Option<&Server>) -> Option<&'static str> {
        verdict(Evidence { name: "s", database: "shop", slot, published, server }).map(|halt| halt.code().as_str())
    }

    #[test]
    fn a_slot_and_a_position_belong_together() {
        let (streaming, server) = (published(Phase::Streaming), server());
        let code = |slot: Option<&SlotInfo>, published: &Published| code(slot, published, Some(&server));
        assert_eq!(code(Some(&slot(100)), &streaming), None);
        assert_eq!(code(None, &streaming), Some("slot-missing"));
        assert_eq!(code(Some(&slot(100)), &Published::Nothing), Some("position-lost"));
        assert_eq!(code(None, &Published::Nothing), None);
        for phase in [Phase::Creating, Phase::Backfill] {
            assert_eq!(code(None, &published(phase)), None, "{phase:?}");
            assert_eq!(code(Some(&slot(900)), &published(phase)), None, "{phase:?}");
        }
        assert_eq!(code(None, &Published::Unreadable("garbage".into())), Some("position-invalid"));
        let lost = SlotInfo { wal_status: Some("lost".into()), ..slot(100) };
        assert_eq!(code(Some(&lost), &streaming), Some("slot-lost"));
    }

    #[test]
    fn a_slot_of_our_name_may_be_another_s() {
        assert!(require_own("s", &slot(100), "shop").is_ok());
        let elsewhere = require_own("s", &slot(100), "books").unwrap_err();
        assert_eq!(elsewhere.code(), Code::ConfigInvalid);
        assert!(elsewhere.detail().contains("database shop"), "{elsewhere}");
        let physical = SlotInfo { plugin: None, database: None, ..slot(100) };
        let plugin = SlotInfo { plugin: Some("wal2json".into()), ..slot(100) };
        let early = SlotInfo { two_phase: true, ..slot(100) };
        for slot in [physical, plugin, early] {
            assert!(require_own("s", &slot, "shop").is_err());
        }
        let streaming = published(Phase::Streaming);
        let slot = SlotInfo { database: Some("books".into()), ..slot(100) };
        assert_eq!(code(Some(&slot), &streaming, None), Some("config-invalid"));
    }

    #[test]
    fn the_history_is_compared_and_without_it_at_least_the_slot() {
        let streaming = published(Phase::Streaming);
        let with = |change: fn(&mut Server)| {
            let mut server = server();
            change(&mut server);
            code(Some(&slot(100)), &streaming, Some(&server))
        };
        assert_eq!(with(|_| ()), None);
        assert_eq!(with(|server| server.system_id = "8".into()), Some("system-changed"));
        assert_eq!(with(|server| server.flushed = Lsn(99)), Some("history-diverged"));
        assert_eq!(with(|server| server.publication = serde_json::json!({})), Some("publication-changed"));
        assert_eq!(code(Some(&slot(101)), &streaming, None), Some("slot-ahead"));
        assert_eq!(code(Some(&slot(100)), &streaming, None), None);
    }

    #[test]
    fn another_system_is_told_whatever_slot_there_is_and_in_every_phase() {
        let other = Server { system_id: "8".into(), ..server() };
        for phase in [Phase::Streaming, Phase::Backfill, Phase::Creating] {
            for slot in [None, Some(slot(100))] {
                assert_eq!(code(slot.as_ref(), &published(phase), Some(&other)), Some("system-changed"), "{phase:?}");
            }
        }
        let first = Published::Known(Box::new(Position::creating("s", serde_json::Value::Null)));
        assert_eq!(code(None, &first, Some(&other)), None, "nothing was published yet");
    }

    #[test]
    fn setup_makes_no_slot_for_a_source_whose_backfill_was_interrupted() {
        let backfill = position(Phase::Backfill);
        assert!(require_pair(Some(&backfill), false, Interrupted::GoesOn).is_ok());
        let refused = require_pair(Some(&backfill), false, Interrupted::NeedsItsSlot).unwrap_err();
        assert_eq!(refused.code(), Code::SlotMissing);
        let creating = position(Phase::Creating);
        assert!(require_pair(Some(&creating), false, Interrupted::NeedsItsSlot).is_ok());
    }
}
