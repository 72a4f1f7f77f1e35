//! Settings of the role and of the database reach every session that does not set its own. The table in
//! `docs/operating/sessions.md` goes through them, and each of its lines is tried here.

use anyhow::{Context, Result, ensure};
use testbed::Version;

use crate::scene::{QUICK, Scene, is_ready, tail, times_led, wait_ready};

const DOCUMENTED: &str = include_str!("../../docs/operating/sessions.md");

/// Each line of the table, with the value that is tried. The settings of a group are tried together.
const HOSTILE: &[&[(&str, &str)]] = &[
    &[
        ("statement_timeout", "1ms"),
        ("transaction_timeout", "100ms"),
        ("lock_timeout", "1ms"),
        ("idle_session_timeout", "100ms"),
        ("idle_in_transaction_session_timeout", "1ms"),
    ],
    &[
        ("default_transaction_read_only", "on"),
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_deferrable", "on"),
        ("synchronous_commit", "off"),
    ],
    &[
        ("DateStyle", "SQL, DMY"),
        ("IntervalStyle", "sql_standard"),
        ("TimeZone", "Asia/Kolkata"),
        ("bytea_output", "escape"),
        ("extra_float_digits", "-15"),
        ("client_encoding", "LATIN1"),
        ("client_min_messages", "error"),
        ("quote_all_identifiers", "on"),
        ("standard_conforming_strings", "off"),
    ],
    &[
        ("enable_seqscan", "off"),
        ("enable_indexscan", "off"),
        ("plan_cache_mode", "force_custom_plan"),
        ("row_security", "off"),
        ("search_path", "nowhere, public"),
        ("array_nulls", "off"),
        ("transform_null_equals", "on"),
        ("wal_sender_timeout", "2s"),
        ("tcp_user_timeout", "30s"),
        ("tcp_keepalives_idle", "1"),
        ("client_connection_check_interval", "100ms"),
        ("log_statement", "all"),
        ("session_replication_role", "replica"),
    ],
];

/// Rows from before the slot and a transaction that takes a while to relay are published and marked in one session, and
/// `verify` finds nothing to say.
async fn serves(settings: &[(&str, &str)]) -> Result<()> {
    let mut scene = Scene::on_major(Version::V18).await?.with(QUICK);
    let database = scene.database.clone();
    scene.insert(20).await?;
    for (setting, value) in settings {
        let value = if value.contains(',') { (*value).to_owned() } else { format!("'{value}'") };
        for whose in [format!("DATABASE {database}"), format!("ROLE outboxd IN DATABASE {database}")] {
            scene.client.batch_execute(&format!("ALTER {whose} SET {setting} = {value}")).await?;
        }
    }
    let daemon = scene.daemon()?;
    wait_ready(&daemon).await;
    for rows in [5_000, 3] {
        scene.insert(rows).await?;
        scene.oracle_whatever_the_order().await?.assert_clean();
    }
    ensure!(is_ready(&daemon).await && times_led(&daemon) == 1, "it began anew\n{}", tail(&daemon));
    let (code, output, error) = scene.command(&["verify"]).await?;
    ensure!(code == 0, "verify: {output}{error}");
    Ok(())
}

#[tokio::test]
async fn no_setting_of_the_role_or_the_database_keeps_rows_from_being_published_and_marked() -> Result<()> {
    for settings in HOSTILE {
        serves(settings).await.with_context(|| format!("{settings:?}"))?;
    }
    Ok(())
}

#[test]
fn every_setting_that_is_documented_is_tried_and_the_other_way_round() {
    let lines = DOCUMENTED.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let documented: Vec<&str> = lines.collect();
    let tried: Vec<&str> = HOSTILE.iter().copied().flatten().map(|(setting, _)| *setting).collect();
    assert_eq!(documented, tried);
}
