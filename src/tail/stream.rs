//! The stream of a temporary slot, from now on.

use std::{collections::HashSet, time::Duration};

use tokio::time::MissedTickBehavior;
use tokio_postgres::error::SqlState;

use super::{
    event::Place,
    lines::Lines,
    rows::{Row, Rows},
    say,
};
use crate::{
    Code, Error, Lsn, Result,
    config::Source,
    pgoutput::{self, Message, Relation},
    postgres::{
        ConnectOptions, CreateSlot, CreatedSlot, ReplicationClient, ReplicationStream, ServerError, SqlSession,
        StandbyStatus, StreamMessage,
        catalog::{TableInfo, tables},
        sqlstate,
    },
    source::{
        publication::{look, require_publishes},
        server::{require_same_server_streams, require_server, what_holds_up},
    },
};

/// The longest name of a slot.
const NAME_BYTES: usize = 63;

/// A person is told of a wait that is longer than this.
const SAYS_AFTER: Duration = Duration::from_secs(1);

/// A stream of one source.
pub(super) struct Stream {
    replication: ReplicationStream,
    /// Postgres ends it when it shuts down. The walsender would wait for us.
    sql: SqlSession,
    intake: Intake,
    status_every: Duration,
    slot: String,
    begins: Lsn,
}

impl Stream {
    /// Makes the slot, and streams from it.
    ///
    /// # Errors
    /// What keeps a daemon from streaming as well: server, tables, publication, rights. And
    /// [`Code::PostgresExhausted`], where the server has no slot or no walsender left.
    pub(super) async fn open(source: &Source, position_topic: &str) -> Result<Self> {
        let connect = ConnectOptions::of(source);
        let sql = connect.sql("tail").await?;
        let server = require_server(&sql).await?;
        let tables = tables::resolve_all(&sql, source).await?;
        let relatives = tables::relatives(&sql, &tables).await?;
        look(&sql, source, &tables).await?;
        require_publishes(&sql, &source.publication, &tables).await?;
        let schemas: Vec<_> = tables.iter().map(TableInfo::relation_schema).collect();
        let rows = Rows::new(source, position_topic, &schemas)?;
        let mut client = connect.replication().await?;
        require_same_server_streams(&mut client, server.started).await?;
        let slot = slot_name(&source.name, fastrand::u64(..));
        let created = make_slot(&mut client, source, &slot, &sql).await?;
        let replication = client.start_replication(&slot, &source.publication, Lsn::ZERO).await?;
        let begins = created.consistent_point;
        let intake = Intake { rows, tables, relatives, place: None, received: begins, owes_status: false };
        Ok(Self { replication, sql, intake, status_every: source.timeouts.status, slot, begins })
    }

    /// What a person is told at the beginning.
    pub(super) fn says(&self) -> String {
        format!("shows what commits from {} on; temporary slot {}", self.begins, self.slot)
    }

    /// Prints until enough is printed, or nobody reads. Cancel-safe, as far as [`Stream::close`] may
    /// follow.
    ///
    /// # Errors
    /// The connection ended, or what came through it cannot be read.
    pub(super) async fn run(&mut self, lines: &mut Lines) -> Result<()> {
        let mut tick = tokio::time::interval(self.status_every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.read_buffered(lines)?;
            if self.intake.owes_status {
                self.send_status().await?;
            }
            // A reader that stands still stops the reading here. The statuses go on.
            tokio::select! {
                is_read = lines.flush(), if !lines.is_empty() => {
                    if !is_read || lines.is_enough() {
                        return Ok(());
                    }
                }
                filled = self.replication.fill(), if lines.has_room() => filled?,
                _ = tick.tick() => self.send_status().await?,
                error = self.sql.closed() => return Err(error),
            }
        }
    }

    /// Takes what has arrived, as far as there is room for it.
    fn read_buffered(&mut self, lines: &mut Lines) -> Result<()> {
        while lines.has_room() {
            let Some(message) = self.replication.next_message()? else { break };
            self.intake.take(message, lines)?;
        }
        Ok(())
    }

    /// Nothing is owed for what was read. So the server may forget it, and keeps no more of its log
    /// for us than it has to.
    async fn send_status(&mut self) -> Result<()> {
        self.intake.owes_status = false;
        let received = self.intake.received;
        let status = StandbyStatus { written: received, flushed: received, applied: received, reply_requested: false };
        self.replication.send_status(status).await
    }

    /// Ends the connection, and waits for a moment until the slot is gone with it.
    pub(super) async fn close(self) {
        // A connection that is lost already takes the slot with it.
        let _ = self.replication.close().await;
    }
}

/// What was learned from the stream.
struct Intake {
    rows: Rows,
    tables: Vec<TableInfo>,
    /// Oids of partitions and ancestors of the tables.
    relatives: HashSet<u32>,
    /// The transaction that is being read.
    place: Option<Place>,
    received: Lsn,
    /// The server has asked where we are.
    owes_status: bool,
}

impl Intake {
    fn take(&mut self, message: StreamMessage<'_>, lines: &mut Lines) -> Result<()> {
        match message {
            StreamMessage::XLogData { wal_end, data, .. } => {
                self.received = self.received.max(wal_end);
                self.take_change(data, lines)
            }
            StreamMessage::Keepalive { wal_end, reply_requested, .. } => {
                self.received = self.received.max(wal_end);
                self.owes_status |= reply_requested;
                Ok(())
            }
            StreamMessage::Notice(notice) => take_notice(*notice),
        }
    }

    fn take_change(&mut self, data: &[u8], lines: &mut Lines) -> Result<()> {
        let message = pgoutput::decode(data)
            .map_err(|error| Error::new(Code::PostgresProtocol, "decoding a pgoutput message").because(error))?;
        match message {
            Message::Begin(begin) => {
                self.place = Some(Place { lsn: begin.final_lsn, xid: begin.xid });
                self.rows.begin(begin.commit_time);
            }
            Message::Insert(insert) => {
                if self.relatives.contains(&insert.relation) {
                    let text = "rows come under a partition or an ancestor of a configured table";
                    return Err(Error::new(Code::PublicationChanged, text));
                }
                let row = Row { relation: insert.relation, tuple: insert.row, place: self.place };
                if let Some(event) = self.rows.event(row)? {
                    lines.push(&event);
                }
            }
            Message::Relation(relation) => self.take_relation(&relation)?,
            Message::Type(r#type) => self.rows.learn(&r#type),
            // Nothing is sent for these.
            Message::Commit(_)
            | Message::Update(_)
            | Message::Delete(_)
            | Message::Truncate(_)
            | Message::Origin(_)
            | Message::Logical(_) => {}
        }
        Ok(())
    }

    fn take_relation(&mut self, relation: &Relation<'_>) -> Result<()> {
        let mut tables = (0..).zip(&self.tables);
        if let Some((number, _)) = tables.find(|(_, table)| table.oid == relation.oid) {
            return self.rows.bind(&relation.to_schema(), number);
        }
        // Another table of the publication, or one of ours that was dropped and made anew.
        match self.tables.iter().find(|table| table.schema == relation.schema && table.name == relation.name) {
            Some(table) => {
                Err(Error::new(Code::PublicationChanged, format!("table {} was made anew", table.display_name())))
            }
            None => Ok(()),
        }
    }
}

/// Postgres 18 goes on when the publication is gone, and says so only in a notice. Its message is
/// translated, so the routine is compared.
fn take_notice(notice: ServerError) -> Result<()> {
    if notice.routine.as_deref() == Some("LoadPublications") {
        return Err(Error::new(Code::PublicationMissing, "the publication was dropped").because(notice));
    }
    Ok(())
}

/// Waits for the transactions that are open, as long as it takes, and says so.
async fn make_slot(
    client: &mut ReplicationClient,
    source: &Source,
    slot: &str,
    sql: &SqlSession,
) -> Result<CreatedSlot> {
    let options =
        CreateSlot { export_snapshot: false, failover: false, temporary: true, lock_timeout: source.timeouts.lock };
    let make = async {
        loop {
            match client.create_slot(slot, &options).await {
                Err(error) if sqlstate(&error) == Some(SqlState::LOCK_NOT_AVAILABLE.code()) => {}
                made => return made,
            }
        }
    };
    tokio::pin!(make);
    tokio::select! {
        made = &mut make => return made,
        () = tokio::time::sleep(SAYS_AFTER) => {}
    }
    if let Some(text) = what_holds_up(sql).await {
        say(&source.name, &format!("waits: {text}"));
    }
    make.await
}

/// `outboxd_tail_<source>_<random>`: nobody else's, and a person sees what it is for.
fn slot_name(source: &str, random: u64) -> String {
    let (head, tail) = ("outboxd_tail_", format!("_{:012x}", random & 0xffff_ffff_ffff));
    // A source's name has one byte for each character.
    let room = NAME_BYTES - head.len() - tail.len();
    format!("{head}{}{tail}", &source[..source.len().min(room)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_a_legal_name_that_differs_each_time() {
        assert_eq!(slot_name("order", 0xab), "outboxd_tail_order_0000000000ab");
        let longest = slot_name(&"s".repeat(54), u64::MAX);
        assert_eq!(longest.len(), NAME_BYTES);
        assert!(longest.ends_with("s_ffffffffffff"), "{longest}");
    }

    #[test]
    fn a_publication_that_postgres_18_goes_on_without_ends_it() {
        let notice = |routine: &str| ServerError { routine: Some(routine.to_owned()), ..ServerError::default() };
        assert_eq!(take_notice(notice("LoadPublications")).unwrap_err().code(), Code::PublicationMissing);
        assert!(take_notice(notice("other")).is_ok());
    }
}
