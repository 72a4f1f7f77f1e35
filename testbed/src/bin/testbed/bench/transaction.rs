//! `--transaction`: one Postgres transaction that is far larger than the daemon may become.

use anyhow::Result;

use super::{
    case::{self, Series, Way},
    report::Report,
    setting::Setting,
    shape::{Payload, Shape},
};

/// These rows make 2 GB with the payload below.
pub(crate) const ROWS: i64 = 1_300_000;
const PAYLOAD: Payload = Payload::Bytes(1_600);

pub(crate) async fn measure(setting: &Setting, rows: i64, report: &mut Report) -> Result<()> {
    case::warm_up(setting, rows.min(500_000)).await?;
    let mut series = Series::new("transaction");
    series.run(setting, Way::PLAIN, Shape { rows, per_transaction: rows, payload: PAYLOAD }).await?;
    series.write("One transaction", report);
    Ok(())
}
