//! Turns what there is into what a strategy writes, and what it may lose or repeat. Pure.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use crate::{
    Code, Error, Lsn, Result,
    config::{Backfill, Mark, Source},
    postgres::catalog::SlotInfo,
    source::{
        compare::{compare, require_same_system},
        facts::Facts,
        position::{Phase, Position, Recovered},
        verdict::{Evidence, verdict},
    },
};

/// A way back, chosen by a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Strategy {
    /// A new slot, and a backfill of every row that is still unmarked: loses no unmarked row, may
    /// repeat some.
    RepublishUnmarked,
    /// Go on from where the slot stands: may lose what the slot has passed, or repeat what it sends
    /// again.
    FromSlot,
    /// A new slot that begins now: loses everything that is not published yet.
    FromNow,
}

impl Strategy {
    /// As it is written on the command line.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::RepublishUnmarked => "republish-unmarked",
            Self::FromSlot => "from-slot",
            Self::FromNow => "from-now",
        }
    }
}

/// What happens to the slot after the position is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It stays.
    KeepSlot,
    /// It is dropped. The next `run` makes a new one, and backfills.
    DropSlot,
    /// It is dropped and made anew. Then a position `streaming` is written at its consistent point.
    NewSlot,
}

/// What to do, and what that means.
#[derive(Debug)]
pub struct Plan {
    /// Why a start would halt; `None` where nothing shows and a person insists.
    pub halt: Option<Error>,
    /// The strategy.
    pub strategy: Strategy,
    /// What is done, and what may be lost or repeated, one sentence each.
    pub says: Vec<String>,
    /// The position that is written first.
    pub position: Position,
    /// What happens to the slot after that.
    pub next: Next,
}

impl Plan {
    /// The plan of `strategy`. With `force` there is one also for a source that would start without
    /// a halt.
    ///
    /// # Errors
    /// [`Code::RecoverRefused`] when somebody streams, nothing is wrong, or the strategy does not
    /// fit the source.
    pub(crate) fn new(facts: &Facts, source: &Source, strategy: Strategy, force: bool) -> Result<Self> {
        if let Some(slot) = &facts.slot {
            require_ours(slot, facts, source)?;
        }
        let halt = halt(facts, source);
        if halt.is_none() && !force {
            let text = "the source would start without a halt, so there is nothing to recover (a halt that shows only \
                        while it streams needs --force)";
            return Err(refused(text));
        }
        let Way { position, next, mut says } = match strategy {
            Strategy::RepublishUnmarked => republish(facts, source)?,
            Strategy::FromSlot => from_slot(facts, source, halt.as_ref().map(Error::code))?,
            Strategy::FromNow => from_now(facts, source)?,
        };
        if halt.as_ref().is_some_and(|halt| halt.code() == Code::SystemChanged) {
            let system = &facts.server.system_id;
            says.push(format!(
                "the source belongs to system {system} from then on; the one before halts with system-changed if it \
                 comes back behind this configuration"
            ));
        }
        Ok(Self { halt, strategy, says, position, next })
    }

    /// Writes why the source halts and what the strategy means.
    ///
    /// # Errors
    /// `out` cannot be written to.
    pub(crate) fn print(&self, source: &Source, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "source {}", source.name)?;
        match &self.halt {
            Some(halt) => writeln!(out, "  halted   {halt}")?,
            None => writeln!(out, "  halted   by nothing that shows now; --force was given")?,
        }
        writeln!(out, "  strategy {}", self.strategy.as_str())?;
        self.says.iter().try_for_each(|line| writeln!(out, "    - {line}"))
    }

    /// The line that stays in the position topic.
    #[must_use]
    pub(crate) fn recovered(&self, facts: &Facts, by: String, now: SystemTime) -> Recovered {
        let position = facts.position();
        Recovered {
            strategy: self.strategy.as_str().to_owned(),
            time: humantime::format_rfc3339_seconds(now).to_string(),
            by,
            code: self.halt.as_ref().map(|halt| halt.code().as_str().to_owned()),
            phase: position.map(|position| position.phase),
            lsn: position.map(|position| position.progress.lsn),
        }
    }
}

fn refused(text: impl Into<String>) -> Error {
    Error::new(Code::RecoverRefused, text)
}

/// Refuses a slot that a session uses, or that outboxd cannot have made for this source.
fn require_ours(slot: &SlotInfo, facts: &Facts, source: &Source) -> Result<()> {
    let name = &source.slot;
    if slot.active {
        return Err(refused(format!("a session streams from slot {name}: stop every daemon of the source first")));
    }
    let ours = slot.plugin.as_deref() == Some("pgoutput")
        && slot.database.as_deref() == Some(facts.database.as_str())
        && !slot.temporary
        // A standby that was promoted still calls the slots of its old primary synced.
        && !(slot.synced && facts.in_recovery);
    if ours {
        Ok(())
    } else {
        Err(refused(format!("slot {name} is not a pgoutput slot of database {}", facts.database)))
    }
}

fn halt(facts: &Facts, source: &Source) -> Option<Error> {
    let Facts { published, slot, server, database, .. } = facts;
    verdict(Evidence { name: &source.slot, database, slot: slot.as_ref(), published, server: Some(server) })
}

/// What a strategy does, and what that means.
struct Way {
    position: Position,
    next: Next,
    says: Vec<String>,
}

fn republish(facts: &Facts, source: &Source) -> Result<Way> {
    if source.mark == Mark::None || source.backfill != Backfill::Unpublished {
        let text = "republish-unmarked needs mark = \"update\" or \"delete\", and backfill = \"unpublished\": without \
                    them nothing tells which rows are published";
        return Err(refused(text));
    }
    let mut position = facts.creating(source);
    // The last chunk of an interrupted backfill may be unmarked. The next start marks it first.
    if let Some(before) = facts.position().filter(|before| before.phase == Phase::Backfill)
        && require_same_system(before, &facts.server.system_id).is_ok()
        && before.chunk.iter().all(|row| facts.tables.contains(&row.table))
    {
        position = before.clone();
        // A server that lost that mark would halt at it. But a person has decided to publish what
        // is unmarked.
        position.marked = None;
    }
    let rows = unmarked(facts);
    let says = vec![
        format!("the next `outboxd run` publishes every unmarked row again by a backfill: {rows} now"),
        "LOSES nothing that is unmarked; rows that were marked and are not in the topics stay unpublished".to_owned(),
        "REPEATS rows that were published but not marked when the source stopped: mark those by hand first to avoid \
         it (docs/errors.md)"
            .to_owned(),
        "order is that of a backfill: best effort".to_owned(),
        format!("slot {} is dropped, and made anew by `run`", source.slot),
    ];
    Ok(Way { position, next: Next::DropSlot, says })
}

fn from_slot(facts: &Facts, source: &Source, halt: Option<Code>) -> Result<Way> {
    let Some(slot) = &facts.slot else {
        return Err(refused(format!("from-slot needs the slot {}, which does not exist", source.slot)));
    };
    if let Some(reason) = slot.lost() {
        return Err(refused(format!("slot {} is lost ({reason}) and never sends anything again", source.slot)));
    }
    require_publication(facts, source)?;
    if halt == Some(Code::PublicationChanged)
        && let Some(position) = unharmed_but_for_the_publication(facts, source)
    {
        let says = vec![
            format!("goes on after {}, with the publication as it is now", position.progress.lsn),
            "LOSES rows that the publication did not carry when they were committed; they stay unmarked".to_owned(),
            "REPEATS nothing".to_owned(),
            format!("unmarked rows now: {}", unmarked(facts)),
        ];
        return Ok(Way { position, next: Next::KeepSlot, says });
    }
    let stands = slot.confirmed_flush;
    let mut says = vec![format!("goes on from {stands}, where slot {} was confirmed", source.slot)];
    // LSNs of another history mean nothing here. And where a person insists, nobody knows what is
    // wrong.
    let comparable = matches!(halt, Some(Code::SlotAhead | Code::PublicationChanged));
    let published = facts.position().filter(|_| comparable).map(|before| before.progress.lsn);
    says.push(match published {
        Some(lsn) if lsn < stands => {
            format!(
                "LOSES every row committed after {lsn} and up to {stands} that is not published; they stay unmarked"
            )
        }
        Some(lsn) => format!("LOSES nothing that the slot still sends; published before: up to {lsn}"),
        None => format!(
            "LOSES every row committed before {stands} that is not published; how many, the LSNs cannot tell here"
        ),
    });
    says.push(match published {
        Some(lsn) if lsn <= stands => match published_part(facts, stands) {
            Some(part) => format!("REPEATS {part}"),
            None => "REPEATS nothing".to_owned(),
        },
        Some(lsn) => {
            let part = published_part(facts, stands).map_or_else(String::new, |part| format!(", and {part}"));
            format!("REPEATS every row committed after {stands} and up to {lsn}{part}")
        }
        None => format!("REPEATS rows committed after {stands} that are published already, marked or not"),
    });
    says.push(format!("unmarked rows now: {}", unmarked(facts)));
    Ok(Way { position: facts.streaming_at(stands, source), next: Next::KeepSlot, says })
}

/// Names the part of a split transaction that is published and that a slot at `stands` sends again.
fn published_part(facts: &Facts, stands: Lsn) -> Option<String> {
    let split = facts.position()?.progress.split.as_ref().filter(|split| stands <= split.final_lsn)?;
    Some(format!("the first {} rows of transaction {} at {}", split.rows, split.xid, split.final_lsn))
}

fn from_now(facts: &Facts, source: &Source) -> Result<Way> {
    require_publication(facts, source)?;
    let says = vec![
        format!("drops slot {} and makes it anew: the stream begins with what is committed from now on", source.slot),
        "LOSES everything that is not published yet; it stays unmarked where rows are marked".to_owned(),
        "REPEATS nothing".to_owned(),
        format!("unmarked rows now: {}", unmarked(facts)),
        "if it is interrupted before it says that it is done, run it again before the daemon".to_owned(),
    ];
    let position = facts.creating(source);
    Ok(Way { position, next: Next::NewSlot, says })
}

/// The old position with the publication of today, where nothing else differs: then what the slot
/// sends again is known to be published. A split transaction has no such position, since its rows
/// were counted through the old publication.
fn unharmed_but_for_the_publication(facts: &Facts, source: &Source) -> Option<Position> {
    let before = facts.position().filter(|before| before.phase == Phase::Streaming)?;
    let mut position = before.clone();
    position.publication.clone_from(&facts.server.publication);
    let unharmed = before.progress.split.is_none() && before.history.slot == source.slot;
    (unharmed && compare(&position, &facts.server).is_ok()).then_some(position)
}

fn require_publication(facts: &Facts, source: &Source) -> Result<()> {
    if facts.server.publication.is_null() {
        return Err(refused(format!("publication {} does not exist: make it first", source.publication)));
    }
    Ok(())
}

fn unmarked(facts: &Facts) -> String {
    facts.unmarked.map_or_else(|| "not known".to_owned(), |rows| rows.to_string())
}

#[cfg(test)]
mod tests;
