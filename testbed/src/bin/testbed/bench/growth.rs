//! `--growth`: whether a row costs the same in a small backlog and in a large one.

use anyhow::Result;

use super::{
    case::{self, Series, Way},
    report::Report,
    setting::Setting,
    shape::{Payload, Shape},
};

/// The largest backlog. The smallest has a thousandth of these rows.
pub(crate) const ROWS: i64 = 10_000_000;

/// This is small, since ten million rows are in the table, in the log and in the topic at once.
/// They take 10 GB with it.
const PAYLOAD: Payload = Payload::Bytes(100);

pub(crate) async fn measure(setting: &Setting, rows: i64, report: &mut Report) -> Result<()> {
    case::warm_up(setting, rows.min(500_000)).await?;
    let mut series = Series::new("growth");
    for fewer in [1_000, 100, 10, 1] {
        let shape = Shape { rows: (rows / fewer).max(1), per_transaction: 1_000, payload: PAYLOAD };
        series.run(setting, Way::PLAIN, shape).await?;
    }
    series.write("Growth of the backlog", report);
    Ok(())
}
