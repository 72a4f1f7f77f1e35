//! The catalog's questions against real servers, and the statements that mark rows.

use outboxd::{
    Code, Lsn,
    config::{Mark, Source},
    postgres::catalog::{
        IdUniqueness, TableInfo, TableKind,
        mark_cost::mark_cost,
        marks::{Id, MarkStatement},
        monitor::Monitor,
        publications, server, slots, tables,
    },
    setup::migrations,
    source::{compare::require_same_publication, publication::fingerprint},
};
use testbed::{Postgres, Version, unique};
use tokio_postgres::Client;

use crate::sources::{source, table_name};

pub(crate) const SEED: &str = "CREATE TABLE order_outbox (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(), aggregate_type VARCHAR(100) NOT NULL, aggregate_id UUID NOT NULL,
    event_type VARCHAR(100) NOT NULL, payload JSONB NOT NULL, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    published_at TIMESTAMP NULL);
CREATE INDEX idx_order_outbox_unpublished ON order_outbox(created_at) WHERE published_at IS NULL;";

/// A database of its own with `sql` run in it, a superuser's session, and the source over `tables`.
pub(crate) async fn given(version: Version, sql: &str, tables: &[&str]) -> (Client, Source) {
    let server = Postgres::shared(version).await.unwrap();
    let database = server.fresh_database("catalog").await.unwrap();
    let client = server.client(&database).await.unwrap();
    client.batch_execute(sql).await.unwrap();
    (client, source(&unique("s"), &server.url(&database), tables))
}

pub(crate) async fn table(client: &Client, name: &str) -> TableInfo {
    tables::resolve(client, &table_name(name)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_major_answers_the_same_questions() {
    for version in Version::ALL {
        let (client, source) = given(version, SEED, &["order_outbox"]).await;
        let server = server::server(&client).await.unwrap();
        assert_eq!(server.major(), version.major());
        assert_eq!((server.wal_level.as_str(), server.in_recovery), ("logical", false));
        assert!(server.role.superuser && server.max_replication_slots > 0);
        assert_eq!(server.started, server::postmaster_start_time(&client).await.unwrap());
        assert!(server::flushed_lsn(&client).await.unwrap() <= server::current_lsn(&client).await.unwrap());

        let table = table(&client, "order_outbox").await;
        assert_eq!(publications::publication(&client, &source.publication).await.unwrap(), None);
        let missing = fingerprint(&client, &source.publication, std::slice::from_ref(&table)).await.unwrap();
        assert!(missing.is_null(), "{missing}");
        let words = [("publication", source.publication.as_str()), ("tables", &table.sql_name())];
        client.batch_execute(&migrations::statement("create-publication", &words).unwrap()).await.unwrap();
        let publication = publications::publication(&client, &source.publication).await.unwrap().unwrap();
        assert_eq!((publication.operations().as_str(), publication.via_root), ("insert", true));
        assert_eq!(publication.tables[0].table_oid, table.oid);
        assert_eq!((&publication.tables[0].row_filter, &publication.tables[0].columns), (&None, &None));

        assert_eq!(slots::slot(&client, &source.slot).await.unwrap(), None);
        let create = format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", source.slot);
        client.batch_execute(&create).await.unwrap();
        let slot = slots::slot(&client, &source.slot).await.unwrap().unwrap();
        assert_eq!((slot.plugin.as_deref(), slot.wal_status.as_deref()), (Some("pgoutput"), Some("reserved")));
        assert!(!slot.active && !slot.failover && slot.lost().is_none() && slot.confirmed_flush > Lsn::ZERO);

        let monitor = Monitor::new(&source.slot, &[table], &source.mapping.columns, Mark::Update);
        let reading = monitor.read(&client).await.unwrap();
        assert_eq!(reading.slot.unwrap().wal_status.as_deref(), Some("reserved"));
        assert_eq!(reading.backlog.map(|backlog| (backlog.rows, backlog.oldest)), Some((0, None)));
        slots::drop_slot(&client, &source.slot).await.unwrap();
        slots::drop_slot(&client, &source.slot).await.unwrap();
        assert_eq!(monitor.read(&client).await.unwrap().slot, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seeds_table_is_read_as_it_is() {
    let (client, _) = given(Version::V15, SEED, &[]).await;
    let table = table(&client, "order_outbox").await;
    assert_eq!((table.kind, table.schema.as_str(), table.logged), (TableKind::Ordinary, "public", true));
    assert_eq!(table.id_uniqueness("id"), IdUniqueness::Unique("order_outbox_pkey".to_owned()));
    assert_eq!(table.id_uniqueness("aggregate_id"), IdUniqueness::None);
    // The column is only in the index's WHERE, and that is enough to keep an UPDATE from being heap-only.
    assert_eq!(table.indexes_over("published_at").collect::<Vec<_>>(), ["idx_order_outbox_unpublished"]);
    let aggregate_type = table.column("aggregate_type").unwrap();
    assert_eq!(aggregate_type.type_name, "character varying(100)");
    assert_eq!(aggregate_type.cast_name, "character varying");
    assert!(aggregate_type.not_null && !aggregate_type.has_default);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_looked_up_as_regclass_does() {
    let sql = r#"CREATE SCHEMA "Ord""er"; CREATE TABLE "Ord""er"."Out box" (id int); CREATE VIEW v AS SELECT 1;"#;
    let (client, _) = given(Version::V15, sql, &[]).await;
    let found = table(&client, "Ord\"er.Out box").await;
    assert_eq!(found.sql_name(), r#""Ord""er"."Out box""#);
    for name in ["out box", "Out box", "nowhere.t"] {
        assert_eq!(tables::find_table(&client, &table_name(name)).await.unwrap(), None, "{name}");
    }
    assert_eq!(
        tables::resolve(&client, &table_name("v")).await.unwrap_err().to_string(),
        "table-missing: v is a view, not a table"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_key_is_known_at_every_level_and_in_expressions() {
    let sql =
        "CREATE TABLE p (id int, created_at timestamp, published_at timestamp, k text, unique (id, created_at, k))
                 PARTITION BY RANGE (created_at);
               CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2020-01-01') TO ('2030-01-01') PARTITION BY LIST (k);
               CREATE TABLE p1a PARTITION OF p1 DEFAULT;
               CREATE TABLE e (id int, published_at timestamp) PARTITION BY LIST ((published_at IS NULL));";
    let (client, _) = given(Version::V15, sql, &[]).await;
    let p = table(&client, "p").await;
    let key: Vec<_> = p.columns.iter().filter(|c| c.part_of_partition_key).map(|c| c.name.as_str()).collect();
    assert_eq!(key, ["created_at", "k"]);
    assert_eq!(p.kind, TableKind::Partitioned);
    assert!(matches!(p.id_uniqueness("id"), IdUniqueness::WithPartitionKey(_)));
    let e = table(&client, "e").await;
    assert!(e.partition_expression && e.column("published_at").unwrap().part_of_partition_key);
    assert!(!e.column("id").unwrap().part_of_partition_key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_index_counts_only_when_it_holds_for_every_row() {
    let sql = "CREATE TABLE t (id int, other int, tags int, d1 domain_2);
               CREATE UNIQUE INDEX partial ON t (id) WHERE other > 0;
               CREATE UNIQUE INDEX wide ON t (id, other);
               CREATE UNIQUE INDEX expression ON t ((id + 1));
               ALTER TABLE t ADD CONSTRAINT late UNIQUE (id) DEFERRABLE;";
    let sql = format!("CREATE DOMAIN domain_1 AS jsonb; CREATE DOMAIN domain_2 AS domain_1; {sql}");
    let (client, _) = given(Version::V15, &sql, &[]).await;
    let found = table(&client, "t").await;
    assert_eq!(found.id_uniqueness("id"), IdUniqueness::None);
    assert_eq!(found.column("d1").unwrap().base_type_oid, tokio_postgres::types::Type::JSONB.oid());
    client.batch_execute("CREATE UNIQUE INDEX right ON t (id) INCLUDE (tags)").await.unwrap_err();
    client.batch_execute("CREATE UNIQUE INDEX good ON t (id) INCLUDE (tags)").await.unwrap();
    let found = table(&client, "t").await;
    assert_eq!(found.id_uniqueness("id"), IdUniqueness::Unique("good".to_owned()));
    assert!(found.indexes_over("tags").eq(["good"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_may_do_is_told_and_row_security_is_seen() {
    let role = unique("reader");
    let sql = format!(
        "CREATE ROLE {role}; CREATE SCHEMA s; CREATE TABLE s.t (id int, published_at timestamp);
         GRANT USAGE ON SCHEMA s TO {role}; GRANT SELECT ON s.t TO {role};
         REVOKE ALL ON s.t FROM outboxd;"
    );
    let (client, _) = given(Version::V15, &sql, &[]).await;
    let t = table(&client, "s.t").await;
    let may = tables::privileges(&client, &role, &t, Some("published_at")).await.unwrap();
    assert_eq!(
        (may.usage, may.select, may.update_mark, may.delete, may.row_security),
        (true, true, false, false, false)
    );
    let grant = format!("GRANT UPDATE (published_at) ON s.t TO {role}; ALTER TABLE s.t ENABLE ROW LEVEL SECURITY");
    client.batch_execute(&grant).await.unwrap();
    let may = tables::privileges(&client, &role, &t, Some("published_at")).await.unwrap();
    assert_eq!((may.update_mark, may.row_security), (true, true));
    let may = tables::privileges(&client, "postgres", &t, Some("nothing")).await.unwrap();
    assert_eq!((may.update_mark, may.delete, may.row_security), (false, true, false));
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_changed_has_another_fingerprint() {
    for version in Version::ALL {
        let sql = "CREATE TABLE a (id int primary key, x int); CREATE TABLE b (id int); CREATE SCHEMA s; CREATE TABLE s.c (id int);
                   CREATE PUBLICATION p FOR TABLE a, b WITH (publish = 'insert')";
        let (client, _) = given(version, sql, &[]).await;
        let ours = [table(&client, "b").await, table(&client, "a").await, table(&client, "s.c").await];
        let now = async || fingerprint(&client, "p", &ours).await.unwrap();
        let was = now().await;
        let reversed: Vec<_> = ours.iter().rev().cloned().collect();
        assert_eq!(was, fingerprint(&client, "p", &reversed).await.unwrap());
        let steps = [
            ("ALTER PUBLICATION p SET TABLE a, b", ""),
            ("ALTER PUBLICATION p DROP TABLE b", "table public.b was dropped from the publication"),
            ("ALTER PUBLICATION p ADD TABLE b", "table public.b was dropped from the publication and added again"),
            (
                "ALTER PUBLICATION p SET TABLE a WHERE (id > 5), b",
                "row filter of table public.a was none and is now (id > 5)",
            ),
            (
                "ALTER PUBLICATION p SET TABLE a (id), b",
                "column list of table public.a was all columns and is now columns 1",
            ),
            (
                "ALTER PUBLICATION p SET (publish = 'insert, update')",
                "it published 'insert' and now publishes 'insert, update'",
            ),
            ("ALTER PUBLICATION p SET TABLE a, b, TABLES IN SCHEMA s", "table s.c was added to the publication"),
            ("DROP PUBLICATION p; CREATE PUBLICATION p FOR ALL TABLES", "the publication was dropped and made again"),
        ];
        for (change, words) in steps {
            client.batch_execute(change).await.unwrap();
            let now = now().await;
            let differences =
                require_same_publication(&was, &now).err().map_or_else(String::new, |error| error.detail());
            assert!(
                differences.contains(words) && (differences.is_empty() == words.is_empty()),
                "{change}: {differences}"
            );
            assert_eq!(differences.is_empty(), was == now, "{change}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_sets_or_deletes_and_a_row_that_is_gone_counts() {
    for (ty, value) in [
        ("uuid", "6f9619ff-8b86-d011-b42d-00c04fc964ff"),
        ("int", "7"),
        ("bigint", "7"),
        ("uid", "6f9619ff-8b86-d011-b42d-00c04fc964ff"),
        ("text", "a\"b,{"),
        ("varchar(5)", "ab"),
        ("char(4)", "ab"),
        ("numeric", "7.0"),
        ("mood", "sad"),
    ] {
        for mark in ["timestamp", "timestamptz", "date"] {
            let sql = format!(
                "CREATE TYPE mood AS ENUM ('sad'); CREATE DOMAIN uid AS uuid; CREATE TABLE t (id {ty} PRIMARY KEY, published_at {mark});"
            );
            let (client, mut source) = given(Version::V15, &sql, &["t"]).await;
            client
                .batch_execute(&format!("INSERT INTO t VALUES ('{value}'); SET TimeZone = 'Pacific/Auckland'"))
                .await
                .unwrap();
            let tables = tables::resolve_all(&client, &source).await.unwrap();
            let count = async |sql: &str| client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
            let gone = if ty == "mood" { value } else { "11111111-1111-1111-1111-111111111111" };
            let ids = if matches!(ty, "uuid" | "uid") { vec![Id(value), Id(gone)] } else { vec![Id(value)] };
            let statements = MarkStatement::prepare_all(&client, &tables, &source).await.unwrap();
            assert_eq!(statements[0].execute(&client, &ids).await.unwrap().rows, 1, "{ty} {mark}");
            assert_eq!(statements[0].execute(&client, &ids).await.unwrap().rows, 0, "{ty} {mark}");
            let near = "SELECT count(*) FROM t WHERE published_at BETWEEN (now() AT TIME ZONE 'UTC')::timestamp - interval '1 day' AND (now() AT TIME ZONE 'UTC') + interval '1 s'";
            assert_eq!(count(near).await, 1, "{ty} {mark}");
            source.mark = Mark::Delete;
            let statements = MarkStatement::prepare_all(&client, &tables, &source).await.unwrap();
            assert_eq!(statements[0].execute(&client, &ids).await.unwrap().rows, 1, "{ty} {mark}");
            assert_eq!(count("SELECT count(*) FROM t").await, 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_leaves_the_rows_of_children_alone() {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, published_at timestamp); CREATE TABLE c () INHERITS (t);
               INSERT INTO t VALUES (1); INSERT INTO c VALUES (1);";
    let (client, mut source) = given(Version::V15, sql, &["t"]).await;
    let tables = tables::resolve_all(&client, &source).await.unwrap();
    for mark in [Mark::Update, Mark::Delete] {
        source.mark = mark;
        let statements = MarkStatement::prepare_all(&client, &tables, &source).await.unwrap();
        assert_eq!(statements[0].execute(&client, &[Id("1")]).await.unwrap().rows, 1, "{mark:?}");
    }
    let unmarked = "SELECT count(*) FROM c WHERE published_at IS NULL";
    assert_eq!(client.query_one(unmarked, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_column_that_is_no_point_in_time_is_refused() {
    let (client, source) = given(Version::V15, "CREATE TABLE t (id int, published_at bool)", &["t"]).await;
    let tables = tables::resolve_all(&client, &source).await.unwrap();
    let error = MarkStatement::prepare_all(&client, &tables, &source).await.err().unwrap();
    assert_eq!(error.code(), Code::ColumnInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn marking_goes_by_the_index_even_when_prepared_on_an_empty_table() {
    let (client, source) = given(Version::V15, SEED, &["order_outbox"]).await;
    let tables = tables::resolve_all(&client, &source).await.unwrap();
    let statements = MarkStatement::prepare_all(&client, &tables, &source).await.unwrap();
    assert_eq!(statements[0].execute(&client, &[]).await.unwrap().rows, 0);
    let sql = outboxd::postgres::catalog::marks::mark_sql(&tables[0], &source.mapping.columns, Mark::Update)
        .unwrap()
        .unwrap();
    client.batch_execute(&format!("PREPARE m AS {}", sql.mark)).await.unwrap();
    let plan =
        client.query("EXPLAIN EXECUTE m(ARRAY['6f9619ff-8b86-d011-b42d-00c04fc964ff']::uuid[])", &[]).await.unwrap();
    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains("order_outbox_pkey")), "{plan:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_monitor_tells_how_many_rows_wait_and_for_how_long() {
    let (client, source) = given(Version::V15, SEED, &["order_outbox"]).await;
    client.batch_execute(
        "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload, created_at, published_at)
         SELECT 'order', gen_random_uuid(), 'E', '{}', (now() AT TIME ZONE 'UTC') - interval '1 hour', CASE WHEN n > 3 THEN now() END
         FROM generate_series(1, 5) n",
    ).await.unwrap();
    let tables = tables::resolve_all(&client, &source).await.unwrap();
    let read =
        async |mark| Monitor::new(&source.slot, &tables, &source.mapping.columns, mark).read(&client).await.unwrap();
    let backlog = read(Mark::Update).await.backlog.unwrap();
    assert_eq!(backlog.rows, 3);
    assert!((3600..3700).contains(&backlog.oldest.unwrap().as_secs()), "{backlog:?}");
    assert_eq!(read(Mark::Delete).await.backlog.unwrap().rows, 5);
    assert_eq!(read(Mark::None).await.backlog, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_marks_cost_on_a_partitioned_table_is_read_from_its_partitions() {
    let sql = "CREATE TABLE p (id int, published_at timestamp) PARTITION BY LIST (id);
               CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1) WITH (fillfactor = 40);
               CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2) WITH (fillfactor = 50);
               INSERT INTO p VALUES (1), (2); UPDATE p SET published_at = now();";
    let (client, _) = given(Version::V15, sql, &[]).await;
    client.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    let cost = mark_cost(&client, &table(&client, "p").await, "published_at").await.unwrap();
    assert_eq!((cost.fillfactor, cost.updates, cost.hot), (50, 2, 2));
    assert!(cost.is_least());
    client.batch_execute("CREATE INDEX waiting ON p (id) WHERE published_at IS NULL").await.unwrap();
    let cost = mark_cost(&client, &table(&client, "p").await, "published_at").await.unwrap();
    assert_eq!((cost.covering, cost.entries), (vec!["waiting".to_owned()], 0));
}
