//! Reads now and then what only Postgres knows. It does so on a session of its own, since a slow
//! count must hold up nothing.
//!
//! Looking belongs to the daemon and not to a session of the source: it goes on while the source
//! tries again, stands by, or has halted. Where nothing can be learned, the metrics say so.

use std::time::{Duration, SystemTime};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::Instrument as _;

use super::{
    behind::{Behind, Found},
    context::Context,
    settings::Settings,
};
use crate::{
    Code, Error, Lsn, Result,
    config::{Mark, Source},
    postgres::{
        ConnectOptions, SqlSession,
        catalog::{
            monitor::{self, Backlog},
            tables,
        },
        farewell::Task,
    },
    source::standing::{SlotStanding, SourceState},
    telemetry::{SeenSlot, Sight, SourceMetrics},
};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(5);

/// The longest pause while the server does not answer.
const EVERY_MAX: Duration = Duration::from_secs(30);

/// Rows are counted again at the earliest after so many times the time that counting took, and at the
/// latest after [`COUNT_MAX`]. So counting takes at most 2 % of a core of the server, however much
/// there is to count.
const SHARE: u32 = 50;
const COUNT_MAX: Duration = Duration::from_secs(300);

/// A look ends after this long, whatever the server does.
const LOOK_WITHIN: Duration = Duration::from_secs(60);

/// The monitoring task of a source. It ends when this is dropped.
pub(super) struct Monitor {
    _task: Task,
}

impl Monitor {
    /// Starts the task. An error that keeps it from looking holds nothing up.
    pub(super) fn start(context: &Context) -> Self {
        let (settings, metrics) = (context.settings.clone(), context.metrics.clone());
        let span = tracing::info_span!("source", source = context.source.name);
        Self { _task: Task::spawn(async move { watch(settings, &metrics).await }.instrument(span)) }
    }
}

async fn watch(mut settings: watch::Receiver<Settings>, metrics: &SourceMetrics) {
    let (mut eyes, mut behind) = (None, Behind::new(SystemTime::now()));
    let mut failures = 0;
    loop {
        let Settings { source, connect, .. } = &settings.borrow_and_update().clone();
        let looked = timeout(LOOK_WITHIN, look(source, connect, &mut eyes)).await;
        let looked = looked.unwrap_or_else(|_| {
            eyes = None;
            Err(Error::new(Code::PostgresUnavailable, "the server did not answer in time"))
        });
        match looked {
            Ok(seen) => {
                failures = 0;
                metrics.saw(sight(source, &seen, &mut behind, metrics));
            }
            // The relay meets the same server and reports its errors.
            Err(error) => {
                tracing::debug!("monitoring: {error}");
                failures += 1;
                metrics.saw_nothing();
            }
        }
        // The first failure is often the end of a session whose server is back at once.
        let pauses = 1 << u32::min(u32::saturating_sub(failures, 1), 3);
        sleep((EVERY * pauses).min(EVERY_MAX)).await;
    }
}

/// A session, the queries for the tables that were found on it, and the last count.
struct Eyes {
    session: SqlSession,
    queries: monitor::Monitor,
    count: Option<Backlog>,
    count_due: Instant,
}

/// What one look has seen.
struct Seen {
    end: Lsn,
    slot: Option<monitor::SlotReading>,
    /// The last count.
    count: Option<Backlog>,
    /// Whether this look has counted.
    is_fresh: bool,
}

impl Eyes {
    /// Opens a session, and finds the tables. Without its tables, a source still has a slot.
    async fn open(source: &Source, connect: &ConnectOptions) -> Result<Self> {
        let session = connect.sql("monitor").await?;
        let tables = tables::resolve_all(&session, source).await.unwrap_or_default();
        let queries = monitor::Monitor::new(&source.slot, &tables, &source.mapping.columns, source.mark);
        Ok(Self { session, queries, count: None, count_due: Instant::now() })
    }

    /// Whether nothing has to be found anew.
    fn can_look(&self, source: &Source) -> bool {
        !self.session.is_closed() && (self.queries.counts() || source.mark == Mark::None)
    }
}

/// Looks once, on the session of the last time if that can still look. After an error it begins
/// anew, since the tables may have changed.
async fn look(source: &Source, connect: &ConnectOptions, eyes: &mut Option<Eyes>) -> Result<Seen> {
    let mut open = match eyes.take().filter(|eyes| eyes.can_look(source)) {
        Some(open) => open,
        None => Eyes::open(source, connect).await?,
    };
    let (end, slot) = open.queries.slot(&open.session).await?;
    let is_fresh = Instant::now() >= open.count_due;
    if is_fresh {
        let began = Instant::now();
        open.count = open.queries.backlog(&open.session).await?;
        open.count_due = Instant::now() + (began.elapsed() * SHARE).min(COUNT_MAX);
    }
    let seen = Seen { end, slot, count: open.count, is_fresh };
    *eyes = Some(open);
    Ok(seen)
}

fn sight(source: &Source, seen: &Seen, behind: &mut Behind, metrics: &SourceMetrics) -> Sight {
    let slot = seen.slot.as_ref();
    let confirmed = slot.and_then(|slot| slot.confirmed_flush);
    // In a backfill the rows are older than the slot.
    let is_before_slot = metrics.state() == SourceState::Backfill;
    let published = confirmed.max(metrics.position()).filter(|_| !is_before_slot);
    let counted = seen.count.filter(|_| seen.is_fresh);
    let found = Found {
        end: seen.end,
        published,
        rows: counted.map(|count| count.rows),
        oldest: counted.and_then(|count| count.oldest),
    };
    Sight {
        lag: behind.look(SystemTime::now(), &found),
        slot: slot.map(|slot| SeenSlot { end: seen.end, slot: standing(&source.slot, slot) }),
        lag_bytes: slot.map(|slot| slot.lag_bytes),
        spilled_bytes: slot.map(|slot| slot.spilled_bytes),
        unpublished_rows: seen.count.map(|count| count.rows),
        oldest_unmarked: seen.count.map(|count| count.oldest.unwrap_or_default()),
    }
}

fn standing(name: &str, slot: &monitor::SlotReading) -> SlotStanding {
    SlotStanding {
        name: name.to_owned(),
        active: slot.active,
        wal_status: slot.wal_status.clone(),
        confirmed_flush: slot.confirmed_flush.unwrap_or_default(),
        retained_bytes: Some(slot.retained_bytes),
    }
}
