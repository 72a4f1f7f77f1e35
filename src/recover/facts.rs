//! What there is: the position in Kafka, the slot, the server.

use std::time::Duration;

use crate::{
    Code, Error, Lsn, Result,
    config::{Kafka, Source},
    kafka::position_topic,
    postgres::{
        ConnectOptions, SqlSession,
        catalog::{SlotInfo, monitor::Monitor, server, slots, tables},
    },
    relay,
    source::{
        compare::Server,
        position::{History, Phase, Position, Progress},
        publication::fingerprint,
    },
};

/// Longest wait for the open transactions of others on the position topic.
const POSITION_TIMEOUT: Duration = Duration::from_secs(90);

/// What there is of one source.
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
    /// Unmarked rows, counted up to a million for each table; `None` where the tables do not tell.
    pub unmarked: Option<u64>,
}

/// The newest position.
#[derive(Debug, Clone, PartialEq)]
pub enum Published {
    /// There is none.
    Nothing,
    /// There is a record that is no position; the text says why.
    Unreadable(String),
    /// This one.
    Known(Box<Position>),
}

impl Facts {
    /// The position, if it can be read.
    #[must_use]
    pub fn position(&self) -> Option<&Position> {
        match &self.published {
            Published::Known(position) => Some(position),
            Published::Nothing | Published::Unreadable(_) => None,
        }
    }

    /// A position that begins the stream of the server at hand at `begins`.
    #[must_use]
    pub fn streaming_at(&self, begins: Lsn, source: &Source) -> Position {
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

/// Reads it all; takes and changes nothing.
pub(super) async fn read(connect: &ConnectOptions, sql: &SqlSession, source: &Source, kafka: &Kafka) -> Result<Facts> {
    // The slot before the position: a daemon that goes on meanwhile moves the position first.
    let slot = slots::slot(sql, &source.slot).await?;
    let published = published(source, kafka).await?;
    let mut client = connect.replication().await?;
    let system = client.identify_system().await?;
    let switches = client.timeline_history(system.timeline).await?;
    client.close().await;
    let tables = tables::resolve_all(sql, source).await?;
    let monitor = Monitor::new(&source.slot, &tables, &source.mapping.columns, source.mark);
    let server = Server {
        system_id: system.system_id,
        timeline: system.timeline,
        flushed: server::flushed_lsn(sql).await?,
        switches: switches.iter().map(|switch| (switch.timeline, switch.switchpoint)).collect(),
        confirmed_flush: slot.as_ref().map_or(Lsn::ZERO, |slot| slot.confirmed_flush),
        publication: fingerprint(sql, &source.publication, &tables).await?,
    };
    Ok(Facts {
        published,
        slot,
        server,
        in_recovery: server::server(sql).await?.in_recovery,
        database: connect.database().to_owned(),
        unmarked: monitor.read(sql).await?.backlog.map(|backlog| backlog.rows),
        tables: tables.iter().map(|table| table.oid).collect(),
    })
}

async fn published(source: &Source, kafka: &Kafka) -> Result<Published> {
    if !position_topic::exists(kafka).await? {
        return Ok(Published::Nothing);
    }
    let Some(bytes) = position_topic::read(kafka, &source.name, relay::succession, POSITION_TIMEOUT).await? else {
        return Ok(Published::Nothing);
    };
    Ok(match Position::decode(&bytes) {
        Ok(position) => Published::Known(Box::new(position)),
        Err(error) => {
            let what = "the newest position of this source";
            Published::Unreadable(Error::new(Code::PositionInvalid, what).because(error).detail())
        }
    })
}
