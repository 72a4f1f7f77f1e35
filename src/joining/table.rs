//! A table joins a source that streams already: `outboxd setup --add-table`.
//!
//! ```text
//!   lock ─▶ drain: the daemon's own relay, with the old tables, up to what is in the log now
//!        ─▶ fence every daemon ─▶ is everything that is published marked? It looks, and drains again
//!        ─▶ make what is missing: table, rights, publication  (a right is missing: nothing changes)
//!        ─▶ position `creating` ─▶ drop the slot ─▶ `run` makes it anew, and backfills
//! ```
//!
//! What must hold, and why it does:
//! - nothing is repeated: before `creating` is written, everything that is published is marked. The
//!   slot is confirmed only up to what is published *and* marked (rule 7), so the position's last
//!   commit must not lie beyond the slot's confirmed position. And since a slot can be ahead of the
//!   marks, rows that are unmarked are looked at again after another drain (`seen.rs`);
//! - nothing is lost: a row that is unmarked then is unpublished, whether it was committed before
//!   or after. The snapshot of the new slot shows it;
//! - the publication changes while no slot of ours decodes (rule 16). What the old slot had to send
//!   is published by then. The new slot is made only when every open transaction has ended;
//! - after a kill between any two steps, the same command goes on. Before `creating` is written, a
//!   daemon with the old `tables` can go on, too. After that, a daemon with the new ones can.

use tokio_postgres::Client;

use super::seen::Unmarked;
use crate::{
    Code, Error, Lsn, Result,
    config::{Backfill, Kafka, Mark, Source, TableName},
    kafka::position_topic,
    postgres::{
        ConnectOptions, SqlSession,
        catalog::{Fingerprint, SlotInfo, names::display_table, overlaps::refuse_overlaps, server, slots, tables},
    },
    relay,
    source::{
        compare::require_same_system,
        lock,
        newest::{self, Belief},
        position::{Phase, Position, Recovered},
        publication::look,
        server::require_server,
        takeover::Takeover,
        verdict::{Interrupted, require_kept, require_pair},
    },
};

/// `quiesce` gives up after this many drains that leave rows unmarked. A drain leaves some when it
/// ends while a transaction of many batches is being published.
const DRAINS: u32 = 5;

/// How far the source is that the tables have to join.
#[derive(Debug)]
pub(super) enum Stage {
    /// It has every table already, or was never set up. The ordinary set-up is enough.
    Ordinary,
    /// It streams the tables of `old`, and the others have to join.
    Streams {
        /// The source with the tables that are published.
        old: Box<Source>,
        /// The tables that join, as `schema.name` or `name`.
        joining: Vec<String>,
    },
    /// The next `run` makes its slot anew. Everything that was published is marked.
    Creating,
}

/// Tables that join a source, with the source's lock once it is taken.
pub(super) struct Joining<'a> {
    /// The source with the joining tables in it.
    source: &'a Source,
    kafka: &'a Kafka,
    sql: SqlSession,
}

impl<'a> Joining<'a> {
    /// Connects, and changes nothing.
    ///
    /// # Errors
    /// [`Code::SetupRefused`] where the tables do not tell what is published; any failure to look.
    pub(super) async fn begin(source: &'a Source, kafka: &'a Kafka) -> Result<Self> {
        require_exact(source)?;
        let sql = ConnectOptions::of(source).sql("setup").await?;
        require_server(&sql).await?;
        Ok(Self { source, kafka, sql })
    }

    /// Looks how far the source is, and changes nothing.
    ///
    /// # Errors
    /// [`Code::SlotInUse`] beside a running daemon; [`Code::SetupRefused`] in the middle of a
    /// backfill, or when a table would leave; the codes with which a start would halt.
    pub(super) async fn look(&self) -> Result<Stage> {
        let slot = lock::slot_at_rest(&self.sql, &self.source.slot).await?;
        require_free(slot.as_ref(), self.source)?;
        let Some(position) = self.position().await? else { return Ok(Stage::Ordinary) };
        require_same_system(&position, &server::system_id(&self.sql).await?)?;
        require_pair(Some(&position), slot.is_some(), Interrupted::GoesOn)?;
        match position.phase {
            Phase::Creating => Ok(Stage::Creating),
            Phase::Backfill => {
                let text = "the source is in the middle of a backfill: start the daemon with the tables as they were, \
                            and come back when it streams";
                Err(refused(text))
            }
            Phase::Streaming => self.who_joins(&position).await,
        }
    }

    /// Takes the source's lock, which keeps every other set-up and recovery away as long as this
    /// value lives. Then it makes Kafka abort a transaction that a killed daemon left open, which
    /// would hide the position until it times out.
    ///
    /// # Errors
    /// [`Code::SlotInUse`] when somebody has the lock or the slot.
    pub(super) async fn hold(&self) -> Result<()> {
        if !lock::take(&self.sql, &self.source.name).await? {
            return Err(Error::new(Code::SlotInUse, "another session sets the source up, backfills or recovers it"));
        }
        require_free(lock::slot_at_rest(&self.sql, &self.source.slot).await?.as_ref(), self.source)?;
        Takeover::fence(self.source, self.kafka).await.map(drop)
    }

    /// Gives the lock back when there is nothing to do.
    ///
    /// # Errors
    /// Only the error of a broken session.
    pub(super) async fn release(self) -> Result<()> {
        lock::give_back(&self.sql, &self.source.name).await
    }

    /// Publishes and marks what was committed so far, then fences every daemon.
    ///
    /// # Errors
    /// What halts the source; [`Code::SlotInUse`] when a daemon was started; [`Code::SetupRefused`]
    /// when rows are still unmarked after several drains.
    pub(super) async fn quiesce(&self, stage: &Stage) -> Result<Takeover> {
        let mut unmarked: Option<Unmarked> = None;
        for _ in 0..DRAINS {
            if let Stage::Streams { old, .. } = stage {
                let end = server::flushed_lsn(&self.sql).await?;
                let end = unmarked.as_ref().map_or(end, |unmarked| unmarked.end.max(end));
                tracing::info!(slot = old.slot, %end, "draining what was committed so far");
                relay::drain(old, self.kafka, end).await?;
            }
            position_topic::ensure(self.kafka).await?;
            let takeover = Takeover::fence(self.source, self.kafka).await?;
            // Every daemon is fenced, so what we read now does not change until a daemon starts.
            // That daemon would fence us first.
            let slot = lock::slot_at_rest(&self.sql, &self.source.slot).await?;
            require_free(slot.as_ref(), self.source)?;
            let confirmed = slot.map_or(Lsn::ZERO, |slot| slot.confirmed_flush);
            let position = self.position().await?;
            if let Some(owed) = position.as_ref().and_then(|position| owed(position, confirmed)) {
                tracing::warn!("{owed}; draining once more");
                continue;
            }
            let Stage::Streams { old, .. } = stage else { return Ok(takeover) };
            match unmarked.take() {
                Some(unmarked) => {
                    unmarked.require_marked(old).await?;
                    return Ok(takeover);
                }
                None => unmarked = Unmarked::of(old).await?,
            }
            if unmarked.as_ref().is_some_and(Unmarked::is_empty) {
                return Ok(takeover);
            }
            tracing::info!("rows are unmarked: draining once more, to see that they are new");
        }
        Err(refused(
            "rows are published and not marked yet after several drains: see the log for what holds up the marks",
        ))
    }

    /// Writes the position `creating`, and drops the slot. Everything that the new slot needs
    /// exists already.
    ///
    /// # Errors
    /// [`Code::KafkaFenced`] when a daemon was started in the meantime; whatever else stands in the
    /// way. The same command goes on from there.
    pub(super) async fn start_anew(self, takeover: Takeover, recovered: Recovered) -> Result<()> {
        let tables = tables::resolve_all(&self.sql, self.source).await?;
        let publication = look(&self.sql, self.source, &tables).await?;
        let mut position = Position::creating(&self.source.slot, publication);
        let before = self.position().await?;
        position.history.system_id = server::system_id(&self.sql).await?;
        position.recovered = Some(Recovered {
            phase: before.as_ref().map(|before| before.phase),
            lsn: before.as_ref().map(|before| before.progress.lsn),
            ..recovered
        });
        tracing::info!("writing the position `creating`");
        let _takeover = takeover.write(&position).await?;
        tracing::info!(slot = self.source.slot, "dropping the slot");
        slots::drop_slot(&self.sql, &self.source.slot).await
    }

    async fn position(&self) -> Result<Option<Box<Position>>> {
        newest::read(self.kafka, &self.source.name, Belief::Strict, newest::PATIENCE).await?.readable()
    }

    /// Separates the published tables, which the position knows by oid, from those that have to
    /// join.
    async fn who_joins(&self, position: &Position) -> Result<Stage> {
        let unreadable = || refused("the position does not tell which tables are published: start the source anew");
        let published = Fingerprint::table_oids_of_json(&position.publication).ok_or_else(unreadable)?;
        let (mut found, mut old, mut joining) = (Vec::new(), Vec::new(), Vec::new());
        let mut there = Vec::new();
        for name in &self.source.tables {
            let oid = oid(&self.sql, name).await?;
            there.extend(oid);
            match oid {
                Some(oid) if published.contains(&oid) => {
                    found.push(oid);
                    old.push(name.clone());
                }
                _ => joining.push(display_table(name)),
            }
        }
        if let Some(gone) = published.iter().find(|oid| !found.contains(oid)) {
            let text = format!("the table with oid {gone} is published and not among `tables`: tables can only join");
            return Err(refused(text));
        }
        // The rows of a table that overlaps another one are published already.
        refuse_overlaps(&self.sql, &there).await?;
        if joining.is_empty() {
            return Ok(Stage::Ordinary);
        }
        let old = Box::new(Source { tables: old, ..self.source.clone() });
        Ok(Stage::Streams { old, joining })
    }
}

async fn oid(client: &Client, name: &TableName) -> Result<Option<u32>> {
    Ok(tables::find_table(client, name).await?.map(|table| table.oid))
}

fn refused(text: impl Into<String>) -> Error {
    Error::new(Code::SetupRefused, text)
}

/// The new slot begins later than the old one ends. Only the marks tell which of the rows in
/// between are published.
fn require_exact(source: &Source) -> Result<()> {
    if source.mark != Mark::None && source.backfill == Backfill::Unpublished {
        return Ok(());
    }
    let text = "--add-table needs mark = \"update\" or \"delete\", and backfill = \"unpublished\": without them rows \
                that are committed between the old slot and the new one would be lost. Give the table a source of its own";
    Err(refused(text))
}

fn require_free(slot: Option<&SlotInfo>, source: &Source) -> Result<()> {
    let Some(slot) = slot else { return Ok(()) };
    if slot.active {
        let text = format!("a session streams from slot {}: stop every daemon of the source first", source.slot);
        return Err(Error::new(Code::SlotInUse, text));
    }
    require_kept(&source.slot, slot)
}

/// Says what may be published and not marked when the slot is confirmed up to `confirmed`.
fn owed(position: &Position, confirmed: Lsn) -> Option<String> {
    if position.phase != Phase::Streaming {
        return None;
    }
    let progress = &position.progress;
    if let Some(split) = &progress.split {
        return Some(format!("transaction {} is published in part", split.xid));
    }
    let commit = progress.commit.filter(|commit| commit.end_lsn > confirmed)?;
    Some(format!("published up to {}, and marked only up to {confirmed}", commit.end_lsn))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::position::{CommitId, History, Progress, Split};

    #[test]
    fn nothing_is_owed_once_the_slot_is_confirmed_behind_the_last_commit() {
        let history = History { system_id: "7".into(), timeline: 1, slot: "s".into(), consistent_point: Lsn(10) };
        let commit = CommitId { end_lsn: Lsn(100), xid: 7, time: 0 };
        let progress = Progress { lsn: Lsn(200), commit: Some(commit), split: None };
        let mut position = Position::new(Phase::Streaming, progress, history, serde_json::Value::Null);
        // The idle LSN of 200 says nothing about marks.
        assert_eq!(owed(&position, Lsn(100)), None);
        assert!(owed(&position, Lsn(99)).is_some());
        position.progress.split = Some(Split { final_lsn: Lsn(300), xid: 8, rows: 2, event_id: "e".into() });
        assert!(owed(&position, Lsn(250)).is_some());
        position.phase = Phase::Creating;
        assert_eq!(owed(&position, Lsn::ZERO), None);
    }
}
