//! The drains of `--matrix`: every mark with every delivery, and the base case with other sizes of
//! transactions and payloads.

use anyhow::Result;

use super::{
    DELIVERIES, PARTITIONS,
    case::{self, Series, Way},
    report::Report,
    setting::{Codec, Setting, Via},
    shape::{Payload, Shape},
};

const MARKS: [&str; 3] = ["none", "update", "delete"];
/// Rows of a transaction, besides those of the base case.
const PER_TRANSACTION: [i64; 4] = [1, 10, 100, 10_000];

/// Bytes of a payload, and the number by which the rows are divided, so that a case takes only
/// seconds.
const PAYLOADS: [(usize, i64); 3] = [(200, 1), (1_600, 1), (50_000, 25)];

/// The loads whose latency is measured, in single-row transactions a second.
pub(crate) const RATES: [u32; 3] = [100, 1_000, 5_000];

pub(crate) async fn measure(setting: &Setting, base: Shape, report: &mut Report) -> Result<()> {
    case::warm_up(setting, base.rows).await?;
    let mut ways = Series::new("ways");
    for mark in MARKS {
        for delivery in DELIVERIES {
            ways.run(setting, Way { mark, delivery, ..Way::PLAIN }, base).await?;
        }
    }
    ways.run(setting, Way { mark: "update", hot: true, ..Way::PLAIN }, base).await?;
    ways.write("Marks and deliveries", report);

    let mut transactions = Series::new("transactions");
    for per_transaction in PER_TRANSACTION {
        transactions.run(setting, Way::PLAIN, Shape { per_transaction, ..base }).await?;
    }
    transactions.write("Rows of a transaction", report);

    let via = setting.via;
    let mut roads = Series::new("roads");
    let mut ways = PARTITIONS.map(|partitions| Via { partitions, ..via }).to_vec();
    ways.extend([Via { compression: Codec::None, ..via }, Via { unix_socket: true, ..via }]);
    for via in ways {
        roads.run(setting, Way { via: Some(via), ..Way::PLAIN }, base).await?;
    }
    roads.write("Sockets, partitions, codecs", report);

    let mut payloads = Series::new("payloads");
    for (bytes, fewer) in PAYLOADS {
        let shape = Shape { rows: (base.rows / fewer).max(1), payload: Payload::Bytes(bytes), ..base };
        payloads.run(setting, Way::PLAIN, shape).await?;
    }
    payloads.write("Payloads", report);
    Ok(())
}
