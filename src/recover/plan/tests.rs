//! Tests each halt by its code, and each strategy by what it says and writes.

use super::*;
use crate::{
    Lsn,
    source::{
        newest::Published,
        position::{RowId, Split},
        samples,
    },
};

fn source(mark: Mark, backfill: Backfill) -> Source {
    Source { mark, backfill, ..samples::source() }
}

fn marking() -> Source {
    source(Mark::Update, Backfill::Unpublished)
}

/// A source that is published up to 100, with a slot that stands there.
fn healthy() -> Facts {
    Facts {
        published: Published::Known(Box::new(samples::position(Phase::Streaming))),
        slot: Some(samples::slot(100)),
        server: samples::server(),
        in_recovery: false,
        database: "shop".into(),
        tables: vec![16_400],
        unmarked: Some(9),
    }
}

fn confirmed(lsn: u64) -> Facts {
    let mut facts = healthy();
    facts.server.confirmed_flush = Lsn(lsn);
    if let Some(slot) = &mut facts.slot {
        slot.confirmed_flush = Lsn(lsn);
    }
    facts
}

fn before(facts: &mut Facts) -> &mut Position {
    match &mut facts.published {
        Published::Known(position) => position,
        other => panic!("{other:?}"),
    }
}

fn refusal(facts: &Facts, source: &Source, strategy: Strategy, force: bool) -> String {
    let error = Plan::new(facts, source, strategy, force).unwrap_err();
    assert_eq!(error.code(), Code::RecoverRefused);
    error.detail()
}

const ALL: [Strategy; 3] = [Strategy::RepublishUnmarked, Strategy::FromSlot, Strategy::FromNow];

#[test]
fn a_source_that_streams_is_refused_even_by_force_and_a_healthy_one_without() {
    let mut live = confirmed(101);
    live.slot.as_mut().unwrap().active = true;
    for strategy in ALL {
        assert!(refusal(&live, &marking(), strategy, true).contains("streams from slot"));
        assert!(refusal(&healthy(), &marking(), strategy, false).contains("nothing to recover"));
        assert!(Plan::new(&healthy(), &marking(), strategy, true).is_ok());
    }
}

#[test]
fn a_slot_that_is_not_an_outbox_s_is_never_dropped() {
    let mut foreign = confirmed(101);
    foreign.slot.as_mut().unwrap().database = Some("other".into());
    for strategy in ALL {
        assert!(refusal(&foreign, &marking(), strategy, true).contains("not a pgoutput slot"));
    }
}

#[test]
fn each_halt_is_known_by_its_code() {
    let code = |facts: &Facts| halt(facts, &marking()).map(|error| error.code());
    let mut facts = healthy();
    assert_eq!(code(&facts), None);
    assert_eq!(code(&confirmed(101)), Some(Code::SlotAhead));
    facts.slot = None;
    assert_eq!(code(&facts), Some(Code::SlotMissing));
    let mut facts = healthy();
    facts.slot.as_mut().unwrap().wal_status = Some("lost".into());
    assert_eq!(code(&facts), Some(Code::SlotLost));
    let mut facts = healthy();
    facts.published = Published::Nothing;
    assert_eq!(code(&facts), Some(Code::PositionLost));
    facts.published = Published::Unreadable("not a position".into());
    assert_eq!(code(&facts), Some(Code::PositionInvalid));
    let mut facts = healthy();
    facts.server.system_id = "8".into();
    assert_eq!(code(&facts), Some(Code::SystemChanged));
    let mut facts = healthy();
    facts.server.flushed = Lsn(99);
    assert_eq!(code(&facts), Some(Code::HistoryDiverged));
}

#[test]
fn without_marks_or_a_backfill_nothing_is_published_again() {
    let facts = confirmed(101);
    for source in [source(Mark::None, Backfill::None), source(Mark::Update, Backfill::None)] {
        assert!(refusal(&facts, &source, Strategy::RepublishUnmarked, false).contains("needs mark"));
    }
}

#[test]
fn the_marks_of_an_interrupted_backfill_stay_owed() {
    let mut facts = healthy();
    facts.slot.as_mut().unwrap().wal_status = Some("lost".into());
    before(&mut facts).phase = Phase::Backfill;
    before(&mut facts).chunk = vec![RowId { table: 16_400, id: "a".into() }];
    // A restored server without that mark would halt at it again, whatever a person had decided.
    before(&mut facts).marked = Some(RowId { table: 16_400, id: "b".into() });
    let plan = Plan::new(&facts, &marking(), Strategy::RepublishUnmarked, false).unwrap();
    assert_eq!((plan.position.phase, plan.position.chunk.len()), (Phase::Backfill, 1));
    assert_eq!(plan.position.marked, None);
    facts.tables.clear();
    let plan = Plan::new(&facts, &marking(), Strategy::RepublishUnmarked, false).unwrap();
    assert_eq!(plan.position.phase, Phase::Creating);
}

#[test]
fn from_slot_says_what_lies_between_the_position_and_the_slot() {
    let plan = Plan::new(&confirmed(150), &marking(), Strategy::FromSlot, false).unwrap();
    assert_eq!((plan.position.progress.lsn, plan.position.progress.commit), (Lsn(150), None));
    assert!(plan.says.iter().any(|line| line.contains("LOSES every row committed after 0/64 and up to 0/96")));
    assert!(plan.says.contains(&"REPEATS nothing".to_owned()));
}

#[test]
fn from_slot_keeps_the_position_where_only_the_publication_changed() {
    let mut facts = confirmed(80);
    before(&mut facts).publication = serde_json::json!({"then": 1});
    let plan = Plan::new(&facts, &marking(), Strategy::FromSlot, false).unwrap();
    assert_eq!(plan.position.progress.lsn, Lsn(100));
    assert_eq!(plan.position.publication, facts.server.publication);

    // The rows of a transaction are counted through the publication. So the plan goes from the
    // slot, and repeats rows.
    before(&mut facts).progress.split = Some(Split { final_lsn: Lsn(120), xid: 1, rows: 3, event_id: "e".into() });
    let plan = Plan::new(&facts, &marking(), Strategy::FromSlot, false).unwrap();
    assert_eq!((plan.position.progress.lsn, plan.position.progress.split.is_none()), (Lsn(80), true));
    let repeats =
        "REPEATS every row committed after 0/50 and up to 0/64, and the first 3 rows of transaction 1 at 0/78";
    assert!(plan.says.iter().any(|line| line == repeats), "{:?}", plan.says);

    // It repeats them also where the slot stands at the position: the published part of the split
    // transaction lies after it.
    let mut facts = confirmed(100);
    before(&mut facts).publication = serde_json::json!({"then": 1});
    before(&mut facts).progress.split = Some(Split { final_lsn: Lsn(120), xid: 1, rows: 3, event_id: "e".into() });
    let plan = Plan::new(&facts, &marking(), Strategy::FromSlot, false).unwrap();
    let repeats = "REPEATS the first 3 rows of transaction 1 at 0/78";
    assert!(plan.says.iter().any(|line| line == repeats), "{:?}", plan.says);
}

#[test]
fn a_lost_or_missing_slot_sends_nothing_to_go_on_from() {
    let mut facts = healthy();
    facts.slot.as_mut().unwrap().wal_status = Some("lost".into());
    assert!(refusal(&facts, &marking(), Strategy::FromSlot, false).contains("is lost"));
    facts.slot = None;
    assert!(refusal(&facts, &marking(), Strategy::FromSlot, false).contains("does not exist"));
}

#[test]
fn a_slot_that_came_with_a_promoted_standby_is_ours_and_a_standbys_own_copy_is_not() {
    let mut facts = confirmed(120);
    if let Some(slot) = &mut facts.slot {
        slot.synced = true;
    }
    assert!(Plan::new(&facts, &marking(), Strategy::RepublishUnmarked, false).is_ok());
    facts.in_recovery = true;
    let refused = Plan::new(&facts, &marking(), Strategy::RepublishUnmarked, false).unwrap_err();
    assert_eq!(refused.code(), Code::RecoverRefused);
}
