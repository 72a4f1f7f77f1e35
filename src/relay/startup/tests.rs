use super::*;
use crate::source::position::{History, Progress};

fn position(phase: Phase) -> Fact {
    with_slot(phase, true)
}

fn with_slot(phase: Phase, slot_exists: bool) -> Fact {
    let history =
        History { system_id: "1".into(), timeline: 1, slot: "outboxd_order".into(), consistent_point: Lsn(1) };
    let position = Position::new(phase, Progress::default(), history, serde_json::Value::Null);
    Fact::Position { position: Some(Box::new(position)), slot_exists, system_id: "1".into() }
}

fn nothing(slot_exists: bool) -> Fact {
    Fact::Position { position: None, slot_exists, system_id: "1".into() }
}

fn server(system_id: &str) -> Fact {
    Fact::Server(Box::new(Server {
        system_id: system_id.to_owned(),
        timeline: 1,
        flushed: Lsn(9),
        switches: Vec::new(),
        confirmed_flush: Lsn::ZERO,
        publication: serde_json::Value::Null,
    }))
}

fn walk(policy: Policy, facts: Vec<Fact>) -> (Vec<Step>, Result<(), Code>) {
    let mut startup = Startup::new(policy);
    let mut steps = vec![startup.step()];
    for fact in facts {
        if let Err(error) = startup.report(fact) {
            return (steps, Err(error.code()));
        }
        steps.push(startup.step());
    }
    (steps, Ok(()))
}

const BACKFILL: Policy = Policy { backfill: true, auto_setup: true };
const NO_BACKFILL: Policy = Policy { backfill: false, auto_setup: true };

#[test]
fn the_position_is_read_only_with_the_slot_in_hand_and_the_predecessor_fenced() {
    let facts = vec![Fact::Done, Fact::Done, Fact::Done, position(Phase::Streaming), server("1")];
    let (steps, result) = walk(BACKFILL, facts);
    assert_eq!(result, Ok(()));
    use Step::*;
    assert_eq!(steps, [TakeSlot, InitProducers, CheckOwnership, ReadPosition, Compare, Stream]);
}

#[test]
fn a_first_start_writes_creating_before_it_makes_the_slot() {
    let none = nothing(false);
    let made = Fact::Slot { begins: Lsn(7) };
    let (steps, result) = walk(
        BACKFILL,
        vec![
            Fact::SlotAbsent,
            Fact::Done,
            Fact::Done,
            Fact::Done,
            none,
            Fact::Done,
            made,
            Fact::Done,
            Fact::Done,
            Fact::Done,
        ],
    );
    assert_eq!(result, Ok(()));
    use Step::*;
    assert_eq!(steps[4..], [ReadPosition, WriteCreating, CreateSlot, WriteBackfill, Backfill, WriteStreaming, Stream]);
}

#[test]
fn an_interrupted_backfill_marks_its_last_chunk_and_begins_anew() {
    let mut facts = vec![Fact::Done, Fact::Done, Fact::Done, position(Phase::Backfill)];
    facts.extend([Fact::Done, Fact::Done, Fact::Done, position(Phase::Backfill)]);
    facts.extend([Fact::Done, Fact::Done, Fact::Done, Fact::Done]);
    let (steps, result) = walk(BACKFILL, facts);
    assert_eq!(result, Ok(()));
    use Step::*;
    assert_eq!(steps[4..5], [LockSource]);
    assert_eq!(steps[8..], [MarkChunk, WriteCreating, ReleaseSlot, DropSlot, CreateSlot]);
}

#[test]
fn marks_that_were_made_are_looked_for_before_the_set_up_goes_on() {
    let mut marked = with_slot(Phase::Creating, false);
    if let Fact::Position { position: Some(position), .. } = &mut marked {
        position.marked = Some(crate::source::position::RowId { table: 1, id: "e7".into() });
    }
    let facts = vec![Fact::SlotAbsent, Fact::Done, Fact::Done, Fact::Done, marked, Fact::Done];
    let (steps, result) = walk(BACKFILL, facts);
    assert_eq!(result, Ok(()));
    assert_eq!(steps[5..], [Step::MarkChunk, Step::WriteCreating]);
}

#[test]
fn without_a_backfill_a_slot_in_creation_is_adopted() {
    let mut facts = vec![Fact::Done, Fact::Done, Fact::Done, position(Phase::Creating)];
    facts.extend([Fact::Done, Fact::Done, Fact::Done, position(Phase::Creating), Fact::Done, Fact::Done]);
    let (steps, result) = walk(NO_BACKFILL, facts);
    assert_eq!(result, Ok(()));
    assert_eq!(steps.last(), Some(&Step::AdoptSlot));
}

#[test]
fn a_backfill_that_is_not_wanted_any_more_leaves_the_slot_what_came_after_it() {
    let mut facts = vec![Fact::Done, Fact::Done, Fact::Done, position(Phase::Backfill)];
    facts.extend([Fact::Done, Fact::Done, Fact::Done, position(Phase::Backfill)]);
    facts.extend([Fact::Done, Fact::Done, Fact::Done]);
    let (steps, result) = walk(NO_BACKFILL, facts);
    assert_eq!(result, Ok(()));
    use Step::*;
    assert_eq!(steps[8..], [MarkChunk, WriteCreating, ReleaseSlot, AdoptSlot]);
}

#[test]
fn a_lost_slot_or_position_halts() {
    let ready = || vec![Fact::SlotAbsent, Fact::Done, Fact::Done, Fact::Done];
    let mut facts = ready();
    facts.extend([with_slot(Phase::Streaming, false), Fact::Done]);
    assert_eq!(walk(BACKFILL, facts).1, Err(Code::SlotMissing));
    let mut facts = ready();
    facts.extend([nothing(true), Fact::Done]);
    assert_eq!(walk(BACKFILL, facts).1, Err(Code::PositionLost));
    let mut facts = vec![Fact::Done, Fact::Done, Fact::Done];
    facts.extend([nothing(true), Fact::Done]);
    assert_eq!(walk(BACKFILL, facts).1, Err(Code::PositionLost));
}

#[test]
fn what_a_successor_did_meanwhile_is_no_reason_to_halt() {
    let made_meanwhile = nothing(true);
    let facts = vec![Fact::SlotAbsent, Fact::Done, Fact::Done, Fact::Done, made_meanwhile, Fact::TakenByAnother];
    let (steps, result) = walk(BACKFILL, facts);
    assert_eq!(result, Ok(()));
    assert_eq!(steps.last(), Some(&Step::StandBy));
}

#[test]
fn a_difference_halts_only_whoever_has_the_slot() {
    let begin = || vec![Fact::Done, Fact::Done, Fact::Done, position(Phase::Streaming), server("2")];
    let mut facts = begin();
    facts.push(Fact::Done);
    assert_eq!(walk(BACKFILL, facts).1, Err(Code::SystemChanged));
    let mut facts = begin();
    facts.push(Fact::TakenByAnother);
    assert_eq!(walk(BACKFILL, facts).0.last(), Some(&Step::StandBy));
}

#[test]
fn where_another_leads_one_stands_by() {
    for facts in [
        vec![Fact::TakenByAnother],
        vec![Fact::Done, Fact::Done, Fact::TakenByAnother],
        vec![Fact::SlotAbsent, Fact::TakenByAnother],
        vec![Fact::SlotAbsent, Fact::Done, Fact::Done, Fact::Done, position(Phase::Streaming)],
    ] {
        assert_eq!(walk(BACKFILL, facts).0.last(), Some(&Step::StandBy));
    }
}

#[test]
fn another_system_halts_in_every_phase_before_anything_is_made() {
    for phase in [Phase::Streaming, Phase::Creating, Phase::Backfill] {
        let elsewhere = || match with_slot(phase, false) {
            Fact::Position { position, slot_exists, .. } => {
                Fact::Position { position, slot_exists, system_id: "2".into() }
            }
            fact => fact,
        };
        let setting_up = vec![Fact::SlotAbsent, Fact::Done, Fact::Done, Fact::Done, elsewhere(), Fact::Done];
        assert_eq!(walk(BACKFILL, setting_up).1, Err(Code::SystemChanged), "{phase:?}");
        let with_the_slot = vec![Fact::Done, Fact::Done, Fact::Done, elsewhere(), Fact::Done];
        assert_eq!(walk(BACKFILL, with_the_slot).1, Err(Code::SystemChanged), "{phase:?}");
    }
}
