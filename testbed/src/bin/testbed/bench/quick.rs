//! The drains of a plain `make bench`: outboxd between its references, all on the same rows.

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    bare::{self, Bare},
    chart::{self, Bar},
    drain::{self, COLUMNS, Drain, checkpoint},
    marking, peer,
    report::Report,
    setting::{Setting, Source, say},
    shape::Shape,
    table::Table,
};

const DATABASE: &str = "drain";

/// The slots of the references. pg_recvlogical reads before outboxd and after it.
const SLOTS: [&str; 4] = ["reference_1", "reference_2", "bare_text", "bare_binary"];

/// The results, in rows a second.
struct Found {
    recvlogical: [f64; 2],
    bare: f64,
    bare_binary: f64,
    none: Drain,
    update: Drain,
    /// For each number of connections.
    marking: Vec<(usize, f64)>,
}

pub(crate) async fn measure(setting: &Setting, shape: Shape, report: &mut Report) -> Result<()> {
    let client = setting.database(DATABASE).await?;
    let [warm, none, update] = [("warm", "none"), ("none", "none"), ("update", "update")]
        .map(|(name, mark)| Source::new(DATABASE, name, mark));
    say("setting up the sources and the slots of the references");
    for source in [&warm, &none, &update] {
        setting.set_up(&client, source).await?;
    }
    for slot in SLOTS {
        client.query_one("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot]).await?;
    }
    shape.load(&client).await?;
    let end: String = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);

    // A broker that has just started compiles itself on the cores that are measured. No peer was
    // measured like that.
    say("warming up");
    drain::run(setting, &warm, &client, shape).await?;
    setting.drop_slot(&warm.slot()).await?;

    let publication = none.slot();
    let rate = |time: std::time::Duration| shape.rows as f64 / time.as_secs_f64();
    let bare = |slot, binary| Bare { database: DATABASE, slot, publication: &publication, binary, rows: shape.rows };
    let [first, second, text, binary] = SLOTS;
    checkpoint(&client).await?;
    let before = rate(peer::drain(setting, DATABASE, first, &publication, &end).await?);
    let bare_text = rate(bare::drain(setting, &bare(text, false)).await?);
    let none = drain::run(setting, &none, &client, shape).await?;
    checkpoint(&client).await?;
    let bare_binary = rate(bare::drain(setting, &bare(binary, true)).await?);
    let after = rate(peer::drain(setting, DATABASE, second, &publication, &end).await?);
    for slot in SLOTS.into_iter().chain([publication.as_str()]) {
        setting.drop_slot(slot).await?;
    }

    let drained = drain::run(setting, &update, &client, shape).await?;
    setting.drop_slot(&update.slot()).await?;
    let mut marking = Vec::new();
    for connections in marking::CONNECTIONS {
        marking.push((connections, marking::alone(setting, &client, DATABASE, connections).await?));
    }
    let recvlogical = [before, after];
    Found { recvlogical, bare: bare_text, bare_binary, none, update: drained, marking }.write(shape, report);
    Ok(())
}

impl Found {
    fn write(&self, shape: Shape, report: &mut Report) {
        let [before, after] = self.recvlogical;
        let reference = f64::midpoint(before, after);
        let mut table = Table::new(&COLUMNS);
        let cells = Drain::reference_cells;
        table.row(&format!("pg_recvlogical ({before:.0}, then {after:.0})"), &cells(reference, reference));
        table.row("a bare reader that rests", &cells(self.bare, reference));
        table.row("the same, binary", &cells(self.bare_binary, reference));
        table.row("outboxd, mark none", &self.none.cells(reference));
        let single = self.marking.first().map_or(f64::NAN, |(_, rate)| *rate);
        for (connections, rate) in &self.marking {
            table.row(&format!("the marking UPDATE alone, connections: {connections}"), &cells(*rate, single));
        }
        table.row("outboxd, mark update", &self.update.cells(single));
        report.section(
            &format!("Drain of {shape}"),
            &format!(
                "{}\nCPU seconds by thread, mark none: {}.\n\nCPU seconds by thread, mark update: {}.",
                table.text(),
                self.none.thread_list(),
                self.update.thread_list()
            ),
        );

        report.chart(self.chart(shape, reference, single));
        report.figure("rows", shape.rows);
        report.figure("rows_per_transaction", shape.per_transaction);
        report.figure("pg_recvlogical_rows_per_second", self.recvlogical.to_vec());
        report.figure("bare_reader_rows_per_second", self.bare);
        report.figure("bare_reader_binary_rows_per_second", self.bare_binary);
        report.figure("outboxd_mark_none", self.none.json());
        report.figure("outboxd_mark_update", self.update.json());
        let marking = self.marking.iter().map(|(connections, rate)| json!({"connections": connections, "rate": rate}));
        report.figure("marking_update_alone_rows_per_second", marking.collect::<Vec<Value>>());
    }

    fn chart(&self, shape: Shape, recvlogical: f64, marking: f64) -> String {
        let bar = |name, value, ours| Bar { name, value, ours };
        chart::bars(
            &format!("Rows a second: {shape}"),
            &[
                bar("pg_recvlogical", recvlogical, false),
                bar("outboxd, mark none", self.none.rate, true),
                bar("the marking UPDATE alone", marking, false),
                bar("outboxd, mark update", self.update.rate, true),
            ],
        )
    }
}
