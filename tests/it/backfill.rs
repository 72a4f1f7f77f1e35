//! What the backfill reads from real servers: which rows, in which order, as which text.

use outboxd::{
    config::{Mark, Source},
    postgres::{
        ConnectOptions, SqlSession,
        catalog::{
            TableInfo,
            backfill::{BackfillCursor, BackfillQuery, BackfillRow, Order},
            server, slots, tables,
        },
    },
};
use testbed::{Postgres, Version};
use tokio_postgres::Client;

use crate::{
    catalog::{SEED, given, table},
    sources::source,
};

/// All rows as (table, values as text), through chunks of 3.
async fn backfilled(client: &Client, tables: &[TableInfo], source: &Source) -> Vec<(u16, Vec<Option<String>>)> {
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    let snapshot: String = client.query_one("SELECT pg_export_snapshot()", &[]).await.unwrap().get(0);
    let reader = other_session(client).await;
    BackfillCursor::import_snapshot(&reader, &snapshot).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    let mut cursor = BackfillCursor::open(&reader, tables, source).await.unwrap();
    let mut all = Vec::new();
    loop {
        let rows = cursor.fetch(3).await.unwrap();
        let text = |row: &BackfillRow| {
            let value = |value: &Option<Box<[u8]>>| value.as_ref().map(|v| String::from_utf8(v.to_vec()).unwrap());
            (row.table, row.columns.iter().map(value).collect())
        };
        all.extend(rows.iter().map(text));
        if rows.len() < 3 {
            cursor.finish().await.unwrap();
            return all;
        }
    }
}

/// A second session in the same database, as superuser, with the settings of outboxd's sessions.
async fn other_session(client: &Client) -> SqlSession {
    let database: String = client.query_one("SELECT current_database()::text", &[]).await.unwrap().get(0);
    let version = server::server(client).await.unwrap().major();
    let url = Postgres::shared(version.to_string().parse().unwrap()).await.unwrap().superuser_url(&database);
    ConnectOptions::to(&url.parse().unwrap()).sql("test").await.unwrap()
}

fn ids(rows: &[(u16, Vec<Option<String>>)]) -> Vec<String> {
    rows.iter().map(|(table, values)| format!("{table}:{}", values[0].as_deref().unwrap_or("null"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_the_backfill_is_the_text_that_pgoutput_sends() {
    for version in [Version::V15, Version::V18] {
        let sql = "CREATE DOMAIN word AS text; CREATE TYPE pair AS (a int, b int); CREATE TYPE mood AS ENUM ('sad', 'so so');
            CREATE DOMAIN address AS inet; CREATE TYPE named AS (at timestamptz, raw bytea, c char(3));
            CREATE TABLE t (id int primary key, b bool, c char(5), j jsonb, jj json, n numeric, ts timestamp, tz timestamptz,
              raw bytea, i interval, f float8, w word, p pair, a text[], e text, g int GENERATED ALWAYS AS (id * 2) STORED,
              published_at timestamp, dropped int,
              m mood, ad address, ci cidr, mac macaddr, d date, d2 date, ts2 timestamp, tz2 timestamptz, one \"char\", na name,
              r tstzrange, mr int4multirange, u uuid, bi bit(3), vb varbit, o oid, cl regclass, lsn pg_lsn, ti time, tiz timetz,
              box box, vec tsvector, path jsonpath, f4 float4, f8 float8[], mn money, comp named, tzs timestamptz[], moods mood[]);
            ALTER TABLE t DROP COLUMN dropped; ALTER TABLE t ADD COLUMN \"Odd \"\"name\" text;";
        let (client, mut source) = given(version, sql, &["t"]).await;
        source.backfill_order_by = Some("id".to_owned());
        let slot = &source.slot;
        client.batch_execute(&format!("CREATE PUBLICATION {slot} FOR TABLE t")).await.unwrap();
        client
            .batch_execute(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"))
            .await
            .unwrap();
        client.batch_execute(
            "SET TimeZone = 'Asia/Kolkata'; SET DateStyle = 'German'; SET IntervalStyle = 'iso_8601'; SET extra_float_digits = -2;
             SET bytea_output = 'escape';
             INSERT INTO t VALUES (1, true, 'ab', '{\"a\": 1.10}', '{\"a\" : 1}', 1.500, '2024-01-15 10:30:00.123456',
               '2024-01-15 10:30:00.5+00', '\\x00ff', '1 day 02:03:04', 0.1, 'w', ROW(NULL, NULL), ARRAY['x', NULL, 'y,z'], '', DEFAULT, NULL,
               'so so', '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03', 'infinity', '0044-03-15 BC', '-infinity', 'infinity',
               'c', 'a name', '[2024-01-15 10:30:00+00,)', '{[1,3),[7,9)}', '0190f0f0-0000-7000-8000-000000000001', B'101', B'1',
               4000000000, 'pg_class', '0/1A2B', '10:30:00.5', '10:30:00+05:30', '((1,1),(0,0.1))', 'a fat cat', '$.a[*] ? (@ > 1)',
               0.1, ARRAY[0.1, 'NaN', '-Infinity'], 12.5, ROW('2024-01-15 10:30:00+00', '\\x00ff', 'a'),
               ARRAY['2024-01-15 10:30:00+00'::timestamptz], ARRAY['so so', NULL]::mood[]);
             INSERT INTO t VALUES (2);
             SET bytea_output = 'hex'",
        ).await.unwrap();
        let decoder = other_session(&client).await;
        let changes = "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', $2)";
        let messages = decoder.query(changes, &[slot, slot]).await.unwrap();
        let streamed: Vec<_> = messages.iter().filter_map(|row| inserted(row.get(0))).collect();
        assert_eq!(streamed.len(), 2);

        let tables = [table(&client, "t").await];
        let read: Vec<_> = backfilled(&client, &tables, &source).await.into_iter().map(|(_, values)| values).collect();
        assert_eq!(read, streamed, "Postgres {}", version.major());
        let names: Vec<_> = tables[0].relation_schema().columns.into_iter().map(|column| column.name).collect();
        assert_eq!(names.len(), read[0].len());
        assert!(!names.contains(&"g".to_owned()) && names.contains(&"Odd \"name".to_owned()));
        slots::drop_slot(&client, slot).await.unwrap();
    }
}

/// The values of an Insert message.
fn inserted(message: &[u8]) -> Option<Vec<Option<String>>> {
    use outboxd::pgoutput::{Column, Message};
    let Ok(Message::Insert(insert)) = outboxd::pgoutput::decode(message) else { return None };
    let value = |column: Column<'_>| match column {
        Column::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
        _ => None,
    };
    Some(insert.row.iter().map(value).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_reads_what_is_unpublished_and_not_filtered_out_in_one_order() {
    let row = "int primary key, created_at timestamp, published_at timestamp, note text";
    let sql = format!("CREATE TABLE a (id {row}); CREATE TABLE b (id {row})");
    let (client, mut source) = given(Version::V15, &sql, &["a", "b"]).await;
    client
        .batch_execute(&format!("CREATE PUBLICATION {} FOR TABLE a WHERE (id < 90), b", source.publication))
        .await
        .unwrap();
    let insert = "INSERT INTO a VALUES (1, '2024-01-01', NULL), (2, '2024-01-03', NULL), (3, '2024-01-01', '2024-01-02'), (99, '2024-01-01', NULL);
                  INSERT INTO b VALUES (4, '2024-01-02', NULL), (5, '2024-01-03', NULL), (7, NULL, NULL)";
    client.batch_execute(insert).await.unwrap();
    client.batch_execute("INSERT INTO a VALUES (6, '2024-01-03', NULL)").await.unwrap();
    let tables = tables::resolve_all(&client, &source).await.unwrap();
    // Creation time first; the same creation time in the order of the transactions that inserted it.
    let expected = ["0:1", "1:4", "0:2", "1:5", "0:6", "1:7"];
    assert_eq!(ids(&backfilled(&client, &tables, &source).await), expected);
    source.backfill_order_by = Some("id".to_owned());
    assert_eq!(ids(&backfilled(&client, &tables, &source).await), ["0:1", "0:2", "1:4", "1:5", "0:6", "1:7"]);
    source.mark = Mark::Delete;
    assert_eq!(ids(&backfilled(&client, &tables, &source).await), ["0:1", "0:2", "0:3", "1:4", "1:5", "0:6", "1:7"]);
    source.backfill_order_by = Some("nothing".to_owned());
    let error = BackfillQuery::new(&tables, &[], &source, &Order::choose(Some("nothing"), false)).unwrap_err();
    assert_eq!(error.to_string(), "column-invalid: table public.a has no column nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_merges_partitions_and_types_of_time_and_other_sessions_rows() {
    let sql = "CREATE TABLE p (id int, created_at timestamptz, published_at timestamptz) PARTITION BY LIST (id);
               CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1, 3); CREATE TABLE p2 PARTITION OF p DEFAULT;
               CREATE TABLE t (id int, created_at timestamp, published_at timestamptz);
               INSERT INTO p VALUES (3, '2024-01-01 00:00+00'), (2, '2024-01-01 00:30+00'), (1, '2024-01-01 03:00+00');
               INSERT INTO t VALUES (9, '2024-01-01 02:00'), (8, '2024-01-01 00:15');";
    let (client, source) = given(Version::V15, sql, &["p", "t"]).await;
    let tables = tables::resolve_all(&client, &source).await.unwrap();
    assert_eq!(ids(&backfilled(&client, &tables, &source).await), ["0:3", "1:8", "0:2", "1:9", "0:1"]);
}

/// The values, as the stream brings them.
#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_leaves_the_rows_of_children_alone() {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, created_at timestamp, published_at timestamp);
               CREATE TABLE c () INHERITS (t); INSERT INTO t VALUES (1); INSERT INTO c VALUES (2);";
    let (client, source) = given(Version::V15, sql, &["t"]).await;
    let tables = tables::resolve_all(&client, &source).await.unwrap();
    assert_eq!(ids(&backfilled(&client, &tables, &source).await), ["0:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_follows_commit_order_where_commit_times_are_tracked() {
    let server = Postgres::builder(Version::V15).setting("track_commit_timestamp", "on").start().await.unwrap();
    let first = server.client("postgres").await.unwrap();
    let second = server.client("postgres").await.unwrap();
    first
        .batch_execute(
            "CREATE TABLE t (id int, created_at timestamp DEFAULT clock_timestamp(), published_at timestamp)",
        )
        .await
        .unwrap();
    first.batch_execute("BEGIN; INSERT INTO t VALUES (1), (2)").await.unwrap();
    second.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
    first.batch_execute("COMMIT").await.unwrap();
    let source = source("s", &server.url("postgres"), &["t"]);
    let tables = tables::resolve_all(&first, &source).await.unwrap();
    first.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    let snapshot: String = first.query_one("SELECT pg_export_snapshot()", &[]).await.unwrap().get(0);
    BackfillCursor::import_snapshot(&second, &snapshot).await.unwrap();
    let mut cursor = BackfillCursor::open(&second, &tables, &source).await.unwrap();
    let rows = cursor.fetch(10).await.unwrap();
    let read: Vec<_> =
        rows.iter().map(|row| String::from_utf8_lossy(row.columns[0].as_ref().unwrap()).into_owned()).collect();
    assert_eq!(read, ["3", "1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_of_the_seeds_table_streams_from_its_index_without_sorting_payloads() {
    let (client, source) = given(Version::V15, SEED, &["order_outbox"]).await;
    let load = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload, created_at, published_at)
                SELECT 'order', gen_random_uuid(), 'E', '{}', timestamp '2024-01-01' + n * interval '1 s', CASE WHEN n % 50 > 0 THEN now() END
                FROM generate_series(1, 20000) n; ANALYZE order_outbox";
    client.batch_execute(load).await.unwrap();
    let tables = tables::resolve_all(&client, &source).await.unwrap();
    let query = BackfillQuery::new(&tables, &[], &source, &Order::Insertion).unwrap();
    let plan = client.query(&format!("EXPLAIN (VERBOSE, COSTS OFF) {}", query.sql()), &[]).await.unwrap();
    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains("idx_order_outbox_unpublished")), "{plan:#?}");
    assert!(plan.iter().any(|line| line.contains("Incremental Sort")), "{plan:#?}");
}
