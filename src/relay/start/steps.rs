//! Each step of a start, as statements and calls.
//!
//! The start has the slot or the lock in hand while it reads. It reads the position first, and then
//! whether the slot exists. A command holds neither, and reads the other way round
//! (`source/facts.rs`).

use std::{future::Future, sync::Arc, time::Duration};

use tokio_postgres::error::SqlState;

use super::walk::{Replication, Start};
use crate::{
    Code, Error, Lsn, Result,
    config::{Delivery, Mark},
    kafka::position_topic,
    outbox::Records,
    postgres::{
        CreateSlot, HeldStream, ReplicationClient, SqlSession, SystemIdentity,
        catalog::{backfill::BackfillCursor, server, slots, tables},
        sqlstate,
    },
    relay::{
        backfill::{Backfill, Ended, last_marked},
        marking::marking_session,
        marks::{MarkRow, Marks},
        preconditions::{doubts, require_compacted},
        startup::Fact,
    },
    setup,
    source::{
        compare::require_same_publication,
        lock,
        newest::{self, Belief},
        position::{History, Phase, Position, Progress, RowId},
        producers::{Producers, Unpublished},
        publication::{self, look, require_sends},
        server::{held_up_by, require_same_server_streams},
        standing::SourceState,
        verdict::{require_kept, require_own},
    },
};

/// How often a position that is not there is looked for again, and the pause in between.
const DOUBTS: u32 = 3;
const DOUBT: Duration = Duration::from_secs(1);

/// How often the start looks whether our own walsender has ended.
const RELEASE_POLL: Duration = Duration::from_millis(20);

/// How long it waits for that. A walsender that a lost network keeps alive is left to the next
/// start.
const RELEASE_PATIENCE: Duration = Duration::from_secs(30);

/// How long an ended stream is read for the reason of its end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How often a standby looks at the slot.
const STANDBY_POLL: Duration = Duration::from_millis(500);

impl Start<'_> {
    pub(super) fn sql(&self) -> Result<&Arc<SqlSession>> {
        self.sql.as_ref().ok_or_else(|| Error::new(Code::Internal, "no catalog session"))
    }

    /// Takes the slot. If another instance has it, waits here, cheaply, until it is free.
    pub(super) async fn take_slot(&mut self) -> Result<Fact> {
        let name = &self.context.source.slot;
        loop {
            let Some(slot) = slots::slot(self.sql()?, name).await? else { return Ok(Fact::SlotAbsent) };
            require_own(name, &slot, &self.database)?;
            require_kept(name, &slot)?;
            if !slot.active {
                break;
            }
            if !self.patient {
                return Ok(Fact::TakenByAnother);
            }
            self.context.stand_by();
            tokio::select! {
                () = tokio::time::sleep(STANDBY_POLL) => {}
                error = self.sql()?.closed() => return Err(error),
            }
        }
        self.context.metrics.set_starting();
        let client = self.context.connect.replication().await?;
        self.start_replication(client).await
    }

    async fn start_replication(&mut self, mut client: ReplicationClient) -> Result<Fact> {
        let source = &self.context.source;
        require_same_server_streams(&mut client, self.server_started).await?;
        let system = client.identify_system().await?;
        let history = client.timeline_history(system.timeline).await?;
        let switches = history.iter().map(|switch| (switch.timeline, switch.switchpoint)).collect();
        let backend_pid = client.backend_pid();
        // Always from 0/0: the server resumes at its own confirmed position, and sends again the
        // rows that are owed a mark.
        let stream = match client.start_replication(&source.slot, &source.publication, Lsn::ZERO).await {
            // From here to the end of the start the server hears from us, whatever is waited for.
            Ok(stream) => stream.hold(source.timeouts.status),
            Err(error) if error.code() == Code::SlotInUse => return Ok(Fact::TakenByAnother),
            Err(error) => return Err(error),
        };
        // The flushed end is read only now. If another instance had the slot after our
        // IDENTIFY_SYSTEM, it may have published what was written since. Its position would then
        // seem to lie beyond the end of the log.
        let system = SystemIdentity { flushed: server::flushed_lsn(self.sql()?).await?, ..system };
        let slot = slots::slot(self.sql()?, &source.slot).await?;
        let confirmed =
            slot.ok_or_else(|| Error::new(Code::SlotMissing, format!("slot {} is gone", source.slot)))?.confirmed_flush;
        self.replication = Some(Replication { stream, system, switches, backend_pid, confirmed });
        Ok(Fact::Done)
    }

    /// Gives the slot back, and waits until its walsender has noticed.
    pub(super) async fn release_slot(&mut self) -> Result<Fact> {
        if let Some(replication) = self.replication.take() {
            // The walsender ends whether or not this succeeds.
            if let Ok(stream) = replication.stream.release().await {
                let _ = stream.close().await;
            }
        }
        let name = &self.context.source.slot;
        let deadline = tokio::time::Instant::now() + RELEASE_PATIENCE;
        while slots::slot(self.sql()?, name).await?.is_some_and(|slot| slot.active) {
            if tokio::time::Instant::now() > deadline {
                let text = format!("slot {name} is in use still after we gave it back");
                return Err(Error::new(Code::SlotInUse, text));
            }
            self.context.metrics.beat();
            tokio::time::sleep(RELEASE_POLL).await;
        }
        Ok(Fact::Done)
    }

    pub(super) async fn lock_source(&mut self) -> Result<Fact> {
        self.context.metrics.set_starting();
        let session = self.context.sql_on(self.server_started, "setup").await?;
        if !lock::try_take(&session, &self.context.source.name).await? {
            return Ok(Fact::TakenByAnother);
        }
        self.lock = Some(session);
        Ok(Fact::Done)
    }

    pub(super) async fn init_producers(&mut self) -> Result<Fact> {
        let (context, batching) = (self.context, self.memory.batching);
        let fence = Producers::fence(&context.kafka, &context.source.name, batching);
        self.producers = Some(self.keeping_alive(fence).await?);
        Ok(Fact::Done)
    }

    /// Rule 1: a late `init_transactions` may have fenced a newer instance. Then the newer one goes
    /// on.
    pub(super) async fn check_ownership(&mut self) -> Result<Fact> {
        let sql = Arc::clone(self.sql()?);
        let mut owned = self.replication.is_some() || self.lock.is_some();
        if let Some(replication) = &mut self.replication {
            let slot = slots::slot(&sql, &self.context.source.slot).await?;
            let holder = slot.and_then(|slot| slot.active_pid);
            if holder.is_none()
                && let Ok(error) = tokio::time::timeout(LAST_WORDS, replication.stream.last_words()).await
            {
                // Nobody took the slot from us. Our walsender gave up, and has said why.
                return Err(publication::is_gone(error));
            }
            owned &= holder == Some(replication.backend_pid);
        }
        if let Some(lock) = &self.lock {
            // A session advisory lock lives as long as its session answers.
            owned &= lock.simple_query("SELECT 1").await.is_ok();
        }
        Ok(if owned { Fact::Done } else { Fact::TakenByAnother })
    }

    pub(super) async fn read_position(&mut self) -> Result<Fact> {
        let context = self.context;
        if self.startup.is_setting_up() {
            if context.source.auto_setup {
                self.keeping_alive(position_topic::ensure(&context.kafka)).await?;
            }
            setup::ensure(self.sql()?, &context.source).await?;
        }
        let mut position = self.newest_position().await?;
        for _ in 0..DOUBTS {
            if position.is_some() || self.startup.is_setting_up() {
                break;
            }
            // A slot without a position halts the source. A broker that has just come back may not
            // know of all topics yet, so nobody is sent for on its first word.
            let pause = async {
                tokio::time::sleep(DOUBT).await;
                Ok(())
            };
            self.keeping_alive(pause).await?;
            position = self.newest_position().await?;
        }
        self.tables = tables::resolve_all(self.sql()?, &context.source).await?;
        self.relatives = tables::relatives(self.sql()?, &self.tables).await?;
        self.publication = look(self.sql()?, &context.source, &self.tables).await?;
        self.look_for_doubts().await?;
        // A source that was published through another publication halts: the comparison says so.
        if position.as_ref().is_none_or(|position| !self.has_another_publication(position)) {
            require_sends(self.sql()?, &context.source.publication, &self.tables).await?;
        }
        let slot_exists = slots::slot(self.sql()?, &context.source.slot).await?.is_some();
        let system_id = match &self.replication {
            Some(replication) => replication.system.system_id.clone(),
            None => server::system_id(self.sql()?).await?,
        };
        Ok(Fact::Position { position, slot_exists, system_id })
    }

    async fn newest_position(&mut self) -> Result<Option<Box<Position>>> {
        let context = self.context;
        let read = newest::read(&context.kafka, &context.source.name, Belief::Strict, newest::PATIENCE);
        let read = async { tokio::try_join!(read, require_compacted(&context.kafka)) };
        let (position, ()) = self.keeping_alive(read).await?;
        position.readable()
    }

    async fn look_for_doubts(&mut self) -> Result<()> {
        for doubt in doubts(self.sql()?, &self.context.source, &self.tables).await? {
            if doubt.refuses_set_up && self.startup.is_setting_up() {
                return Err(Error::new(Code::ColumnInvalid, doubt.text));
            }
            tracing::warn!("{}", doubt.text);
            self.doubts.insert(doubt.text);
        }
        Ok(())
    }

    fn has_another_publication(&self, position: &Position) -> bool {
        position.phase == Phase::Streaming
            && require_same_publication(&position.publication, &self.publication).is_err()
    }

    pub(super) async fn mark_chunk(&mut self) -> Result<Fact> {
        if self.context.source.mark == Mark::None {
            return Ok(Fact::Done);
        }
        if let Some(row) = self.startup.position().and_then(|position| position.marked.clone()) {
            self.require_mark(&row).await?;
        }
        let mut marks = Marks::default();
        for row in self.startup.position().map_or(&[][..], |position| &position.chunk) {
            let Some((table, _)) = (0_u16..).zip(&self.tables).find(|(_, table)| table.oid == row.table) else {
                // An unmarked row would be published again. A mark in another table would hit a row
                // there that would then never be published.
                let text = format!(
                    "rows of the table with oid {} are published and not yet marked: leave it in `tables` until the backfill is done",
                    row.table
                );
                return Err(Error::new(Code::PublicationChanged, text));
            };
            marks.push(MarkRow { table, xid: 0, id: &row.id });
        }
        let (context, tables) = (self.context, self.tables.clone());
        let started = self.server_started;
        self.keeping_alive(async { marking_session(context, &tables, started).await?.mark(&marks).await }).await?;
        Ok(Fact::Done)
    }

    /// A row that this source marked durably must still be marked, or be gone. Otherwise the server
    /// was restored from a copy, and rows that are published look as if they were not.
    async fn require_mark(&mut self, row: &RowId) -> Result<()> {
        let Some((table, _)) = (0_u16..).zip(&self.tables).find(|(_, table)| table.oid == row.table) else {
            return Ok(());
        };
        let (context, tables, started) = (self.context, self.tables.clone(), self.server_started);
        let look = async {
            let session = marking_session(context, &tables, started).await?;
            session.is_unmarked(MarkRow { table, xid: 0, id: &row.id }).await
        };
        if self.keeping_alive(look).await? {
            let text = format!(
                "row {} of {} was published and marked, and has lost its mark: others may have lost theirs, too",
                row.id,
                self.tables[usize::from(table)].display_name()
            );
            return Err(Error::new(Code::HistoryDiverged, text));
        }
        Ok(())
    }

    /// The session that holds the lock drops the slot. So an instance that lost the lock can no
    /// longer drop a successor's slot.
    pub(super) async fn drop_slot(&mut self) -> Result<Fact> {
        let lock = self.lock.as_ref().ok_or_else(|| Error::new(Code::Internal, "dropping a slot without the lock"))?;
        slots::drop_slot(lock, &self.context.source.slot).await?;
        Ok(Fact::Done)
    }

    pub(super) async fn create_slot(&mut self) -> Result<Fact> {
        let source = &self.context.source;
        let backfill = source.backfill == crate::config::Backfill::Unpublished;
        let mut client = self.context.connect.replication().await?;
        let options = CreateSlot {
            export_snapshot: backfill,
            failover: source.failover,
            temporary: false,
            lock_timeout: source.timeouts.lock,
        };
        let created = match client.create_slot(&source.slot, &options).await {
            Err(error) if sqlstate(&error) == Some(SqlState::LOCK_NOT_AVAILABLE.code()) => {
                return Err(held_up_by(self.sql()?, error).await);
            }
            created => created?,
        };
        if let Some(name) = &created.snapshot {
            // The snapshot lives until the connection's next command, so it is imported before the
            // slot is taken.
            let session = self.context.sql_on(self.server_started, "backfill").await?;
            BackfillCursor::import_snapshot(&session, name).await?;
            self.snapshot = Some(Arc::new(session));
        }
        self.own_slot(client).await?;
        if self.replication.as_ref().map(|replication| replication.confirmed) != Some(created.consistent_point) {
            // What was committed between the two slots is neither in our snapshot nor in the stream
            // of this slot.
            let text = format!("slot {} was advanced or made anew by somebody else while it was set up", source.slot);
            return Err(Error::new(Code::SlotInUse, text));
        }
        Ok(Fact::Slot { begins: created.consistent_point })
    }

    pub(super) async fn adopt_slot(&mut self) -> Result<Fact> {
        let client = self.context.connect.replication().await?;
        self.own_slot(client).await?;
        let begins = self.replication.as_ref().map_or(Lsn::ZERO, |replication| replication.confirmed);
        Ok(Fact::Slot { begins })
    }

    async fn own_slot(&mut self, client: ReplicationClient) -> Result<()> {
        match self.start_replication(client).await? {
            Fact::Done => Ok(()),
            _ => Err(Error::new(Code::SlotInUse, "another session took the slot that was just made")),
        }
    }

    /// Writes a position of the set-up.
    pub(super) async fn write(&mut self, phase: Phase) -> Result<Fact> {
        let position = self.set_up_position(phase)?;
        let bytes = self.context.record_of(&position);
        let producers = self.producers.take().ok_or_else(|| Error::new(Code::Internal, "no producers"))?;
        let write = producers.publish(Records::default(), bytes);
        let write = async { write.await.map_err(|unpublished| unpublished.failure.into_error()) };
        let (producers, _) = self.keeping_alive(write).await?;
        self.producers = Some(producers);
        Ok(Fact::Done)
    }

    pub(super) fn set_up_position(&self, phase: Phase) -> Result<Position> {
        let begins = self.startup.begins();
        let (system_id, timeline) = match &self.replication {
            Some(replication) => (replication.system.system_id.clone(), replication.system.timeline),
            // Phase `creating`: a first set-up names no system, and one that was interrupted or
            // recovered keeps the one that it belongs to.
            None => {
                let read = self.startup.position().map(|position| position.history.system_id.clone());
                (read.unwrap_or_default(), 0)
            }
        };
        let history = History { system_id, timeline, slot: self.context.source.slot.clone(), consistent_point: begins };
        let progress = Progress { lsn: begins, ..Progress::default() };
        let mut position = Position::new(phase, progress, history, self.publication.clone());
        position.unfenced = self.context.kafka.delivery == Delivery::AtLeastOnce;
        if phase != Phase::Streaming
            && let Some(read) = self.startup.position()
        {
            // By now the chunk that it names is marked as well.
            position.marked = last_marked(&read.chunk, &self.tables).or_else(|| read.marked.clone());
        }
        Ok(position)
    }

    pub(super) async fn backfill(&mut self) -> Result<Fact> {
        self.context.metrics.set_state(SourceState::Backfill);
        let missing = || Error::new(Code::Internal, "a backfill without its slot");
        let snapshot = self.snapshot.take().ok_or_else(missing)?;
        let producers = self.producers.take().ok_or_else(missing)?;
        let marking = match self.context.source.mark {
            Mark::None => None,
            Mark::Update | Mark::Delete => {
                Some(marking_session(self.context, &self.tables, self.server_started).await?)
            }
        };
        let position = self.set_up_position(Phase::Backfill)?;
        let tables = self.tables.clone();
        let (verdicts, times) = (self.memory.verdicts.clone(), self.memory.times.clone());
        let backfill =
            Backfill { context: self.context, tables: &tables, snapshot, marking, verdicts, times, position };
        match self.keeping_alive(backfill.run(producers)).await? {
            Ended::Done(producers) => self.producers = Some(*producers),
            Ended::Unpublished(unpublished) => {
                let Unpublished { records, failure } = *unpublished;
                let refused = self.memory.learn(&self.context.kafka, &records, &failure).await;
                let error = failure.into_error();
                let again = "records were refused, and the backfill begins anew with what was learned of them";
                return Err(if refused {
                    Error::new(Code::KafkaTransactionFailed, again).because(error)
                } else {
                    error
                });
            }
        }
        self.lock = None; // From here on the slot is the mutex.
        Ok(Fact::Done)
    }

    /// Waits for work that may take long. It gives up at once when the slot is lost, or when the
    /// server shuts down: the server would wait for our walsender to confirm what we cannot
    /// (rule 9).
    async fn keeping_alive<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let sql = Arc::clone(self.sql()?);
        let mut tick = tokio::time::interval(self.context.source.timeouts.status);
        let mut stream = self.replication.as_mut().map(|replication| &mut replication.stream);
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                error = sql.closed() => return Err(error),
                error = lost(&mut stream) => return Err(error),
                _ = tick.tick() => self.context.metrics.beat(),
            }
        }
    }
}

async fn lost(stream: &mut Option<&mut HeldStream>) -> Error {
    match stream {
        Some(stream) => stream.lost().await,
        None => std::future::pending().await,
    }
}
