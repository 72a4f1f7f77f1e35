//! A source as the defaults of the configuration would have it.

use std::time::Duration;

use outboxd::config::{Backfill, Limits, Mapping, Mark, OnPoison, Source, TableName, Timeouts};

/// A source named `name` over tables of the search_path, or `schema.table`.
pub(crate) fn source(name: &str, url: &str, tables: &[&str]) -> Source {
    Source {
        name: name.to_owned(),
        url: url.parse().unwrap(),
        password: None,
        tables: tables.iter().map(|table| table_name(table)).collect(),
        slot: format!("outboxd_{name}"),
        publication: format!("outboxd_{name}"),
        failover: false,
        auto_setup: false,
        mark: Mark::Update,
        backfill: Backfill::Unpublished,
        backfill_order_by: None,
        mapping: Mapping::default(),
        on_poison: OnPoison::Stop,
        retention: None,
        limits: Limits {
            batch_rows: 10_000,
            batch_bytes: 16 << 20,
            linger: Duration::ZERO,
            in_flight_bytes: 32 << 20,
            unmarked_rows: 100_000,
            backfill_chunk_rows: 5_000,
            marker_connections: 1,
            message_bytes: 1 << 30,
        },
        timeouts: Timeouts {
            connect: Duration::from_secs(10),
            statement: Duration::from_secs(30),
            lock: Duration::from_secs(10),
            status: Duration::from_secs(5),
            idle_advance: Duration::from_secs(10),
            shutdown: Duration::from_secs(20),
            backoff_max: Duration::from_secs(30),
        },
    }
}

/// `name` or `schema.name`.
pub(crate) fn table_name(text: &str) -> TableName {
    match text.split_once('.') {
        Some((schema, name)) => TableName { schema: Some(schema.to_owned()), name: name.to_owned() },
        None => TableName { schema: None, name: text.to_owned() },
    }
}
