//! Runs drains one after the other. Each has a database and a topic of its own, which are removed
//! afterwards.

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    drain::{self, COLUMNS, Drain},
    peer,
    report::Report,
    setting::{EXACTLY_ONCE, Setting, Source, Via, say},
    shape::Shape,
    table::Table,
};

const REFERENCE: &str = "reference";

/// What migrations/0001_outbox_table_hot.sql has and the seed's table lacks.
const HOT: &str = "ALTER TABLE order_outbox SET (fillfactor = 50); DROP INDEX order_outbox_created_at_idx";

/// How the rows are carried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) mark: &'static str,
    pub(crate) delivery: &'static str,
    /// Whether every mark on the table is a HOT update.
    pub(crate) hot: bool,
    /// As the command line says, if there is nothing here.
    pub(crate) via: Option<Via>,
}

impl Way {
    /// Without marks. From case to case only the rows differ.
    pub(crate) const PLAIN: Self = Self { mark: "none", delivery: EXACTLY_ONCE, hot: false, via: None };
}

/// The result of one case: outboxd, and the rows a second of `pg_recvlogical` on the same rows.
struct Found {
    way: Way,
    shape: Shape,
    recvlogical: f64,
    drain: Drain,
}

/// Cases that stand in one table.
pub(crate) struct Series {
    /// The name of the figures, and a part of the names of databases and topics.
    name: &'static str,
    found: Vec<Found>,
}

impl Series {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, found: Vec::new() }
    }

    /// Runs one case.
    pub(crate) async fn run(&mut self, setting: &Setting, way: Way, shape: Shape) -> Result<()> {
        let name = format!("{}_{}", self.name, self.found.len());
        self.found.push(run(setting, &name, way, shape).await?);
        Ok(())
    }

    /// Writes the table. The reference of each line is `pg_recvlogical` on the same rows.
    pub(crate) fn write(&self, title: &str, report: &mut Report) {
        let columns: Vec<&str> = COLUMNS.into_iter().chain(["CPU without start", "pg_recvlogical"]).collect();
        let mut table = Table::new(&columns);
        for Found { way: Way { mark, delivery, hot, via }, shape, recvlogical, drain } in &self.found {
            let mut cells = drain.cells(*recvlogical);
            cells.extend([format!("{:.1}", drain.processor_streaming), format!("{recvlogical:.0}")]);
            let hot = if *hot { ", a HOT table" } else { "" };
            let via = via.map_or_else(String::new, |via| format!("; {via}"));
            table.row(&format!("{shape}; mark {mark}, {delivery}{hot}{via}"), &cells);
        }
        report.section(title, table.text());
        report.figure(self.name, self.found.iter().map(Found::json).collect::<Vec<_>>());
    }
}

/// Warms the broker up, since no case should be the first work that it sees.
pub(crate) async fn warm_up(setting: &Setting, rows: i64) -> Result<()> {
    say("warming up");
    run(setting, "warm", Way::PLAIN, Shape::seed(rows, 1_000)).await.map(|_| ())
}

/// Sets up, loads, drains with `pg_recvlogical`, drains with outboxd, cleans up.
async fn run(setting: &Setting, name: &str, way: Way, shape: Shape) -> Result<Found> {
    let client = setting.database(name).await?;
    if way.hot {
        client.batch_execute(HOT).await?;
    }
    let source = Source { delivery: way.delivery, via: way.via, ..Source::new(name, name, way.mark) };
    setting.set_up(&client, &source).await?;
    client.query_one("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&REFERENCE]).await?;
    shape.load(&client).await?;
    let end: String = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);
    drain::checkpoint(&client).await?;
    let took = peer::drain(setting, name, REFERENCE, &source.slot(), &end).await?;
    setting.drop_slot(REFERENCE).await?;
    let drain = drain::run(setting, &source, &client, shape).await?;
    drop(client);
    setting.remove(&source).await?;
    Ok(Found { way, shape, recvlogical: shape.rows as f64 / took.as_secs_f64(), drain })
}

impl Found {
    fn json(&self) -> Value {
        json!({
            "mark": self.way.mark,
            "delivery": self.way.delivery,
            "hot": self.way.hot,
            "via": self.way.via.map(|via| via.to_string()),
            "rows": self.shape.rows,
            "rows_per_transaction": self.shape.per_transaction,
            "payload": self.shape.payload.to_string(),
            "pg_recvlogical_rows_per_second": self.recvlogical,
            "outboxd": self.drain.json(),
        })
    }
}
