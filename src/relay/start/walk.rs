//! A start under way, and the walk through its steps.

use std::{collections::HashSet, sync::Arc, time::SystemTime};

use crate::{
    Code, Error, Lsn, Result, config,
    postgres::{HeldStream, SqlSession, SystemIdentity, catalog::TableInfo},
    relay::{
        context::Context,
        memory::{Memory, ServerLife},
        startup::{Fact, Policy, Startup, Step},
    },
    source::{
        compare::Server,
        position::{History, Phase, Position},
        producers::Producers,
        server::require_server,
    },
};

/// A start under way.
pub(in crate::relay) struct Start<'a> {
    pub(super) context: &'a Context,
    pub(super) memory: &'a mut Memory,
    /// Whether to wait while another instance streams, as a daemon does.
    pub(super) patient: bool,
    pub(super) startup: Startup,
    /// Runs catalog queries, and tells when the server shuts down.
    pub(super) sql: Option<Arc<SqlSession>>,
    /// When the server of that session was started. Every other session must reach the same one.
    pub(super) server_started: SystemTime,
    /// The database that the session is in.
    pub(super) database: String,
    /// Holds the advisory lock during set-up.
    pub(super) lock: Option<SqlSession>,
    pub(super) replication: Option<Replication>,
    pub(super) producers: Option<Producers>,
    pub(super) tables: Vec<TableInfo>,
    pub(super) relatives: HashSet<u32>,
    pub(super) publication: serde_json::Value,
    /// What the log has been told of.
    pub(super) doubts: HashSet<String>,
    /// The session whose transaction has imported the slot's snapshot.
    pub(super) snapshot: Option<Arc<SqlSession>>,
}

/// The replication connection, and what was learned when it was opened.
pub(super) struct Replication {
    pub(super) stream: HeldStream,
    pub(super) system: SystemIdentity,
    pub(super) switches: Vec<(u32, Lsn)>,
    pub(super) backend_pid: i32,
    pub(super) confirmed: Lsn,
}

/// Everything that a stream is built on.
pub(in crate::relay) struct Started {
    /// Streams from 0/0, that is from the server's own confirmed position.
    pub(crate) stream: HeldStream,
    /// Serves the catalog.
    pub(crate) sql: Arc<SqlSession>,
    /// They are initialised, so the predecessor is fenced.
    pub(crate) producers: Producers,
    pub(crate) tables: Vec<TableInfo>,
    /// Oids of the partitions and ancestors of those tables.
    pub(crate) relatives: HashSet<u32>,
    /// The position to go on from, with the history of the server at hand.
    pub(crate) position: Position,
    /// What the log has been told of the tables.
    pub(crate) doubts: HashSet<String>,
    /// The slot's confirmed flush position.
    pub(crate) confirmed: Lsn,
    /// Which server this is.
    pub(crate) life: ServerLife,
}

impl<'a> Start<'a> {
    /// Opens nothing yet.
    #[must_use]
    pub(in crate::relay) fn new(context: &'a Context, memory: &'a mut Memory) -> Self {
        let source = &context.source;
        let policy =
            Policy { backfill: source.backfill == config::Backfill::Unpublished, auto_setup: source.auto_setup };
        Self {
            context,
            memory,
            patient: true,
            startup: Startup::new(policy),
            sql: None,
            server_started: SystemTime::UNIX_EPOCH,
            database: String::new(),
            lock: None,
            replication: None,
            producers: None,
            tables: Vec::new(),
            relatives: HashSet::new(),
            publication: serde_json::Value::Null,
            doubts: HashSet::new(),
            snapshot: None,
        }
    }

    /// Ends at [`Step::StandBy`] if another instance streams, instead of waiting for its end.
    #[must_use]
    pub(in crate::relay) fn impatient(mut self) -> Self {
        self.patient = false;
        self
    }

    /// Walks to [`Step::Stream`] or [`Step::StandBy`].
    ///
    /// # Errors
    /// Whatever stands in the way.
    pub(in crate::relay) async fn run(&mut self) -> Result<Step> {
        self.sql = Some(Arc::new(self.context.connect.sql("catalog").await?));
        let server = require_server(self.sql()?).await?;
        (self.database, self.server_started) = (server.database, server.started);
        loop {
            let step = self.startup.step();
            tracing::debug!(?step, "starting");
            self.context.metrics.beat();
            let fact = match step {
                Step::StandBy | Step::Stream => return Ok(step),
                _ => self.carry_out(step).await?,
            };
            self.startup.report(fact)?;
        }
    }

    /// Reports what the server showed when the slot was taken.
    fn compare(&self) -> Result<Fact> {
        let replication =
            self.replication.as_ref().ok_or_else(|| Error::new(Code::Internal, "a comparison without the slot"))?;
        Ok(Fact::Server(Box::new(Server {
            system_id: replication.system.system_id.clone(),
            timeline: replication.system.timeline,
            flushed: replication.system.flushed,
            switches: replication.switches.clone(),
            confirmed_flush: replication.confirmed,
            publication: self.publication.clone(),
        })))
    }

    async fn carry_out(&mut self, step: Step) -> Result<Fact> {
        match step {
            Step::TakeSlot => self.take_slot().await,
            Step::ReleaseSlot => self.release_slot().await,
            Step::LockSource => self.lock_source().await,
            Step::InitProducers => self.init_producers().await,
            Step::CheckOwnership => self.check_ownership().await,
            Step::ReadPosition => self.read_position().await,
            Step::MarkChunk => self.mark_chunk().await,
            Step::WriteCreating => self.write(Phase::Creating).await,
            Step::DropSlot => self.drop_slot().await,
            Step::CreateSlot => self.create_slot().await,
            Step::AdoptSlot => self.adopt_slot().await,
            Step::WriteBackfill => self.write(Phase::Backfill).await,
            Step::Backfill => self.backfill().await,
            Step::WriteStreaming => self.write(Phase::Streaming).await,
            Step::Compare => self.compare(),
            Step::Stream | Step::StandBy => Ok(Fact::Done),
        }
    }

    /// Returns what the stream is built on, once the walk has ended at [`Step::Stream`].
    ///
    /// # Errors
    /// `internal`: the walk has not ended there. A Postgres error: the server does not tell when it
    /// was started.
    pub(in crate::relay) fn finish(self) -> Result<Started> {
        let missing = || Error::new(Code::Internal, "the start ended without all it needs");
        let context = self.context;
        let (sql, producers) = (self.sql.ok_or_else(missing)?, self.producers.ok_or_else(missing)?);
        let replication = self.replication.ok_or_else(missing)?;
        let (progress, consistent_point) = self.startup.stream_from();
        let history = History {
            system_id: replication.system.system_id.clone(),
            timeline: replication.system.timeline,
            slot: context.source.slot.clone(),
            consistent_point,
        };
        let started = self.server_started;
        let life =
            ServerLife { system_id: replication.system.system_id, timeline: replication.system.timeline, started };
        let mut position = Position::new(Phase::Streaming, progress, history, self.publication);
        position.unfenced = context.kafka.delivery == config::Delivery::AtLeastOnce;
        Ok(Started {
            stream: replication.stream,
            sql,
            producers,
            tables: self.tables,
            relatives: self.relatives,
            position,
            doubts: self.doubts,
            confirmed: replication.confirmed,
            life,
        })
    }
}
