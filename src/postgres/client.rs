//! Commands on a replication connection, up to START_REPLICATION.
//!
//! Page: "Streaming Replication Protocol".

use std::time::Duration;

use postgres_protocol::{escape::escape_identifier, message::frontend};
use tokio::time::timeout;

use super::{
    connect::Session,
    login::{Greeting, start},
    options::{ConnectOptions, NO_TRANSACTION_TIMEOUT, has_transaction_timeout},
    server_error::ServerError,
    stream::ReplicationStream,
    timeline::{SystemIdentity, TimelineSwitch, parse_history},
    transport::Transport,
    wire::{Wire, unexpected},
};
use crate::{Code, Error, Lsn, Result};

/// A connection in replication mode, between commands.
///
/// Every command has a bound (the source's `statement` timeout). A command that is cut off, by that
/// bound or by dropping its future, leaves the connection unusable. Later commands then fail and
/// say so.
pub struct ReplicationClient {
    wire: Wire,
    greeting: Greeting,
    bound: Duration,
    /// The server still owes an answer.
    busy: bool,
}

/// How to create a slot.
#[derive(Debug, Clone)]
pub struct CreateSlot {
    /// Export the snapshot of the consistent point. The snapshot lives until the next command on
    /// this connection, or until the connection ends.
    pub(crate) export_snapshot: bool,
    /// Synchronise the slot to standbys (Postgres 17+).
    pub(crate) failover: bool,
    /// The server drops the slot when this connection ends. It cannot be a failover slot.
    pub(crate) temporary: bool,
    /// Longest wait for one running transaction. Creating a slot waits for all of them (rule 15).
    pub(crate) lock_timeout: Duration,
}

/// A slot that was just created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedSlot {
    /// A stream from here brings everything that the snapshot does not show.
    pub(crate) consistent_point: Lsn,
    /// For `SET TRANSACTION SNAPSHOT`.
    pub(crate) snapshot: Option<String>,
}

type Row = Vec<Option<Vec<u8>>>;

impl Session for ReplicationClient {
    async fn open(transport: Transport, options: &ConnectOptions, _purpose: &str) -> Result<Self> {
        let (wire, greeting) = start(transport, options).await?;
        let bound = if options.statement_timeout.is_zero() { Duration::MAX } else { options.statement_timeout };
        let mut client = Self { wire, greeting, bound, busy: false };
        if has_transaction_timeout(client.server_version()) {
            client.command(NO_TRANSACTION_TIMEOUT, bound).await?;
        }
        Ok(client)
    }

    async fn is_writable(&mut self) -> Result<bool> {
        let rows = self.simple_query("SHOW transaction_read_only").await?;
        Ok(rows.first().and_then(|row| row.first()?.as_deref()) == Some("off"))
    }
}

impl ReplicationClient {
    /// Process id of the walsender.
    #[must_use]
    pub(crate) fn backend_pid(&self) -> i32 {
        self.greeting.backend_pid
    }

    /// As `server_version_num`: 150018 is 15.18.
    #[must_use]
    pub(crate) fn server_version(&self) -> u32 {
        self.greeting.server_version
    }

    /// Runs SQL and returns the rows of all its statements as text. (Bytes that are not UTF-8 are
    /// replaced.)
    pub(crate) async fn simple_query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap_or_else(|error| lossy(error.as_bytes()));
        let rows = self.command(sql, self.bound).await?;
        Ok(rows.into_iter().map(|row| row.into_iter().map(|column| column.map(text)).collect()).collect())
    }

    /// Which cluster this is, and how far its log goes.
    pub(crate) async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let rows = self.simple_query("IDENTIFY_SYSTEM").await?;
        let mut columns = rows.into_iter().next().unwrap_or_default().into_iter().flatten();
        let (system_id, timeline, flushed) = (columns.next(), columns.next(), columns.next());
        let identity = || {
            Some(SystemIdentity {
                system_id: system_id?,
                timeline: timeline?.parse().ok()?,
                flushed: flushed?.parse().ok()?,
            })
        };
        identity().ok_or_else(|| malformed("IDENTIFY_SYSTEM"))
    }

    /// Where the timelines before `timeline` ended, oldest first. There is none before timeline 1.
    pub(crate) async fn timeline_history(&mut self, timeline: u32) -> Result<Vec<TimelineSwitch>> {
        if timeline <= 1 {
            return Ok(Vec::new());
        }
        let rows = self.command(&format!("TIMELINE_HISTORY {timeline}"), self.bound).await?;
        let content = rows.into_iter().next().and_then(|row| row.into_iter().nth(1).flatten());
        parse_history(&lossy(&content.ok_or_else(|| malformed("TIMELINE_HISTORY"))?))
    }

    /// Creates a logical slot for pgoutput.
    ///
    /// It fails with SQLSTATE 55P03 when a running transaction outlives `lock_timeout`, and then
    /// leaves no slot. It fails with 42710 when the name is taken, and with `postgres-exhausted`
    /// when no slot is free. When our own bound (the lock timeout and one statement timeout) or a
    /// broken connection ends the wait, the server may still create the slot.
    pub(crate) async fn create_slot(&mut self, name: &str, options: &CreateSlot) -> Result<CreatedSlot> {
        let lock_ms = options.lock_timeout.as_millis();
        self.command(&format!("SET lock_timeout = {lock_ms}"), self.bound).await?;
        let command = create_slot_command(name, options, self.server_version())?;
        let bound = self.bound.saturating_add(options.lock_timeout);
        let rows = self.command(&command, bound).await.map_err(|error| error.about(format_args!("slot {name}")))?;
        let text = |column: Option<Vec<u8>>| column.map(|bytes| lossy(&bytes));
        // slot_name, consistent_point, snapshot_name, output_plugin
        let mut columns = rows.into_iter().next().unwrap_or_default().into_iter().skip(1).map(text);
        let point = columns.next().flatten().and_then(|text| text.parse().ok());
        Ok(CreatedSlot {
            consistent_point: point.ok_or_else(|| malformed("CREATE_REPLICATION_SLOT"))?,
            snapshot: columns.next().flatten(),
        })
    }

    /// Takes the slot, which is the mutex (rule 1), and streams from it.
    ///
    /// With `start` 0/0 the server resumes at the slot's own confirmed position. It moves a smaller
    /// `start` forward to that position and reports nothing. Fails with `slot-in-use`,
    /// `slot-missing`, `slot-lost`, `wal-level`, `postgres-denied`. A missing publication shows
    /// only later, in the stream, as `publication-missing`.
    pub(crate) async fn start_replication(
        mut self,
        slot: &str,
        publication: &str,
        start: Lsn,
    ) -> Result<ReplicationStream> {
        let command = start_command(slot, publication, start);
        let started = self.run(&command, self.bound).await;
        if started.map_err(|error| error.about(format_args!("slot {slot}")))?.is_some() {
            return Err(Error::new(Code::PostgresProtocol, "START_REPLICATION ended without a stream"));
        }
        Ok(ReplicationStream::new(self.wire))
    }

    /// Says goodbye, so that the server logs no broken connection.
    pub(crate) async fn close(mut self) {
        let terminate = self.wire.send(|bytes| {
            frontend::terminate(bytes);
            Ok(())
        });
        drop(timeout(Duration::from_secs(1), terminate).await);
    }

    async fn command(&mut self, command: &str, bound: Duration) -> Result<Vec<Row>> {
        self.run(command, bound).await?.ok_or_else(|| unexpected(b'W', "in answer to a query"))
    }

    /// One command within its bound; `None` when it began a stream.
    async fn run(&mut self, command: &str, bound: Duration) -> Result<Option<Vec<Row>>> {
        if self.busy {
            let text = "an earlier command on this replication connection was cut off";
            return Err(Error::new(Code::PostgresUnavailable, text));
        }
        self.busy = true;
        let verb = command.split(' ').next().unwrap_or_default();
        match timeout(bound, self.exchange(command, verb)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::new(Code::PostgresUnavailable, format!("{verb}: no answer in {bound:?}"))),
        }
    }

    async fn exchange(&mut self, command: &str, verb: &str) -> Result<Option<Vec<Row>>> {
        self.wire.send(|bytes| frontend::query(command, bytes)).await?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let frame = self.wire.receive().await?;
            match frame.tag {
                b'D' => rows.push(data_row(frame.body).ok_or_else(|| malformed(verb))?),
                b'E' => {
                    let error = ServerError::parse(frame.body);
                    // Nothing follows FATAL.
                    if error.severity == "FATAL" || error.severity == "PANIC" {
                        return Err(error.during(verb));
                    }
                    failure.get_or_insert(error);
                }
                b'Z' => {
                    self.busy = false;
                    return failure.map_or(Ok(Some(rows)), |error: ServerError| Err(error.during(verb)));
                }
                // CopyBothResponse: the connection belongs to the stream now, so `busy` stays.
                b'W' => return Ok(None),
                // RowDescription, CommandComplete, EmptyQueryResponse, NoticeResponse,
                // ParameterStatus
                b'T' | b'C' | b'I' | b'N' | b'S' => {}
                tag => return Err(unexpected(tag, &format!("in answer to {verb}"))),
            }
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn malformed(command: &str) -> Error {
    Error::new(Code::PostgresProtocol, format!("the answer to {command} is not as the protocol has it"))
}

/// DataRow: an Int16 count, then for each column an Int32 length (-1 is NULL) and the bytes.
fn data_row(body: &[u8]) -> Option<Row> {
    let (count, mut rest) = body.split_first_chunk()?;
    let mut row = Row::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk()?;
        let length = i32::from_be_bytes(*length);
        let (value, after) = after.split_at_checked(usize::try_from(length).unwrap_or(0))?;
        row.push((length >= 0).then(|| value.to_vec()));
        rest = after;
    }
    Some(row)
}

fn create_slot_command(name: &str, options: &CreateSlot, version: u32) -> Result<String> {
    if options.failover && version < 170_000 {
        return Err(Error::new(Code::ConfigInvalid, "failover = true needs Postgres 17 or later"));
    }
    let name = escape_identifier(name);
    let snapshot = if options.export_snapshot { "export" } else { "nothing" };
    let failover = if options.failover { ", FAILOVER" } else { "" };
    let temporary = if options.temporary { "TEMPORARY " } else { "" };
    Ok(format!("CREATE_REPLICATION_SLOT {name} {temporary}LOGICAL pgoutput (SNAPSHOT '{snapshot}'{failover})"))
}

fn start_command(slot: &str, publication: &str, start: Lsn) -> String {
    // publication_names is a list of identifiers inside a string. Protocol 1: whole transactions,
    // in commit order (rule 20).
    let publications = quoted(&escape_identifier(publication));
    let slot = escape_identifier(slot);
    format!("START_REPLICATION SLOT {slot} LOGICAL {start} (proto_version '1', publication_names {publications})")
}

/// Doubles quotes and nothing else, since the replication grammar knows no `E''` strings.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failover_slot_is_asked_of_a_server_that_has_them() {
        let plain =
            CreateSlot { export_snapshot: true, failover: false, temporary: false, lock_timeout: Duration::ZERO };
        let failover = CreateSlot { export_snapshot: false, failover: true, ..plain.clone() };
        let temporary = CreateSlot { export_snapshot: false, temporary: true, ..plain.clone() };
        let command = |options: &CreateSlot, version| create_slot_command("a\"b", options, version).unwrap();
        let temporary = command(&temporary, 150_000);
        assert_eq!(temporary, "CREATE_REPLICATION_SLOT \"a\"\"b\" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')");
        let head = "CREATE_REPLICATION_SLOT \"a\"\"b\" LOGICAL pgoutput ";
        assert_eq!(command(&plain, 150_000), format!("{head}(SNAPSHOT 'export')"));
        assert_eq!(command(&failover, 170_000), format!("{head}(SNAPSHOT 'nothing', FAILOVER)"));
        assert_eq!(create_slot_command("s", &failover, 160_000).unwrap_err().code(), Code::ConfigInvalid);
    }

    #[test]
    fn names_cannot_leave_their_quotes() {
        assert_eq!(
            start_command("s", "a'b\"c\\", Lsn(0x1_0000_0002)),
            "START_REPLICATION SLOT \"s\" LOGICAL 1/2 \
             (proto_version '1', publication_names '\"a''b\"\"c\\\"')"
        );
    }

    #[test]
    fn a_row_is_read_and_a_cut_one_refused() {
        let body = [0, 2, 0, 0, 0, 1, b'x', 255, 255, 255, 255];
        assert_eq!(data_row(&body), Some(vec![Some(b"x".to_vec()), None]));
        for end in 0..body.len() {
            assert_eq!(data_row(&body[..end]), None);
        }
    }
}
