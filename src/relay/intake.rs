//! Turns the bytes of a replication message into a record at the end of the building batch.
//!
//! A message is borrowed from the receive buffer, and its record is appended to the batch's arena.
//! So nothing is allocated per row. The state machine says of each row whether it is new, is owed a
//! mark, or is passed over.

use std::{collections::HashSet, time::Duration};

use super::{
    driver::Driver,
    gathered::Gathered,
    rows::{Row, Rows, last, waiting},
    state::RowIs,
};
use crate::{
    Code, Error, Lsn, Result,
    outbox::Encoded,
    pgoutput::{self, Insert, Message, Relation},
    postgres::{POSTGRES_EPOCH_US, ServerError, StreamMessage, catalog::TableInfo},
};

/// The reading half of a session. It decodes what arrived, and tells the driver.
pub(super) struct Intake {
    rows: Rows,
    tables: Vec<TableInfo>,
    /// Oids of partitions and ancestors of the tables. A row that comes under one of these may be
    /// ours, and nothing in the row says so.
    relatives: HashSet<u32>,
    /// The transaction that is being read.
    xid: u32,
    /// Highest LSN received.
    received: Lsn,
    /// What happened since the last [`Intake::take_counts`].
    counts: Counts,
    /// Why nothing more is read: a row that cannot be published, or a table that cannot serve.
    refused: Option<Error>,
}

/// The driver of a session on real servers.
pub(super) type Relaying = Driver<Gathered>;

/// How many rows met each fate.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Rows that were published before. Only their marks are made again.
    pub(crate) redelivered: u64,
    /// Rows that went to the dead-letter topic.
    pub(crate) dead_letters: u64,
    /// Rows that carried their mark already, and rows of tables that are none of the source's.
    pub(crate) passed_over: u64,
    /// Those of them that carried their mark.
    pub(crate) came_marked: u64,
}

impl Intake {
    /// `relatives` are the oids of partitions and ancestors of the tables.
    #[must_use]
    pub(super) fn new(rows: Rows, tables: Vec<TableInfo>, relatives: HashSet<u32>) -> Self {
        Self { rows, tables, relatives, xid: 0, received: Lsn::ZERO, counts: Counts::default(), refused: None }
    }

    /// The highest LSN received. The status reports it as the write position.
    #[must_use]
    pub(super) fn received(&self) -> Lsn {
        self.received
    }

    /// What was counted since the last call.
    pub(super) fn take_counts(&mut self) -> Counts {
        Counts { dead_letters: self.rows.take_dead_letters(), ..std::mem::take(&mut self.counts) }
    }

    /// Whether a row or a table was refused, so that nothing more is read.
    #[must_use]
    pub(super) fn has_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Reads nothing more, for this reason, unless there is another one already. The session ends
    /// once what came before is finished.
    pub(super) fn refuse(&mut self, error: Error, driver: &mut Relaying) {
        self.refused.get_or_insert(error);
        driver.drain();
    }

    /// Why the row or the table was refused. The session ends with it, once what came before is
    /// finished.
    pub(super) fn take_refusal(&mut self) -> Option<Error> {
        self.refused.take()
    }

    /// Takes an error of the stream. A message that is too large ends the session once what came
    /// before it is finished.
    ///
    /// # Errors
    /// Any other error.
    pub(super) fn refuse_message(&mut self, error: Error, driver: &mut Relaying) -> Result<()> {
        self.refuse(waiting(error)?, driver);
        Ok(())
    }

    /// Takes one message of the stream. A row that is poison with `on_poison = "stop"`, and a table
    /// whose columns cannot serve, are no error yet ([`Intake::has_refused`]): the driver drains.
    ///
    /// # Errors
    /// The message is not pgoutput, or the history is not the published one.
    pub(super) fn take(&mut self, message: StreamMessage<'_>, driver: &mut Relaying, now: Duration) -> Result<()> {
        match message {
            StreamMessage::XLogData { wal_end, clock, data, .. } => {
                self.received = self.received.max(wal_end);
                self.take_change(data, clock, driver, now)
            }
            StreamMessage::Keepalive { wal_end, reply_requested, .. } => {
                self.received = self.received.max(wal_end);
                driver.machine.keepalive(wal_end, reply_requested)?;
                if reply_requested {
                    driver.ask_for_status();
                }
                Ok(())
            }
            StreamMessage::Notice(notice) => take_notice(&notice),
        }
    }

    /// `clock` is the server's clock when it sent the message, in microseconds since 2000-01-01.
    fn take_change(&mut self, data: &[u8], clock: i64, driver: &mut Relaying, now: Duration) -> Result<()> {
        let message = pgoutput::decode(data)
            .map_err(|error| Error::new(Code::PostgresProtocol, "decoding a pgoutput message").because(error))?;
        match message {
            Message::Begin(begin) => {
                self.xid = begin.xid;
                driver.machine.begin(begin.final_lsn, begin.xid, begin.commit_time)?;
                driver.building.begin(begin.commit_time, begin.final_lsn);
                self.rows.begin(begin.commit_time);
            }
            Message::Insert(insert) => self.take_row(&insert, driver)?,
            Message::Commit(commit) => {
                // Both times are by the server's clock, so ours does not matter (fault 12).
                let behind = clock.saturating_add(POSTGRES_EPOCH_US).saturating_sub(commit.commit_time);
                let behind = Duration::from_micros(u64::try_from(behind).unwrap_or(0));
                driver.machine.commit(commit.end_lsn, now, behind)?;
            }
            Message::Relation(relation) => {
                let mut tables = (0_u16..).zip(&self.tables);
                if let Some((table, _)) = tables.find(|(_, table)| table.oid == relation.oid) {
                    if let Err(error) = self.rows.encoder.bind(&relation.to_schema(), table) {
                        self.refuse_message(error, driver)?;
                    }
                } else {
                    self.refuse_namesake(&relation)?;
                }
            }
            Message::Type(r#type) => self.rows.encoder.learn(&r#type),
            // Other changes of an outbox table publish nothing (rule 29), and neither do logical
            // messages (rule 30).
            Message::Update(_)
            | Message::Delete(_)
            | Message::Truncate(_)
            | Message::Origin(_)
            | Message::Logical(_) => {}
        }
        Ok(())
    }

    fn take_row(&mut self, insert: &Insert<'_>, driver: &mut Relaying) -> Result<()> {
        let row = Row { xid: self.xid, relation: insert.relation, tuple: &insert.row };
        if !self.rows.encoder.is_bound(insert.relation) {
            return self.take_row_of_another_table(insert.relation, driver);
        }
        let Driver { machine, building: Gathered { records, marks, .. }, .. } = driver;
        match machine.row(|id| self.rows.is_event(row, id))? {
            RowIs::New => match self.rows.append(row, records, marks) {
                Ok(Encoded::Published) => {
                    let record = last(records)?;
                    machine.published_row(record.size(), record.event_id.unwrap_or_default())?;
                }
                Ok(Encoded::AlreadyMarked) => self.pass_over_marked(driver)?,
                Err(error) => {
                    self.refused = Some(waiting(error)?);
                    machine.refused_row()?;
                }
            },
            RowIs::Redelivered => {
                self.counts.redelivered += 1;
                match self.rows.append_mark(row, marks)? {
                    Encoded::Published => machine.redelivered_row()?,
                    Encoded::AlreadyMarked => self.pass_over_marked(driver)?,
                }
            }
            RowIs::Dropped => {}
        }
        Ok(())
    }

    /// Refuses a relation that has the name of a configured table but another oid. The table was
    /// dropped and made anew, and the rows of the new one would be passed over.
    fn refuse_namesake(&self, relation: &Relation<'_>) -> Result<()> {
        let same = |table: &&TableInfo| table.schema == relation.schema && table.name == relation.name;
        match self.tables.iter().find(same) {
            Some(table) => {
                let text =
                    format!("table {} (oid {}) was made anew (oid {})", table.display_name(), table.oid, relation.oid);
                Err(Error::new(Code::PublicationChanged, text))
            }
            None => Ok(()),
        }
    }

    /// A publication may hold tables that are none of the source's, and their rows are passed over.
    /// Rows that come under a partition or an ancestor of a table of ours are refused.
    fn take_row_of_another_table(&mut self, relation: u32, driver: &mut Relaying) -> Result<()> {
        if self.relatives.contains(&relation) {
            let text = format!(
                "rows come under relation {relation}, a partition or an ancestor of a configured table: \
                 the publication needs publish_via_partition_root = true, and `tables` the root"
            );
            return Err(Error::new(Code::PublicationChanged, text));
        }
        if driver.machine.row(|_| false)? != RowIs::Dropped {
            self.pass_over(driver)?;
        }
        Ok(())
    }

    fn pass_over_marked(&mut self, driver: &mut Relaying) -> Result<()> {
        self.counts.came_marked += 1;
        self.pass_over(driver)
    }

    fn pass_over(&mut self, driver: &mut Relaying) -> Result<()> {
        self.counts.passed_over += 1;
        driver.machine.passed_over()
    }
}

/// Postgres 18 goes on when the publication is gone, and says so only in a notice. The rows that it
/// no longer sends would be lost.
fn take_notice(notice: &ServerError) -> Result<()> {
    // The server says "skipped loading publication" in its own language, so the routine is
    // compared.
    if notice.routine.as_deref() == Some("LoadPublications") {
        return Err(Error::new(Code::PublicationChanged, notice.to_string()));
    }
    tracing::info!(%notice, "the server says");
    Ok(())
}
