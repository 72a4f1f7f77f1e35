//! From the bytes of a replication message to a record at the end of the building batch.
//!
//! What comes in is borrowed from the receive buffer, what goes out is appended to the batch's arena: nothing is
//! allocated per row. The state machine says of each row whether it is new, owed a mark, or to be passed over.

use std::{collections::HashSet, time::Duration};

use super::{
    marks::Marks,
    rows::{Row, Rows},
    state::{Machine, RowIs},
};
use crate::{
    Code, Error, Lsn, Result,
    outbox::{Encoded, Records},
    pgoutput::{self, Insert, Message, Relation},
    postgres::{POSTGRES_EPOCH_US, ServerError, StreamMessage, catalog::TableInfo},
};

/// The reading half of a session: state machine, encoder and the batch under construction.
pub(super) struct Intake {
    /// What decides.
    pub(crate) machine: Machine,
    /// New rows of the building batch.
    pub(crate) records: Records,
    /// The same rows' ids, or those of redelivered rows.
    pub(crate) marks: Marks,
    rows: Rows,
    tables: Vec<TableInfo>,
    /// Partitions and ancestors of the tables: a row under such a name is ours, and cannot be told apart.
    relatives: HashSet<u32>,
    /// The transaction that is being read.
    xid: u32,
    /// Highest LSN received.
    received: Lsn,
    /// What happened since [`Intake::take_counts`] was asked.
    counts: Counts,
}

/// Rows by what became of them.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Published before; only their marks are made again.
    pub(crate) redelivered: u64,
    /// Went to the dead-letter topic.
    pub(crate) dead_letters: u64,
    /// Carried their mark already.
    pub(crate) passed_over: u64,
}

impl Intake {
    /// Resumes with the machine given.
    #[must_use]
    pub(super) fn new(machine: Machine, rows: Rows, (tables, relatives): (Vec<TableInfo>, HashSet<u32>)) -> Self {
        let (records, marks, counts) = (Records::default(), Marks::default(), Counts::default());
        Self { machine, records, marks, rows, tables, relatives, xid: 0, received: Lsn::ZERO, counts }
    }

    /// The source's tables.
    #[must_use]
    pub(super) fn tables(&self) -> &[TableInfo] {
        &self.tables
    }

    /// Highest LSN received, for the write position of the status.
    #[must_use]
    pub(super) fn received(&self) -> Lsn {
        self.received
    }

    /// What was counted since the last call.
    pub(super) fn take_counts(&mut self) -> Counts {
        Counts { dead_letters: self.rows.take_dead_letters(), ..std::mem::take(&mut self.counts) }
    }

    /// Takes one message of the stream. Returns whether the server asks for a reply at once.
    ///
    /// # Errors
    /// The message is not pgoutput, a row is poison and `on_poison = "stop"`, or the history is not the published one.
    pub(super) fn take(&mut self, message: StreamMessage<'_>, now: Duration) -> Result<bool> {
        match message {
            StreamMessage::XLogData { wal_end, clock, data, .. } => {
                self.received = self.received.max(wal_end);
                self.take_change(data, clock, now)?;
                Ok(false)
            }
            StreamMessage::Keepalive { wal_end, reply_requested, .. } => {
                self.received = self.received.max(wal_end);
                self.machine.keepalive(wal_end, reply_requested)?;
                Ok(reply_requested)
            }
            StreamMessage::Notice(notice) => take_notice(&notice).map(|()| false),
        }
    }

    /// `clock` is the server's when it sent the message, microseconds since 2000-01-01.
    fn take_change(&mut self, data: &[u8], clock: i64, now: Duration) -> Result<()> {
        let message = pgoutput::decode(data)
            .map_err(|error| Error::new(Code::PostgresProtocol, "decoding a pgoutput message").because(error))?;
        match message {
            Message::Begin(begin) => {
                self.xid = begin.xid;
                self.machine.begin(begin.final_lsn, begin.xid, begin.commit_time)?;
                self.rows.encoder.begin(begin.commit_time);
            }
            Message::Insert(insert) => self.take_row(&insert)?,
            Message::Commit(commit) => {
                // Both by the server's clock, so what ours says does not matter (fault 12).
                let behind = clock.saturating_add(POSTGRES_EPOCH_US).saturating_sub(commit.commit_time);
                let behind = Duration::from_micros(u64::try_from(behind).unwrap_or(0));
                self.machine.commit(commit.end_lsn, now, behind)?;
            }
            Message::Relation(relation) => {
                let mut tables = (0_u16..).zip(&self.tables);
                if let Some((table, _)) = tables.find(|(_, table)| table.oid == relation.oid) {
                    self.rows.encoder.bind(&relation.to_schema(), table)?;
                } else {
                    self.refuse_namesake(&relation)?;
                }
            }
            Message::Type(r#type) => self.rows.encoder.learn(&r#type),
            // Rule 29: other changes of an outbox table are nothing to publish. Rule 30: nor are logical messages.
            Message::Update(_)
            | Message::Delete(_)
            | Message::Truncate(_)
            | Message::Origin(_)
            | Message::Logical(_) => {}
        }
        Ok(())
    }

    fn take_row(&mut self, insert: &Insert<'_>) -> Result<()> {
        let row = Row { xid: self.xid, relation: insert.relation, tuple: &insert.row };
        if !self.rows.encoder.is_bound(insert.relation) {
            return self.take_row_of_another_table(insert.relation);
        }
        match self.machine.row(|id| self.rows.is_event(row, id))? {
            RowIs::New => match self.rows.append(row, &mut self.records, &mut self.marks)? {
                Encoded::Published => {
                    if let Some(record) = self.records.get(self.records.len() - 1) {
                        self.machine.published_row(record.size(), record.event_id.unwrap_or_default())?;
                    }
                }
                Encoded::AlreadyMarked => self.pass_over()?,
            },
            RowIs::Redelivered => {
                self.counts.redelivered += 1;
                match self.rows.append_mark(row, &mut self.marks)? {
                    Encoded::Published => self.machine.redelivered_row()?,
                    Encoded::AlreadyMarked => self.pass_over()?,
                }
            }
            RowIs::Dropped => {}
        }
        Ok(())
    }

    /// Under the name of a configured table, but not it: dropped and made anew, and its rows would be passed over.
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

    /// A publication may have tables that are none of the source's; their rows are passed over. A partition whose rows
    /// come under its own name is another matter.
    fn take_row_of_another_table(&mut self, relation: u32) -> Result<()> {
        if self.relatives.contains(&relation) {
            let text = format!(
                "rows come under relation {relation}, a partition or an ancestor of a configured table: \
                 the publication needs publish_via_partition_root = true, and `tables` the root"
            );
            return Err(Error::new(Code::PublicationChanged, text));
        }
        if self.machine.row(|_| false)? != RowIs::Dropped {
            self.pass_over()?;
        }
        Ok(())
    }

    fn pass_over(&mut self) -> Result<()> {
        self.counts.passed_over += 1;
        self.machine.passed_over()
    }
}

/// Postgres 18 goes on without a publication that is gone, and only says so: what it no longer sends would be lost.
fn take_notice(notice: &ServerError) -> Result<()> {
    // "skipped loading publication", in whatever language the server speaks.
    if notice.routine.as_deref() == Some("LoadPublications") {
        return Err(Error::new(Code::PublicationChanged, notice.to_string()));
    }
    tracing::info!(%notice, "the server says");
    Ok(())
}
