//! `outboxd check` against real servers: what is healthy passes, and each thing that is wrong is named.

use std::time::Duration;

use outboxd::{
    Config,
    check::{self, Finding, Verdict},
    config::{Backfill, Delivery, Http, Kafka as KafkaConfig, Log, LogFilter, Mark, Source, Template},
};
use testbed::{Kafka, Postgres, Version, unique};
use tokio_postgres::Client;

use crate::sources::source;

const TABLE: &str =
    "CREATE TABLE order_outbox (id uuid PRIMARY KEY, aggregate_type text, aggregate_id text, event_type text,
    payload jsonb, created_at timestamptz, published_at timestamptz)";

/// A source that passes, until a test breaks it.
struct Healthy {
    client: Client,
    config: Config,
}

impl Healthy {
    async fn new() -> Self {
        Self::on(Postgres::shared(Version::V15).await.unwrap(), TABLE).await
    }

    async fn on(server: &Postgres, tables: &str) -> Self {
        let database = server.fresh_database("check").await.unwrap();
        let client = server.client(&database).await.unwrap();
        let source = source(&unique("s"), &server.url(&database), &["order_outbox"]);
        client.batch_execute(tables).await.unwrap();
        let publication = &source.publication;
        let sql = format!(
            "CREATE PUBLICATION {publication} FOR TABLE order_outbox WITH (publish = 'insert', publish_via_partition_root = true)"
        );
        client.batch_execute(&sql).await.unwrap();
        let kafka = KafkaConfig {
            token: None,
            brokers: Kafka::shared().await.unwrap().brokers(),
            delivery: Delivery::ExactlyOnce,
            position_topic: unique("positions"),
            topic_partitions: 0,
            topic_replication: 0,
            transaction_timeout: Duration::from_secs(60),
            delivery_timeout: Duration::from_secs(30),
            options: Vec::new(),
            files: Vec::new(),
        };
        let log = Log { format: None, level: LogFilter::default() };
        let config = Config { sources: vec![source], kafka, http: Http { listen: None }, log, tracing: None };
        Self { client, config }
    }

    fn source(&mut self) -> &mut Source {
        &mut self.config.sources[0]
    }

    /// Every finding that is not ok, as `verdict code about: message`.
    async fn troubles(&self) -> Vec<String> {
        check::check(&self.config).await.list().iter().filter(|f| f.verdict != Verdict::Ok).map(line).collect()
    }
}

fn line(finding: &Finding) -> String {
    let verdict = match finding.verdict {
        Verdict::Ok => "ok",
        Verdict::Warning => "warning",
        Verdict::Failed => "failed",
    };
    format!("{verdict} {} {}: {}", finding.code.unwrap_or("-"), finding.about, finding.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_source_passes_on_every_major() {
    for version in Version::ALL {
        let mut healthy = Healthy::on(Postgres::shared(version).await.unwrap(), TABLE).await;
        healthy.source().auto_setup = true;
        let findings = check::check(&healthy.config).await;
        let all: Vec<_> = findings.list().iter().map(line).collect();
        assert!(!findings.has_failed(), "{all:#?}");
        assert!(findings.list().iter().all(|finding| finding.verdict == Verdict::Ok), "{all:#?}");
        assert!(all.iter().any(|line| line.contains("unpublished rows, by created_at")), "{all:#?}");
        assert!(all.iter().any(|line| line.contains("the brokers allow 900s")), "{all:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_table_is_named() {
    let mut healthy = Healthy::new().await;
    healthy.source().auto_setup = true;
    let steps = [
        ("ALTER TABLE order_outbox ALTER published_at SET DEFAULT now()", "failed column-invalid table public.order_outbox: published_at has a default"),
        ("ALTER TABLE order_outbox ALTER published_at DROP DEFAULT; ALTER TABLE order_outbox ALTER published_at SET NOT NULL", "published_at is NOT NULL"),
        ("ALTER TABLE order_outbox ALTER published_at DROP NOT NULL; ALTER TABLE order_outbox DROP CONSTRAINT order_outbox_pkey", "failed column-invalid table public.order_outbox: id has no unique index"),
        ("CREATE UNIQUE INDEX ON order_outbox (id); REVOKE UPDATE ON order_outbox FROM outboxd", "failed postgres-denied table public.order_outbox: the role lacks UPDATE (published_at)"),
        ("GRANT UPDATE ON order_outbox TO outboxd; ALTER TABLE order_outbox ALTER id DROP NOT NULL", "failed column-invalid table public.order_outbox: id may be NULL"),
        ("CREATE DOMAIN known AS uuid NOT NULL; ALTER TABLE order_outbox ALTER id TYPE known; REVOKE UPDATE ON order_outbox FROM outboxd", "failed postgres-denied"),
        ("GRANT UPDATE ON order_outbox TO outboxd; ALTER TABLE order_outbox ALTER id TYPE uuid, ALTER id SET NOT NULL; ALTER TABLE order_outbox ENABLE ROW LEVEL SECURITY", "row security would hide rows"),
        ("ALTER TABLE order_outbox DISABLE ROW LEVEL SECURITY; CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
          CREATE TRIGGER touch BEFORE UPDATE ON order_outbox FOR EACH ROW EXECUTE FUNCTION f()", "warning - table public.order_outbox: triggers fire for every mark: touch (UPDATE)"),
        ("DROP TRIGGER touch ON order_outbox; ALTER TABLE order_outbox RENAME payload TO body", "failed column-invalid table public.order_outbox:"),
        ("ALTER TABLE order_outbox RENAME body TO payload; CREATE TABLE child () INHERITS (order_outbox)",
         "failed table-inherited table public.order_outbox: table order_outbox has children by INHERITS, whose rows are never sent: child"),
        ("DROP TABLE child; ALTER TABLE order_outbox RENAME TO elsewhere", "failed table-missing table order_outbox: there is no table order_outbox"),
    ];
    for (change, expected) in steps {
        healthy.client.batch_execute(change).await.unwrap();
        let troubles = healthy.troubles().await;
        assert!(troubles.iter().any(|line| line.contains(expected)), "{change}: {troubles:#?}");
        assert_eq!(troubles.len(), 1, "{change}: {troubles:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_partitioned_table_is_named() {
    let table =
        "CREATE TABLE order_outbox (id uuid, aggregate_type text, aggregate_id text, event_type text, payload jsonb,
        created_at timestamptz, published_at timestamptz) PARTITION BY RANGE (created_at, published_at)";
    let mut healthy = Healthy::on(Postgres::shared(Version::V15).await.unwrap(), table).await;
    healthy.source().auto_setup = true;
    healthy.client.batch_execute("CREATE UNIQUE INDEX ON order_outbox (created_at, published_at, id)").await.unwrap();
    let publication = healthy.source().publication.clone();
    healthy
        .client
        .batch_execute(&format!("ALTER PUBLICATION {publication} SET (publish_via_partition_root = false)"))
        .await
        .unwrap();
    let troubles = healthy.troubles().await.join("\n");
    for part in [
        "failed column-invalid table public.order_outbox: published_at is part of the partition key",
        "warning - table public.order_outbox: the partition key has created_at",
        "warning - table public.order_outbox: id is unique only together with the partition key",
        "warning - table public.order_outbox: no index begins with id",
        "rows of public.order_outbox would arrive under the names of its partitions",
    ] {
        assert!(troubles.contains(part), "{part} is not in\n{troubles}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_publication_or_the_slot_is_named() {
    let mut healthy = Healthy::new().await;
    let (publication, slot) = (healthy.source().publication.clone(), healthy.source().slot.clone());
    let steps = [
        ("SELECT 1".to_owned(), "failed setup-missing slot"),
        (format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput'); ALTER PUBLICATION {publication} SET (publish = 'insert, update')"),
         "every mark travels back"),
        (format!("ALTER PUBLICATION {publication} SET (publish = 'update')"), "failed publication-missing publication"),
        (format!("ALTER PUBLICATION {publication} SET (publish = 'insert'); ALTER PUBLICATION {publication} SET TABLE order_outbox WHERE (event_type <> 'x')"),
         "rows of public.order_outbox are published only where"),
        (format!("ALTER PUBLICATION {publication} SET TABLE order_outbox (id, payload)"), "failed column-invalid publication"),
        (format!("CREATE TABLE other (id int); ALTER PUBLICATION {publication} SET TABLE order_outbox, other"), "it has other tables too: public.other"),
        (format!("ALTER PUBLICATION {publication} SET TABLE other"), "it does not have table public.order_outbox"),
        (format!("DROP PUBLICATION {publication}; CREATE PUBLICATION {publication} FOR ALL TABLES WITH (publish = 'insert')"), "it is FOR ALL TABLES"),
        (format!("DROP PUBLICATION {publication}"), "failed publication-missing publication"),
        (format!("CREATE PUBLICATION {publication} FOR TABLE order_outbox WITH (publish = 'insert'); SELECT pg_drop_replication_slot('{slot}');
                  SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')"), "it is another's: plugin test_decoding"),
    ];
    for (change, expected) in steps {
        let done = healthy.client.batch_execute(&change).await;
        if change.contains("test_decoding") && done.is_err() {
            continue; // Not every installation has the contrib modules.
        }
        done.unwrap();
        let troubles = healthy.troubles().await;
        assert!(troubles.iter().any(|line| line.contains(expected)), "{change}: {troubles:#?}");
    }
    healthy.client.batch_execute(&format!("SELECT pg_drop_replication_slot('{slot}')")).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_server_role_or_cluster_is_named() {
    let server = Postgres::builder(Version::V15)
        .setting("wal_level", "replica")
        .setting("max_replication_slots", "0")
        .start()
        .await
        .unwrap();
    let mut healthy = Healthy::on(&server, TABLE).await;
    healthy.client.batch_execute("CREATE ROLE plain LOGIN; GRANT ALL ON order_outbox TO plain").await.unwrap();
    let database: String = healthy.client.query_one("SELECT current_database()::text", &[]).await.unwrap().get(0);
    healthy.source().url = server.role_url("plain", &database).parse().unwrap();
    healthy.source().failover = true;
    healthy.source().auto_setup = true;
    healthy.config.kafka.transaction_timeout = Duration::from_secs(3600);
    healthy.source().mapping.topic = Template::parse(&unique("missing")).unwrap();
    let troubles = healthy.troubles().await.join("\n");
    for part in [
        "failed wal-level wal_level: wal_level is replica",
        "failed postgres-exhausted slots: 0 of 0 in use",
        "failed postgres-denied role: role plain lacks REPLICATION",
        "failed config-invalid failover: failover slots need Postgres 17",
        "failed config-invalid transaction timeout: 3600s is more than the brokers allow (900s)",
        " replication: ",
        "failed topic-missing topic missing",
    ] {
        assert!(troubles.contains(part), "{part} is not in\n{troubles}");
    }
    healthy.source().url = server.role_url("nobody", "postgres").parse().unwrap();
    let troubles = healthy.troubles().await;
    assert!(troubles[0].starts_with("failed postgres-auth-failed connection: "), "{troubles:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_marks_nothing_but_streaming_is_asked_for() {
    let mut healthy = Healthy::new().await;
    let source = healthy.source();
    (source.mark, source.backfill, source.auto_setup) = (Mark::None, Backfill::None, true);
    healthy
        .client
        .batch_execute("REVOKE ALL ON order_outbox FROM outboxd; ALTER TABLE order_outbox DROP COLUMN published_at")
        .await
        .unwrap();
    assert_eq!(healthy.troubles().await, Vec::<String>::new());
    let nullable =
        "ALTER TABLE order_outbox DROP CONSTRAINT order_outbox_pkey; CREATE UNIQUE INDEX ON order_outbox (id);
                    ALTER TABLE order_outbox ALTER id DROP NOT NULL";
    healthy.client.batch_execute(nullable).await.unwrap();
    let troubles = healthy.troubles().await;
    assert!(
        troubles.len() == 1 && troubles[0].starts_with("warning - ") && troubles[0].contains("id may be NULL"),
        "{troubles:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_would_end_the_stream_before_it_hears_from_us_is_named() {
    let mut healthy = Healthy::new().await;
    healthy.source().auto_setup = true;
    let database: String = healthy.client.query_one("SELECT current_database()::text", &[]).await.unwrap().get(0);
    for (setting, expected) in [
        ("5s", "warning - wal_sender_timeout: it is 5s, and the daemon reports every 5s"),
        ("0", "warning - wal_sender_timeout: it is 0"),
    ] {
        let set = format!("ALTER ROLE outboxd IN DATABASE {database} SET wal_sender_timeout = '{setting}'");
        healthy.client.batch_execute(&set).await.unwrap();
        let troubles = healthy.troubles().await;
        assert!(troubles.len() == 1 && troubles[0].starts_with(expected), "{troubles:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_slot_needs_postgres_17_and_standbys_to_wait_for() {
    for (version, expected) in [
        (Version::V15, "failed config-invalid failover: failover slots need Postgres 17"),
        (Version::V16, "failed config-invalid failover: failover slots need Postgres 17"),
        (Version::V17, "warning - failover: synchronized_standby_slots is empty"),
    ] {
        let mut healthy = Healthy::on(Postgres::shared(version).await.unwrap(), TABLE).await;
        healthy.source().auto_setup = true;
        healthy.source().failover = true;
        let troubles = healthy.troubles().await;
        assert!(troubles.len() == 1 && troubles[0].starts_with(expected), "{troubles:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_could_take_the_daemon_for_a_synchronous_standby_is_named() {
    let postgres = Postgres::builder(Version::V15)
        .setting("synchronous_standby_names", "ANY 1 (\"*\")")
        .setting("synchronous_commit", "local") // nobody is there to wait for
        .start()
        .await
        .unwrap();
    let mut healthy = Healthy::on(&postgres, TABLE).await;
    healthy.source().auto_setup = true;
    let troubles = healthy.troubles().await;
    assert!(troubles.iter().any(|line| line.starts_with("warning - synchronous_standby_names: ")), "{troubles:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_is_made_on_trial_and_taken_back() {
    let mut healthy = Healthy::new().await;
    // The row cannot become a record, and need not.
    healthy.source().backfill = Backfill::None;
    let insert = "INSERT INTO order_outbox (id, published_at) VALUES (gen_random_uuid(), NULL)";
    healthy.client.batch_execute(insert).await.unwrap();
    let findings = check::check(&healthy.config).await;
    assert!(findings.list().iter().any(|found| found.message == "a mark was made on trial, and taken back"));
    let unmarked = "SELECT count(*) FROM order_outbox WHERE published_at IS NULL";
    assert_eq!(healthy.client.query_one(unmarked, &[]).await.unwrap().get::<_, i64>(0), 1);

    healthy.source().auto_setup = true;
    // A session may set off what its role or its database defaults to.
    let database: String = healthy.client.query_one("SELECT current_database()", &[]).await.unwrap().get(0);
    let read_only = |on: &str| format!("ALTER DATABASE {database} SET default_transaction_read_only = {on}");
    healthy.client.batch_execute(&read_only("on")).await.unwrap();
    assert_eq!(healthy.troubles().await, Vec::<String>::new());
    healthy.client.batch_execute(&read_only("off")).await.unwrap();

    for (trouble, heal, says) in [
        (
            "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
             CREATE TRIGGER swallow BEFORE UPDATE OR DELETE ON order_outbox FOR EACH ROW EXECUTE FUNCTION nothing()",
            "DROP TRIGGER swallow ON order_outbox",
            "has no mark after the statement that makes it",
        ),
        (
            "CREATE PUBLICATION everything FOR ALL TABLES; ALTER TABLE order_outbox REPLICA IDENTITY NOTHING",
            "DROP PUBLICATION everything; ALTER TABLE order_outbox REPLICA IDENTITY DEFAULT",
            "replica identity",
        ),
        (
            "CREATE RULE swallow AS ON UPDATE TO order_outbox DO INSTEAD NOTHING; \
             CREATE RULE swallow_too AS ON DELETE TO order_outbox DO INSTEAD NOTHING",
            "DROP RULE swallow ON order_outbox; DROP RULE swallow_too ON order_outbox",
            "order_outbox",
        ),
    ] {
        healthy.client.batch_execute(trouble).await.unwrap();
        for mark in [Mark::Update, Mark::Delete] {
            healthy.source().mark = mark;
            let troubles = healthy.troubles().await;
            let is_said = |line: &String| line.starts_with("failed mark-failed table") && line.contains(says);
            assert!(troubles.iter().any(is_said), "{mark:?}: {troubles:#?}");
        }
        healthy.client.batch_execute(heal).await.unwrap();
    }
}

/// The index makes the id unique, but not by the collation that the column compares with.
#[tokio::test(flavor = "multi_thread")]
async fn marks_that_would_read_the_whole_table_are_told() {
    let table = TABLE.replace("id uuid PRIMARY KEY", "id text NOT NULL");
    let healthy = Healthy::on(Postgres::shared(Version::V15).await.unwrap(), &table).await;
    healthy.client.batch_execute("CREATE UNIQUE INDEX ON order_outbox (id COLLATE \"POSIX\")").await.unwrap();
    let troubles = healthy.troubles().await;
    let is_said = |line: &String| line.starts_with("warning") && line.contains("reads the whole table");
    assert!(troubles.iter().any(is_said), "{troubles:#?}");
}

/// Ids of types that one would not think of: either they are marked, or `check` says that they cannot be.
#[tokio::test(flavor = "multi_thread")]
async fn ids_of_any_type_are_marked_on_trial_or_told() {
    let cases = [
        ("an enum", "CREATE TYPE kind AS ENUM ('a', 'b')", "kind", "'a'", None),
        ("a domain", "CREATE DOMAIN key AS uuid", "key", "gen_random_uuid()", None),
        ("an array", "SELECT 1", "int[]", "'{1,2}'", None),
        ("a range", "SELECT 1", "int4range", "'[1,2)'", None),
        ("bytes", "SELECT 1", "bytea", "'\\x00ff'", Some("must be a scalar")),
        ("padded text", "SELECT 1", "char(8)", "'a'", None),
        (
            "a type off the search path",
            "CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext; GRANT USAGE ON SCHEMA ext TO PUBLIC",
            "ext.citext",
            "'a'",
            None,
        ),
        (
            "a type out of reach",
            "CREATE SCHEMA shut; CREATE EXTENSION citext SCHEMA shut",
            "shut.citext",
            "'a'",
            Some("shut"),
        ),
        (
            "a type named in capitals",
            "CREATE SCHEMA \"Shop\"; GRANT USAGE ON SCHEMA \"Shop\" TO PUBLIC; CREATE DOMAIN \"Shop\".\"Id\" AS text",
            "\"Shop\".\"Id\"",
            "'a'",
            None,
        ),
    ];
    for (what, prepare, kind, id, says) in cases {
        let table = format!("{prepare}; {}", TABLE.replace("id uuid PRIMARY KEY", &format!("id {kind} PRIMARY KEY")));
        let healthy = Healthy::on(Postgres::shared(Version::V15).await.unwrap(), &table).await;
        let insert = format!("INSERT INTO order_outbox (id, published_at) VALUES ({id}, NULL)");
        healthy.client.batch_execute(&insert).await.unwrap();
        let findings = check::check(&healthy.config).await;
        let all: Vec<_> = findings.list().iter().map(line).collect();
        println!("{what}: {all:#?}");
        match says {
            None => assert!(all.iter().any(|line| line.contains("a mark was made on trial")), "{what}: {all:#?}"),
            Some(says) => {
                let is_said = |line: &String| line.starts_with("failed") && line.contains(says);
                assert!(all.iter().any(is_said), "{what}: {all:#?}");
            }
        }
    }
}
