//! Does the server that answers still hold the history whose rows were published? The start asks
//! this before every START_REPLICATION, since a reconnect may reach a promoted standby or a
//! restored copy (rules 4 and 18). Any difference halts the source.

use serde::Deserialize;
use serde_json::Value;

use super::position::Position;
use crate::{Code, Error, Lsn, postgres::catalog::Fingerprint};

/// What the server says of itself and of the slot.
#[derive(Debug, Clone)]
pub struct Server {
    /// From IDENTIFY_SYSTEM.
    pub system_id: String,
    /// From IDENTIFY_SYSTEM.
    pub timeline: u32,
    /// The flushed end of its log.
    pub flushed: Lsn,
    /// From TIMELINE_HISTORY: each earlier timeline and where it ended.
    pub switches: Vec<(u32, Lsn)>,
    /// The slot's `confirmed_flush_lsn`.
    pub confirmed_flush: Lsn,
    /// The fingerprint of the publication as it is now.
    pub publication: Value,
}

/// Compares what was published with the server at hand.
///
/// # Errors
/// One of the halting codes `system-changed`, `history-diverged`, `slot-ahead`,
/// `publication-changed`.
pub fn compare(position: &Position, server: &Server) -> Result<(), Error> {
    let history = &position.history;
    let reached = reached(position);
    require_same_system(position, &server.system_id)?;
    compare_timelines(history.timeline, reached, server)?;
    if reached > server.flushed {
        return Err(Error::new(
            Code::HistoryDiverged,
            format!("published up to {reached}, but the server's log ends at {}", server.flushed),
        ));
    }
    require_slot_behind(position, server.confirmed_flush)?;
    require_same_publication(&position.publication, &server.publication)
}

/// Another cluster may answer behind the same configuration. What it has says nothing about what was
/// published, so this comes before any other question. The position of a first set-up names no
/// system, since nothing is published yet.
///
/// # Errors
/// [`Code::SystemChanged`].
pub(crate) fn require_same_system(position: &Position, system_id: &str) -> Result<(), Error> {
    let published = &position.history.system_id;
    if published.is_empty() || published == system_id {
        return Ok(());
    }
    let text = format!("rows were published from system {published}, and system {system_id} answers");
    Err(Error::new(Code::SystemChanged, text))
}

/// Rule 4: a server begins at the slot's own position when a client asks for an earlier one, and
/// says nothing. So rows would be lost unseen if the slot were ahead of the position.
///
/// # Errors
/// [`Code::SlotAhead`].
pub(crate) fn require_slot_behind(position: &Position, confirmed_flush: Lsn) -> Result<(), Error> {
    let lsn = position.progress.lsn;
    if confirmed_flush <= lsn {
        return Ok(());
    }
    Err(Error::new(
        Code::SlotAhead,
        format!("published up to {lsn}, but the slot was confirmed up to {confirmed_flush}"),
    ))
}

/// What the server's log must reach at least. When the first rows of a split transaction were
/// published, its commit record was there. So the log goes beyond the start of that record. Without
/// this check a source would wait until another server's log has grown that far.
fn reached(position: &Position) -> Lsn {
    let split = position.progress.split.as_ref().map(|split| Lsn(split.final_lsn.0.saturating_add(1)));
    position.progress.lsn.max(split.unwrap_or(Lsn::ZERO))
}

/// Compares two fingerprints of the publication. Nobody would notice what a changed publication no
/// longer sends.
///
/// # Errors
/// `publication-changed`, with what is different.
pub fn require_same_publication(then: &Value, now: &Value) -> Result<(), Error> {
    if then == now {
        return Ok(());
    }
    let different = match (Fingerprint::deserialize(then), Fingerprint::deserialize(now)) {
        (Ok(then), Ok(now)) => then.differences(&now),
        _ if now.is_null() => vec!["the publication does not exist any more".to_owned()],
        _ => vec![format!("it was {then} and is now {now}")],
    };
    // Two fingerprints may differ as texts and mean the same.
    if different.is_empty() { Ok(()) } else { Err(Error::new(Code::PublicationChanged, different.join("; "))) }
}

fn compare_timelines(published_on: u32, reached: Lsn, server: &Server) -> Result<(), Error> {
    if published_on == server.timeline {
        return Ok(());
    }
    let switch = server.switches.iter().find(|(timeline, _)| *timeline == published_on);
    match switch {
        Some((_, left)) if *left >= reached => Ok(()),
        Some((_, left)) => Err(Error::new(
            Code::HistoryDiverged,
            format!(
                "published up to {reached} on timeline {published_on}, which timeline {} left at {left}",
                server.timeline
            ),
        )),
        None => Err(Error::new(
            Code::HistoryDiverged,
            format!("published on timeline {published_on}, which timeline {} does not come from", server.timeline),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::position::{History, Phase, Progress, Split};

    fn given() -> (Position, Server) {
        let history = History { system_id: "7".into(), timeline: 2, slot: "s".into(), consistent_point: Lsn(10) };
        let progress = Progress { lsn: Lsn(100), commit: None, split: None };
        let publication = serde_json::json!({"tables": [1]});
        let position = Position::new(Phase::Streaming, progress, history, publication.clone());
        let server = Server {
            system_id: "7".into(),
            timeline: 2,
            flushed: Lsn(100),
            switches: vec![(1, Lsn(50))],
            confirmed_flush: Lsn(100),
            publication,
        };
        (position, server)
    }

    fn code(change: impl FnOnce(&mut Position, &mut Server)) -> Option<Code> {
        let (mut position, mut server) = given();
        change(&mut position, &mut server);
        compare(&position, &server).err().map(|error| error.code())
    }

    #[test]
    fn the_same_history_may_be_streamed() {
        assert_eq!(code(|_, _| ()), None);
    }

    #[test]
    fn a_promoted_standby_is_taken_only_if_it_had_everything_that_was_published() {
        let promote = |left: u64| {
            move |_: &mut Position, server: &mut Server| {
                server.timeline = 3;
                server.switches.push((2, Lsn(left)));
                server.flushed = Lsn(500);
            }
        };
        assert_eq!(code(promote(100)), None);
        assert_eq!(code(promote(99)), Some(Code::HistoryDiverged));
        assert_eq!(code(|_, server| server.timeline = 4), Some(Code::HistoryDiverged));
        assert_eq!(code(|position, _| position.history.timeline = 3), Some(Code::HistoryDiverged));
    }

    #[test]
    fn the_log_must_hold_the_whole_of_a_split_transaction() {
        let split_at = |position: &mut Position, lsn: u64| {
            position.progress.split = Some(Split { final_lsn: Lsn(lsn), xid: 1, rows: 2, event_id: "e".into() });
        };
        assert_eq!(code(|position, _| split_at(position, 99)), None);
        assert_eq!(code(|position, _| split_at(position, 100)), Some(Code::HistoryDiverged));
        let promoted = |position: &mut Position, server: &mut Server| {
            split_at(position, 150);
            (server.timeline, server.flushed) = (3, Lsn(500));
            server.switches.push((2, Lsn(120)));
        };
        assert_eq!(code(promoted), Some(Code::HistoryDiverged));
    }

    #[test]
    fn every_other_difference_halts_with_its_code() {
        assert_eq!(code(|_, server| server.system_id = "8".into()), Some(Code::SystemChanged));
        assert_eq!(code(|_, server| server.flushed = Lsn(99)), Some(Code::HistoryDiverged));
        assert_eq!(code(|_, server| server.confirmed_flush = Lsn(101)), Some(Code::SlotAhead));
        assert_eq!(code(|_, server| server.publication = serde_json::json!({})), Some(Code::PublicationChanged));
    }
}
