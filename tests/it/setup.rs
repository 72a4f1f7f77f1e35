//! `outboxd setup` and what `run` makes by itself, on real servers.

use std::process::{Command, Output};

use outboxd::{
    Code,
    config::{Backfill, Source},
    postgres::{ConnectOptions, SqlSession, catalog::tables},
    setup::{self, KafkaFacts, Plan, Step, facts},
    source::{
        position::{Phase, Position},
        server::require_server,
    },
};
use testbed::{Kafka, Postgres, Version, unique};

use crate::sources::source;

/// A database without anything in it, and a role that does not exist yet.
struct Empty {
    server: &'static Postgres,
    database: String,
    role: String,
}

impl Empty {
    async fn new() -> Self {
        let server = Postgres::shared(Version::V15).await.unwrap();
        Self { server, database: server.fresh_database("setup").await.unwrap(), role: unique("daemon") }
    }

    fn source(&self, tables: &[&str]) -> Source {
        source(&unique("s"), &self.server.role_url(&self.role, &self.database), tables)
    }

    async fn session(&self, role: &str) -> SqlSession {
        let url = self.server.role_url(role, &self.database);
        ConnectOptions::to(&url.parse().unwrap()).sql("test").await.unwrap()
    }

    /// The role as `CREATE ROLE … LOGIN REPLICATION`, no more.
    async fn with_role(self) -> Self {
        let admin = self.session("postgres").await;
        admin.batch_execute(&format!("CREATE ROLE {} LOGIN REPLICATION", self.role)).await.unwrap();
        self
    }
}

fn outboxd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_outboxd")).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_database_is_set_up_by_an_administrator_and_a_second_time_changes_nothing() {
    let empty = Empty::new().await;
    let kafka = Kafka::shared().await.unwrap();
    let (brokers, positions, topic) = (kafka.brokers(), unique("positions"), unique("orders"));
    let (url, admin) =
        (empty.server.role_url(&empty.role, &empty.database), empty.server.superuser_url(&empty.database));
    let flags = [
        "--source-url",
        &url,
        "--table",
        "\"Shop\".order_outbox",
        "--brokers",
        &brokers,
        "--position-topic",
        &positions,
        "--topic",
        &topic,
    ];
    let setup = |more: &[&str]| outboxd(&[&["setup"], &flags[..], more].concat());

    let shown = setup(&["--admin-url", &admin, "--dry-run"]);
    assert!(shown.status.success(), "{}", text(&shown));
    for part in [
        "CREATE ROLE",
        "CREATE SCHEMA",
        "CREATE TABLE",
        "GRANT UPDATE (\"published_at\")",
        "CREATE PUBLICATION",
        &positions,
        &topic,
    ] {
        assert!(text(&shown).contains(part), "{part} is not in {}", text(&shown));
    }
    let client = empty.session("postgres").await;
    let roles = client.query("SELECT FROM pg_roles WHERE rolname = $1", &[&empty.role]).await.unwrap();
    assert!(roles.is_empty(), "a dry run made something");

    let made = setup(&["--admin-url", &admin]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made));
    assert!(text(&made).contains("created  publication"), "{}", text(&made));
    let again = setup(&["--admin-url", &admin]);
    assert_eq!(again.status.code(), Some(0), "{}", text(&again));
    assert!(!text(&again).contains("created"), "{}", text(&again));
    // And the daemon's own role finds nothing left to do either.
    let own = setup(&[]);
    assert_eq!(own.status.code(), Some(0), "{}", text(&own));
    assert!(!text(&own).contains("created") && !text(&own).contains("left"), "{}", text(&own));

    client.batch_execute("INSERT INTO \"Shop\".order_outbox (aggregate_type, aggregate_id, event_type, payload) VALUES ('a', 'b', 'c', '{}')").await.unwrap();
    let daemon = empty.session(&empty.role).await;
    assert_eq!(daemon.execute("UPDATE \"Shop\".order_outbox SET published_at = now()", &[]).await.unwrap(), 1);
    assert!(daemon.execute("UPDATE \"Shop\".order_outbox SET payload = '[]'", &[]).await.is_err());
    assert!(daemon.execute("DELETE FROM \"Shop\".order_outbox", &[]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_role_may_not_do_is_left_with_its_sql() {
    let empty = Empty::new().await.with_role().await;
    let admin = empty.session("postgres").await;
    admin.batch_execute("CREATE TABLE order_outbox (id int PRIMARY KEY, published_at timestamp)").await.unwrap();
    let kafka = Kafka::shared().await.unwrap();
    let (brokers, positions) = (kafka.brokers(), unique("positions"));
    let url = empty.server.role_url(&empty.role, &empty.database);
    let left = outboxd(&[
        "setup",
        "--source-url",
        &url,
        "--table",
        "order_outbox",
        "--brokers",
        &brokers,
        "--position-topic",
        &positions,
    ]);
    assert_eq!(left.status.code(), Some(1), "{}", text(&left));
    for part in [
        "left     rights of role",
        "GRANT SELECT ON \"public\".\"order_outbox\"",
        "left     publication",
        "CREATE PUBLICATION",
        "created  topic",
    ] {
        assert!(text(&left).contains(part), "{part} is not in {}", text(&left));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn run_makes_what_it_may_and_names_the_sql_of_what_it_may_not() {
    let empty = Empty::new().await.with_role().await;
    let mut source = empty.source(&["order_outbox"]);
    let daemon = empty.session(&empty.role).await;
    let error = setup::ensure(&daemon, &source).await.unwrap_err();
    assert_eq!(error.code(), Code::TableMissing);
    assert!(error.to_string().contains("CREATE TABLE IF NOT EXISTS \"public\".\"order_outbox\""), "{error}");

    source.auto_setup = true;
    let error = setup::ensure(&daemon, &source).await.unwrap_err();
    assert_eq!(error.code(), Code::TableMissing, "{error}");
    assert!(error.to_string().contains("permission denied"), "{error}");

    let admin = empty.session("postgres").await;
    let grant = format!(
        "GRANT CREATE ON SCHEMA public TO {role}; GRANT CREATE ON DATABASE {} TO {role}",
        empty.database,
        role = empty.role
    );
    admin.batch_execute(&grant).await.unwrap();
    setup::ensure(&daemon, &source).await.unwrap();
    setup::ensure(&daemon, &source).await.unwrap();
    let table = tables::resolve_all(&daemon, &source).await.unwrap().remove(0);
    assert_eq!(table.owner, empty.role);
    assert!(table.indexes_over("published_at").eq(["idx_order_outbox_unpublished"]));
    require_server(&daemon).await.unwrap();
}

/// A position of this phase; nothing but the phase is looked at.
fn position(phase: Phase) -> Box<Position> {
    let mut position = Position::creating("outboxd_order", serde_json::Value::Null);
    position.phase = phase;
    Box::new(position)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_through_which_rows_were_published_is_never_made_again() {
    let empty = Empty::new().await.with_role().await;
    let mut source = empty.source(&["order_outbox"]);
    let admin = empty.session("postgres").await;
    let kafka = kafka_config();
    let facts = facts::read(&admin, &source, &empty.role).await.unwrap();
    for phase in [Phase::Backfill, Phase::Streaming] {
        let topics = KafkaFacts { position: Some(position(phase)), ..KafkaFacts::default() };
        assert_eq!(Plan::new(&facts, &topics, &source, &kafka).unwrap_err().code(), Code::SlotMissing);
    }
    let has_slot = |plan: &Plan| plan.steps.iter().any(|step| matches!(step, Step::Slot(_)));
    for phase in [None, Some(Phase::Creating)] {
        let topics = KafkaFacts { position: phase.map(position), ..KafkaFacts::default() };
        source.backfill = Backfill::Unpublished;
        assert!(!has_slot(&Plan::new(&facts, &topics, &source, &kafka).unwrap()), "run makes it, with its snapshot");
        source.backfill = Backfill::None;
        assert!(has_slot(&Plan::new(&facts, &topics, &source, &kafka).unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_joins_a_publication_only_before_there_is_a_slot() {
    let empty = Empty::new().await.with_role().await;
    let source = empty.source(&["a", "b"]);
    let admin = empty.session("postgres").await;
    let publication = &source.publication;
    admin
        .batch_execute(&format!(
            "CREATE TABLE a (id int, published_at date); CREATE TABLE b (LIKE a); CREATE PUBLICATION {publication} FOR TABLE a"
        ))
        .await
        .unwrap();
    let facts = facts::read(&admin, &source, &empty.role).await.unwrap();
    let plan = Plan::for_postgres(&facts, &source).unwrap();
    let sql: Vec<_> = plan
        .steps
        .iter()
        .map(|step| match step {
            Step::Sql(step) => step.sql.join("; "),
            other => other.what(),
        })
        .collect();
    assert_eq!(sql.last().unwrap(), &format!("ALTER PUBLICATION \"{publication}\" ADD TABLE \"public\".\"b\""));
    let facts = facts::Facts { slot_exists: true, ..facts };
    assert_eq!(Plan::for_postgres(&facts, &source).unwrap_err().code(), Code::PublicationChanged);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seeds_tables_are_made_word_for_word() {
    let empty = Empty::new().await;
    let admin = empty.session("postgres").await;
    for (table, sql) in setup::migrations::SEED_TABLES {
        admin.batch_execute(sql).await.unwrap();
        let found = tables::resolve(&admin, &crate::sources::table_name(table)).await.unwrap();
        assert_eq!(found.columns.len(), 7, "{table}");
        assert!(found.indexes_over("published_at").eq([format!("idx_{table}_unpublished").as_str()]), "{table}");
    }
}

fn kafka_config() -> outboxd::config::Kafka {
    outboxd::config::Kafka {
        token: None,
        brokers: "127.0.0.1:9".to_owned(),
        delivery: outboxd::config::Delivery::ExactlyOnce,
        position_topic: "positions".to_owned(),
        topic_partitions: 0,
        topic_replication: 0,
        transaction_timeout: std::time::Duration::from_secs(60),
        delivery_timeout: std::time::Duration::from_secs(30),
        options: Vec::new(),
        files: Vec::new(),
    }
}

/// The configuration of a source of `empty` with a password, and the folder that it lies in.
fn with_password(empty: &Empty, brokers: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pw"), "s3cret\n").unwrap();
    let text = format!(
        "[[source]]\nname = \"{}\"\nurl = \"{}\"\npassword_file = \"pw\"\ntables = [\"order_outbox\"]\n\
         [kafka]\nbrokers = \"{brokers}\"\nposition_topic = \"{}\"\n",
        unique("s"),
        empty.server.role_url(&empty.role, &empty.database),
        unique("positions"),
    );
    let path = folder.path().join("outboxd.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_made_has_the_password_of_its_source_and_nobody_is_shown_it() {
    let empty = Empty::new().await;
    let (_folder, config) = with_password(&empty, &Kafka::shared().await.unwrap().brokers());
    let admin = empty.server.superuser_url(&empty.database);
    let dry = text(&outboxd(&["setup", "--config", &config, "--admin-url", &admin, "--dry-run"]));
    let made = text(&outboxd(&["setup", "--config", &config, "--admin-url", &admin]));
    let check = text(&outboxd(&["check", "--config", &config]));
    assert!(check.contains("every user of this machine can read "), "{check}");
    for output in [&dry, &made] {
        assert!(output.contains("gets the password that the source has"), "{output}");
        assert!(!output.contains("s3cret") && !output.contains("SCRAM"), "{output}");
    }
    let stored = "SELECT rolpassword FROM pg_authid WHERE rolname = $1";
    let row = empty.session("postgres").await.query_one(stored, &[&empty.role]).await.unwrap();
    assert!(row.get::<_, String>(0).starts_with("SCRAM-SHA-256$4096:"));
}

/// A role without its table's column would be of no use, and no right can be granted on what is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_its_mark_column_is_told_before_anything_is_made() {
    let empty = Empty::new().await;
    let (_folder, config) = with_password(&empty, &Kafka::shared().await.unwrap().brokers());
    let session = empty.session("postgres").await;
    session.batch_execute("CREATE TABLE order_outbox (id uuid PRIMARY KEY, payload jsonb)").await.unwrap();
    let admin = empty.server.superuser_url(&empty.database);
    for more in [&["--dry-run"][..], &[]] {
        let output = text(&outboxd(&[&["setup", "--config", &config, "--admin-url", &admin], more].concat()));
        assert!(output.contains("error[column-invalid]") && output.contains("published_at"), "{output}");
        assert!(!output.contains("GRANT"), "{output}");
    }
    let roles = session.query("SELECT FROM pg_roles WHERE rolname = $1", &[&empty.role]).await.unwrap();
    assert!(roles.is_empty(), "the role was made all the same");
}
