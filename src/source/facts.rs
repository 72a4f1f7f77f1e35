//! What there is of a source on both servers, as a command sees it. Looking takes, fences and
//! changes nothing.
//!
//! ```text
//!   1  the slot           Postgres
//!   2  the position       Kafka, read_committed
//!   3  the server         Postgres: system, timelines, end of the log, publication, unmarked rows
//! ```
//!
//! A command holds neither slot nor lock while it looks, so the order counts. It reads the slot
//! before the position. A daemon that goes on meanwhile writes its position before it confirms, so
//! only the position can seem to be ahead. It reads the end of the log after the position.
//! Otherwise a daemon that goes on would seem to have published what is not in the log. The start
//! reads the position first and the slot after it, because it has the slot in hand (`relay/start`).
//!
//! Each side has a `Result` of its own: `outboxd status` has to answer when one of them is down.

use std::time::Duration;

use super::{
    compare::Server,
    newest::{self, Belief, Published},
    position::{History, Phase, Position, Progress},
    publication::look,
};
use crate::{
    Code, Error, Lsn, Result,
    config::{Kafka, Source},
    postgres::{
        ConnectOptions, SqlSession,
        catalog::{
            SlotInfo, TableInfo,
            monitor::{Backlog, Monitor},
            server, slots, tables,
        },
    },
};

/// How much later than the libraries this module gives up. Their own errors say more than ours.
const GRACE: Duration = Duration::from_secs(5);

/// Both sides of a source, each as far as it answered.
#[derive(Debug)]
pub(crate) struct Sides {
    pub(crate) postgres: Result<PostgresSide>,
    pub(crate) kafka: Result<Published>,
}

/// What Postgres has of a source.
#[derive(Debug)]
pub(crate) struct PostgresSide {
    pub(crate) database: String,
    pub(crate) in_recovery: bool,
    pub(crate) slot: Option<SlotInfo>,
    /// The end of the log, flushed or not.
    pub(crate) end: Lsn,
    /// The history, the publication and the tables, as a start would see them.
    pub(crate) history: Result<ServerSide>,
    /// Unmarked rows. `None` where the tables do not tell, or could not be found.
    pub(crate) backlog: Result<Option<Backlog>>,
}

/// What a start compares with the position.
#[derive(Debug)]
pub(crate) struct ServerSide {
    /// The server's history, and the publication.
    pub(crate) server: Server,
    /// Oids of the source's tables.
    pub(crate) tables: Vec<u32>,
}

/// What there is of a source, all of it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// From Kafka.
    pub published: Published,
    /// The slot, if there is one.
    pub slot: Option<SlotInfo>,
    /// The server, as a start would see it.
    pub server: Server,
    /// The server is a standby.
    pub in_recovery: bool,
    /// The database that is connected to.
    pub database: String,
    /// Oids of the source's tables.
    pub tables: Vec<u32>,
    /// Unmarked rows, counted up to a million for each table. `None` where the tables do not tell.
    pub unmarked: Option<u64>,
}

impl Facts {
    /// The position, if it can be read.
    #[must_use]
    pub(crate) fn position(&self) -> Option<&Position> {
        self.published.position()
    }

    /// A position of phase `creating` that belongs to the server at hand.
    #[must_use]
    pub(crate) fn creating(&self, source: &Source) -> Position {
        let mut position = Position::creating(&source.slot, self.server.publication.clone());
        position.history.system_id.clone_from(&self.server.system_id);
        position
    }

    /// A position with which the stream of the server at hand begins at `begins`.
    #[must_use]
    pub(crate) fn streaming_at(&self, begins: Lsn, source: &Source) -> Position {
        let history = History {
            system_id: self.server.system_id.clone(),
            timeline: self.server.timeline,
            slot: source.slot.clone(),
            consistent_point: begins,
        };
        let progress = Progress { lsn: begins, ..Progress::default() };
        Position::new(Phase::Streaming, progress, history, self.server.publication.clone())
    }
}

impl Sides {
    /// Both sides as one.
    ///
    /// # Errors
    /// The first thing that could not be learned.
    pub(crate) fn whole(self) -> Result<Facts> {
        let PostgresSide { database, in_recovery, slot, end: _, history, backlog } = self.postgres?;
        let ServerSide { server, tables } = history?;
        Ok(Facts {
            published: self.kafka?,
            slot,
            server,
            in_recovery,
            database,
            tables,
            unmarked: backlog?.map(|backlog| backlog.rows),
        })
    }
}

/// A look at a source.
pub(crate) struct Look<'a> {
    pub(crate) source: &'a Source,
    pub(crate) kafka: &'a Kafka,
    /// How to reach its Postgres.
    pub(crate) connect: &'a ConnectOptions,
    /// Longest wait for each answer of one of the servers.
    pub(crate) patience: Duration,
}

impl Look<'_> {
    /// Opens a session under this name, and looks at both sides.
    pub(crate) async fn at(&self, name: &str) -> Sides {
        match self.within(Code::PostgresUnreachable, self.connect.sql(name)).await {
            Ok(sql) => self.through(Ok(&sql)).await,
            Err(error) => self.through(Err(error)).await,
        }
    }

    /// Looks at both sides. `sql` is a session of the caller's, or the reason why there is none.
    pub(crate) async fn through(&self, sql: Result<&SqlSession>) -> Sides {
        let slot = async {
            let sql = sql?;
            Ok((sql, slots::slot(sql, &self.source.slot).await?))
        };
        let slot = self.within(Code::PostgresUnreachable, slot).await;
        let kafka = newest::read(self.kafka, &self.source.name, Belief::Strict, self.patience);
        let kafka = self.within(Code::KafkaUnreachable, kafka).await;
        let postgres = match slot {
            Ok((sql, slot)) => self.within(Code::PostgresUnreachable, self.postgres(sql, slot)).await,
            Err(error) => Err(error),
        };
        Sides { postgres, kafka }
    }

    async fn within<T>(&self, silent: Code, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let timeout = tokio::time::timeout(self.patience + GRACE, answer);
        timeout.await.unwrap_or_else(|_| Err(Error::new(silent, "no answer in time")))
    }

    async fn postgres(&self, sql: &SqlSession, slot: Option<SlotInfo>) -> Result<PostgresSide> {
        let source = self.source;
        let about = server::server(sql).await?;
        let end = server::current_lsn(sql).await?;
        let (history, backlog) = match tables::resolve_all(sql, source).await {
            Err(error) => (Err(error), Ok(None)),
            Ok(tables) => {
                let confirmed_flush = slot.as_ref().map_or(Lsn::ZERO, |slot| slot.confirmed_flush);
                let server = self.server(sql, &tables, confirmed_flush).await;
                let oids = tables.iter().map(|table| table.oid).collect();
                let monitor = Monitor::new(&source.slot, &tables, &source.mapping.columns, source.mark);
                let backlog = monitor.read(sql).await.map(|reading| reading.backlog);
                (server.map(|server| ServerSide { server, tables: oids }), backlog)
            }
        };
        Ok(PostgresSide { database: about.database, in_recovery: about.in_recovery, slot, end, history, backlog })
    }

    /// The server as the start compares it. Only a replication connection tells the history of the
    /// timelines.
    async fn server(&self, sql: &SqlSession, tables: &[TableInfo], confirmed_flush: Lsn) -> Result<Server> {
        let mut client = self.connect.replication().await?;
        let system = client.identify_system().await?;
        let switches = client.timeline_history(system.timeline).await?;
        client.close().await;
        Ok(Server {
            system_id: system.system_id,
            timeline: system.timeline,
            flushed: server::flushed_lsn(sql).await?,
            switches: switches.iter().map(|switch| (switch.timeline, switch.switchpoint)).collect(),
            confirmed_flush,
            publication: look(sql, self.source, tables).await?,
        })
    }
}
