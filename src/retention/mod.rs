//! Retention: published rows leave their table, by themselves or with their partition. `outboxd
//! purge` does it once, and `run` now and then.
//!
//! In: an ordinary session on the source's database. Out: what was done, told to the caller step by
//! step. It never touches the stream, the slot or Kafka: it reads how far both are. `plan` decides, and
//! is pure.

mod once;
pub mod plan;

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio_postgres::Client;

pub(crate) use self::once::once;
use self::plan::{Detached, Micros, Verdict, is_old, judge, missing};
use crate::{
    Code, Error, Lsn, Result,
    config::{Mark, Retention, RetentionBy, Source},
    postgres::catalog::{
        ColumnInfo, TableInfo,
        retention::{self as sql, Detaching, LeavingTable, Partition, Partitioning, Unmarked},
        slots, tables,
    },
};

/// Blocks that one statement reads, in all leaves of a table together. With rows of half a kilobyte
/// it deletes at most some 4,000.
const BLOCKS: i64 = 256;

/// The longest wait for a lock. As long as a lock of the whole table is waited for, inserts wait too.
const LOCK_WAIT: Duration = Duration::from_millis(500);

/// What a round does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everything.
    All,
    /// Makes partitions only, so that inserts go on while rows are not published.
    MakesOnly,
    /// Nothing. It says what it would do.
    DryRun,
}

/// What one round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) rows: u64,
    pub(crate) made: u64,
    pub(crate) detached: u64,
    pub(crate) dropped: u64,
}

/// One thing that was done, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Deleted {
        table: String,
        rows: u64,
    },
    WouldDelete {
        table: String,
        rows: i64,
    },
    Made {
        name: String,
    },
    WouldMake {
        table: String,
        from: Micros,
        to: Micros,
    },
    Detached {
        name: String,
    },
    WouldDetach {
        name: String,
    },
    Dropped {
        name: String,
    },
    /// Something keeps a partition. It is no error: the next round looks again.
    Keeps {
        name: String,
        why: String,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deleted { table, rows } => write!(f, "deleted {rows} published rows of {table}"),
            Self::WouldDelete { table, rows } => write!(f, "would delete {rows} published rows of {table}"),
            Self::Made { name } => write!(f, "made partition {name}"),
            Self::WouldMake { table, from, to } => {
                write!(f, "would make a partition of {table} from {} to {}", sql::rfc3339(*from), sql::rfc3339(*to))
            }
            Self::Detached { name } => write!(f, "detached partition {name}"),
            Self::WouldDetach { name } => write!(f, "would detach partition {name}, and drop it later"),
            Self::Dropped { name } => write!(f, "dropped {name}"),
            Self::Keeps { name, why } => write!(f, "keeps {name}: {why}"),
        }
    }
}

fn micros(duration: Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}

/// A round under way.
pub(crate) struct Round<'a> {
    pub(crate) session: &'a Client,
    pub(crate) source: &'a Source,
    pub(crate) retention: &'a Retention,
    pub(crate) scope: Scope,
    /// The position in Kafka. `None` where it is not known: then nothing is dropped.
    pub(crate) position: Option<Lsn>,
    /// Told of each thing at once, since the next may fail.
    pub(crate) tell: &'a mut (dyn FnMut(Event) + Send + Sync),
}

impl Round<'_> {
    /// Goes through the tables of the source. Where one fails, the others are gone through all the
    /// same.
    ///
    /// # Errors
    /// The first that a table brought.
    pub(crate) async fn run(mut self) -> Result<Done> {
        sql::set_up(self.session, LOCK_WAIT).await?;
        let mut done = Done::default();
        let mut first = None;
        for table in tables::resolve_all(self.session, self.source).await? {
            let gone = match self.retention.by {
                RetentionBy::Delete => self.delete(&table, &mut done).await,
                RetentionBy::Partition { width, ahead } => self.partitions(&table, (width, ahead), &mut done).await,
            };
            first = first.or(gone.err());
        }
        // What was detached before is dropped even if the configuration is another one by now.
        if self.scope == Scope::All {
            first = first.or(self.let_go(&mut done).await.err());
        }
        first.map_or(Ok(done), Err)
    }

    fn mark_column<'t>(&self, table: &'t TableInfo) -> Result<&'t ColumnInfo> {
        table.needed_column(&self.source.mapping.columns.published_at)
    }

    // ---- rows ---------------------------------------------------------------------------------------

    /// Goes through the table in ranges of blocks. So it needs no index, each statement is short, and
    /// no row is looked at twice.
    async fn delete(&mut self, table: &TableInfo, done: &mut Done) -> Result<()> {
        let shown = table.display_name();
        let (mark, keep) = (self.mark_column(table)?, self.retention.keep);
        match self.scope {
            Scope::MakesOnly => return Ok(()),
            Scope::DryRun => {
                let rows = sql::count_old(self.session, table, mark, keep).await?;
                (self.tell)(Event::WouldDelete { table: shown, rows });
                return Ok(());
            }
            Scope::All => {}
        }
        let (blocks, leaves) = sql::blocks(self.session, table).await?;
        let step = (BLOCKS / leaves.max(1)).max(1);
        let mut rows = 0;
        let mut from = 0;
        while from < blocks {
            let began = tokio::time::Instant::now();
            let to = from + step;
            match sql::delete_old(self.session, table, mark, keep, (from, to)).await {
                Ok(deleted) => rows += deleted,
                // Somebody has locked one of these rows. The next round comes by again.
                Err(error) if sql::is_held_up(&error) => {}
                Err(error) => {
                    self.deleted(shown, rows, done);
                    return Err(error);
                }
            }
            from = to;
            // Half of the time belongs to others.
            tokio::time::sleep(began.elapsed()).await;
        }
        self.deleted(shown, rows, done);
        Ok(())
    }

    fn deleted(&mut self, table: String, rows: u64, done: &mut Done) {
        if rows > 0 {
            done.rows += rows;
            (self.tell)(Event::Deleted { table, rows });
        }
    }

    // ---- partitions ---------------------------------------------------------------------------------

    /// Makes the partitions ahead, and detaches the old ones.
    async fn partitions(&mut self, table: &TableInfo, made: (Duration, u32), done: &mut Done) -> Result<()> {
        let found = sql::partitioning(self.session, table).await?;
        let now = micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let ranges: Vec<_> = found.partitions.iter().map(|part| part.range).collect();
        let (width, ahead) = made;
        for (from, to) in missing(&ranges, now, micros(width), ahead) {
            if self.scope == Scope::DryRun {
                (self.tell)(Event::WouldMake { table: table.display_name(), from, to });
                continue;
            }
            let name = sql::make(self.session, table, &found.key, (from, to)).await?;
            done.made += 1;
            (self.tell)(Event::Made { name });
        }
        let keep = micros(self.retention.keep);
        if self.scope == Scope::MakesOnly {
            return Ok(());
        }
        for part in found.partitions.iter().filter(|part| is_old(part.range, now, keep)) {
            self.detach(table, &found, part, done).await?;
        }
        Ok(())
    }

    /// Detaches a partition and notes where the log ends. The next rounds drop it.
    async fn detach(
        &mut self,
        table: &TableInfo,
        found: &Partitioning,
        part: &Partition,
        done: &mut Done,
    ) -> Result<()> {
        let name = part.display_name();
        if let Some(why) = in_the_way(found, part) {
            return Err(Error::new(Code::RetentionFailed, format!("partition {name} cannot be detached: {why}")));
        }
        // A look without a lock is enough for most partitions that have to stay.
        let mark = unmarked(self.source);
        if sql::has_unmarked(self.session, part, mark).await? {
            (self.tell)(Event::Keeps { name, why: UNMARKED.to_owned() });
            return Ok(());
        }
        if self.scope == Scope::DryRun {
            (self.tell)(Event::WouldDetach { name });
            return Ok(());
        }
        match sql::detach(self.session, table, part, &self.source.name, mark).await {
            Ok(Detaching::Done) => {
                done.detached += 1;
                (self.tell)(Event::Detached { name });
            }
            Ok(Detaching::HasUnmarked) => (self.tell)(Event::Keeps { name, why: UNMARKED.to_owned() }),
            Err(error) if sql::is_held_up(&error) => {
                let why = "transactions use the table for too long".to_owned();
                (self.tell)(Event::Keeps { name, why });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Goes on with every partition that was detached, in this round or before.
    async fn let_go(&mut self, done: &mut Done) -> Result<()> {
        let leaving = sql::leaving(self.session, &self.source.name).await?;
        if leaving.is_empty() {
            return Ok(());
        }
        let slot = slots::slot(self.session, &self.source.slot).await?;
        let slot = slot.filter(|slot| slot.lost().is_none());
        let confirmed = slot.zip(self.position).map(|(slot, position)| slot.confirmed_flush.min(position));
        for LeavingTable { table, note } in leaving {
            let name = table.display_name();
            let has_unmarked = sql::has_unmarked(self.session, &table, unmarked(self.source)).await?;
            let seen = Detached { end: note.end(), confirmed, has_unmarked };
            match (judge(&seen), confirmed) {
                (Verdict::Drop, _) => {
                    sql::drop_table(self.session, &table).await?;
                    done.dropped += 1;
                    (self.tell)(Event::Dropped { name });
                }
                (Verdict::Keep, _) => {
                    let why = "somebody inserted rows into it after it was detached, and nobody publishes them: move \
                               them into the outbox table, or set their mark";
                    (self.tell)(Event::Keeps { name, why: why.to_owned() });
                }
                (Verdict::Wait, Some(confirmed)) => {
                    let why =
                        format!("its rows lie before {}, and everything is published up to {confirmed}", seen.end);
                    (self.tell)(Event::Keeps { name, why });
                }
                (Verdict::Wait, None) => {
                    let why = "without slot and position nothing tells what is published".to_owned();
                    (self.tell)(Event::Keeps { name, why });
                }
            }
        }
        Ok(())
    }
}

/// Why a partition stays for now.
const UNMARKED: &str = "it has rows that are not published yet";

/// What tells that a row is not published, or not marked.
fn unmarked(source: &Source) -> Unmarked<'_> {
    match source.mark {
        Mark::Update => Unmarked::Null(&source.mapping.columns.published_at),
        Mark::Delete => Unmarked::There,
        Mark::None => Unmarked::Unknown,
    }
}

/// What keeps this partition from being detached, for longer than a moment.
fn in_the_way(found: &Partitioning, part: &Partition) -> Option<String> {
    if part.is_pending {
        return Some(
            "somebody's DETACH … CONCURRENTLY of it is pending: finish it with FINALIZE, and see that all its rows \
             are published before you drop it"
                .to_owned(),
        );
    }
    Some(format!("{}: drop them, or use by = \"delete\"", found.referred_to()?))
}
