//! What a person meets who gets something wrong: a message with a code and a next step; and what heals is retried.

use std::time::Duration;

use anyhow::{Result, ensure};
use testbed::{Daemon, Expect, Postgres, Version, reader};

use crate::scene::{PATIENCE, Scene, halts, start, wait_code, wait_ready};

/// Whether it is still there after a while: a thing that heals must not end the daemon.
async fn still_runs(daemon: &Daemon) -> Result<()> {
    tokio::time::sleep(Duration::from_millis(500)).await;
    ensure!(daemon.is_running()?, "it gave up: {:?}", daemon.lines());
    Ok(())
}

#[tokio::test]
async fn a_misspelt_key_names_the_line_and_the_nearest_key() -> Result<()> {
    let scene = Scene::shared().await?.with("topc = \"{aggregate_type}.events\"");
    let daemon = scene.daemon()?;
    assert_eq!(daemon.wait_exit(PATIENCE).await?, 2);
    let text = daemon.lines().join("\n");
    for part in ["config-unknown-key", "config.toml:5", "topc", "did you mean \"topic\"?"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    Ok(())
}

#[tokio::test]
async fn an_unreachable_kafka_is_retried() -> Result<()> {
    let scene = Scene::shared().await?;
    let nobody = testbed::ports::free()?;
    let config = scene.config_through(&scene.postgres.url(&scene.database), &format!("127.0.0.1:{nobody}"));
    let daemon = start(&config)?;
    let line = wait_code(&daemon, "kafka-unreachable").await?;
    assert!(line.contains("hint"), "{line}");
    still_runs(&daemon).await?;
    // Whoever has several sources has to see which one a line of librdkafka is about.
    let named = format!("\"source\":\"{}\"", scene.source);
    let of_librdkafka = |line: &str| line.contains("\"target\":\"librdkafka\"") && line.contains(&named);
    let line = daemon.wait_for_line(of_librdkafka, PATIENCE).await?;
    ensure!(line.matches("\"source\":").count() == 1, "it names the source twice: {line}");
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_is_retried_until_it_is_right() -> Result<()> {
    let postgres = Postgres::builder(Version::V15).hba("host all vera 127.0.0.1/32 scram-sha-256");
    let mut scene = Scene::on_own_postgres(postgres).await?;
    scene
        .client
        .batch_execute("CREATE ROLE vera LOGIN REPLICATION PASSWORD 'other'; GRANT ALL ON order_outbox TO vera")
        .await?;
    let daemon = scene.daemon_as("vera:secret")?;
    let line = wait_code(&daemon, "postgres-auth-failed").await?;
    assert!(!line.contains("secret"), "the password is in the log: {line}");
    still_runs(&daemon).await?;
    scene.client.batch_execute("ALTER ROLE vera PASSWORD 'secret'").await?;
    wait_ready(&daemon).await;
    scene.insert(2).await?;
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn a_missing_table_is_waited_for() -> Result<()> {
    let scene = Scene::shared().await?;
    scene.client.batch_execute("ALTER TABLE order_outbox RENAME TO order_outbox_later").await?;
    let daemon = scene.daemon()?;
    let line = wait_code(&daemon, "table-missing").await?;
    assert!(line.contains("order_outbox"), "{line}");
    still_runs(&daemon).await?;
    scene.client.batch_execute("ALTER TABLE order_outbox_later RENAME TO order_outbox").await?;
    wait_ready(&daemon).await;
    Ok(())
}

#[tokio::test]
async fn a_server_without_logical_wal_halts_with_the_setting_to_change() -> Result<()> {
    let postgres = Postgres::builder(Version::V15).setting("wal_level", "replica");
    let scene = Scene::on_own_postgres(postgres).await?;
    let daemon = scene.daemon()?;
    let line = wait_code(&daemon, "wal-level").await?;
    assert!(line.contains("wal_level = logical"), "{line}");
    assert_eq!(daemon.wait_exit(PATIENCE).await?, 3);
    Ok(())
}

#[tokio::test]
async fn help_shows_an_example_for_each_command() -> Result<()> {
    for command in ["run", "check", "setup", "tail"] {
        let help = Daemon::builder(env!("CARGO_BIN_EXE_outboxd"))?.args(&[command, "--help"]).start()?;
        assert_eq!(help.wait_exit(PATIENCE).await?, 0);
        let text = help.lines().join("\n");
        assert!(text.contains(&format!("outboxd {command} ")), "no example for {command} in:\n{text}");
    }
    Ok(())
}

/// URLs that libpq or outboxd would refuse, each with what the message says about it.
const WRONG_URLS: [(&str, &str); 8] = [
    ("postgres://127.0.0.1:1/shop?password=hunter2", "it names no user"),
    ("postgres://u:hunter2@127.0.0.1:1/shop?gssencmode=require", "gssencmode"),
    ("postgres://u:hunter2@127.0.0.1:0/shop", "a port is not a number"),
    ("postgres://u:hunter2@127.0.0.1:hunter2/shop", "a port is not a number"),
    ("postgres://u:hunter2@127.0.0.1:1/shop?sslmode=hunter2", "sslmode must be one of"),
    ("postgres://u:hunter2@127.0.0.1:1/shop?sslcert=c", "sslcert and sslkey"),
    ("postgres://u:hun/ter2@127.0.0.1:1/shop", "%2F"),
    ("mysql://u:hunter2@127.0.0.1:1/shop", "postgres://user@host"),
];

/// Runs a command that is given nothing but arguments: it ends with exit code 2, names the flag and shows no password.
async fn refuses_url(args: &[&str], flag: &str, says: &str) -> Result<()> {
    let daemon = Daemon::builder(env!("CARGO_BIN_EXE_outboxd"))?.args(args).start()?;
    let code = daemon.wait_exit(PATIENCE).await?;
    let text = daemon.lines().join("\n");
    ensure!(code == 2, "{args:?} ended with {code}:\n{text}");
    for part in ["config-invalid", flag, says] {
        ensure!(text.contains(part), "{args:?}: {part:?} is not in:\n{text}");
    }
    ensure!(!text.contains("hun") && !text.contains("ter2"), "{args:?} shows the password:\n{text}");
    Ok(())
}

#[tokio::test]
async fn a_wrong_url_ends_every_command_before_it_begins() -> Result<()> {
    let commands: [&[&str]; 7] = [
        &["run"],
        &["check"],
        &["setup"],
        &["status"],
        &["verify"],
        &["tail"],
        &["recover", "--source", "shop", "--strategy", "republish-unmarked"],
    ];
    for command in commands {
        for (url, says) in WRONG_URLS {
            let described = ["--source-url", url, "--table", "t", "--brokers", "127.0.0.1:1"];
            refuses_url(&[command, &described].concat(), "--source-url", says).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_admin_url_ends_setup_before_it_begins() -> Result<()> {
    let right = ["--source-url", "postgres://u@127.0.0.1:1/shop", "--table", "t", "--brokers", "127.0.0.1:1"];
    for (url, says) in WRONG_URLS {
        let args = [&["setup", "--admin-url", url], right.as_slice()].concat();
        refuses_url(&args, "--admin-url", says).await?;
    }
    Ok(())
}

/// Runs a command on the scene's configuration to its end.
async fn command(scene: &Scene, args: &[&str]) -> Result<(i32, String)> {
    let daemon = Daemon::builder(env!("CARGO_BIN_EXE_outboxd"))?.args(args).config(&scene.config()).start()?;
    let code = daemon.wait_exit(PATIENCE).await?;
    Ok((code, daemon.lines().join("\n")))
}

#[tokio::test]
async fn setup_makes_slot_and_position_where_there_is_no_backfill_and_run_goes_on_from_there() -> Result<()> {
    let mut scene = Scene::shared().await?.with("backfill = \"none\"");
    scene.insert(2).await?; // Before the slot, and so not to be published.
    let (code, text) = command(&scene, &["setup", "--config", "{config}"]).await?;
    assert_eq!(code, 0, "{text}");
    let ids = [scene.insert(3).await?, scene.insert(4).await?].concat();
    let (code, text) = command(&scene, &["setup", "--config", "{config}"]).await?;
    assert_eq!(code, 0, "a second time: {text}");
    let _daemon = scene.streaming().await?;
    scene.wait_caught_up().await?;
    scene.audit(Expect::Ids(&ids)).await?.assert_clean();
    let (code, text) = command(&scene, &["check", "--config", "{config}"]).await?;
    assert_eq!(code, 0, "{text}");
    Ok(())
}

#[tokio::test]
async fn check_fails_with_the_code_of_what_is_missing() -> Result<()> {
    let scene = Scene::shared().await?;
    scene.client.batch_execute("ALTER TABLE order_outbox RENAME COLUMN payload TO body").await?;
    let (code, text) = command(&scene, &["check", "--config", "{config}"]).await?;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("column-invalid") && text.contains("payload"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_poison_row_stops_the_source_or_goes_to_the_dead_letter_topic() -> Result<()> {
    let poison = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload) \
                  VALUES ('not a topic!', gen_random_uuid(), 'Odd', '{\"seq\": 1}')";
    let mut scene = Scene::shared().await?;
    let daemon = scene.streaming().await?;
    scene.client.batch_execute(poison).await?;
    let line = halts(&daemon, "row-invalid").await?;
    assert!(line.contains("topic-invalid"), "{line}");

    let letters = format!("{}.letters", scene.aggregate);
    scene.kafka.create_topic(&letters, 1, &[]).await?;
    scene = scene.with(&format!("on_poison = \"dead-letter\"\ndead_letter_topic = \"{letters}\""));
    let _daemon = scene.streaming().await?;
    scene.insert(2).await?;
    scene.wait_marked("order_outbox").await;
    let dead = reader::read_committed(&scene.kafka.brokers(), &[&letters]).await?;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header_str("outboxd_error_code"), Some("topic-invalid"));
    assert_eq!(scene.records().await?, 2);
    Ok(())
}

#[tokio::test]
async fn a_record_that_the_broker_finds_too_large_is_found_out_and_set_aside_alone() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let letters = format!("{}.letters", scene.aggregate);
    scene.kafka.create_topic(&letters, 1, &[]).await?;
    let small = format!("{}small.events", scene.aggregate);
    scene.kafka.create_topic(&small, 1, &[("max.message.bytes", "20000")]).await?;
    scene = scene.with(&format!("on_poison = \"dead-letter\"\ndead_letter_topic = \"{letters}\""));
    let _daemon = scene.streaming().await?;
    let aggregate = format!("{}small", scene.aggregate);
    let insert = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload) \
                  SELECT $1, gen_random_uuid(), 'Sized', jsonb_build_object('n', n, 'text', repeat('x', size)) \
                  FROM (VALUES (1, 100), (2, 30000), (3, 100)) rows(n, size)";
    scene.client.execute(insert, &[&aggregate]).await?;
    scene.wait_marked("order_outbox").await;
    assert_eq!(reader::count_committed(&scene.kafka.brokers(), &[&small]).await?, 2);
    let dead = reader::read_committed(&scene.kafka.brokers(), &[&letters]).await?;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header_str("outboxd_error_code"), Some("too-large"));
    // And the source goes on at full speed.
    scene.insert(5).await?;
    scene.wait_marked("order_outbox").await;
    assert_eq!(scene.records().await?, 5);
    Ok(())
}
