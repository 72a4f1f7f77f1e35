//! What happens to the server, the slot and the role: numbers 37 to 39, 43, 45, 59 to 62, 64, 78.

use std::time::Duration;

use anyhow::{Result, bail};
use testbed::{Load, Postgres, Version, eventually};

use crate::scene::{PATIENCE, Scene, halts_again, insert_one, role_with, stop, wait_code, wait_ready, wait_true};

#[tokio::test]
async fn a_slot_that_was_advanced_past_the_position_halts() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.published(3).await?;
    stop(&daemon).await?;
    scene.insert(3).await?;
    scene.advance_slot().await?;
    halts_again(&daemon, "slot-ahead").await
}

#[tokio::test]
async fn a_slot_whose_log_was_removed_halts() -> Result<()> {
    let postgres = Postgres::builder(Version::V15)
        .setting("max_slot_wal_keep_size", "1MB")
        .setting("wal_keep_size", "0")
        .setting("min_wal_size", "32MB");
    let mut scene = Scene::on_own_postgres(postgres).await?;
    let daemon = scene.published(3).await?;
    stop(&daemon).await?;
    scene.insert(3).await?;
    scene.lose_slot().await?;
    halts_again(&daemon, "slot-lost").await
}

#[tokio::test]
async fn a_slot_that_was_invalidated_for_idling_halts() -> Result<()> {
    let mut scene =
        Scene::on_own_postgres(Postgres::builder(Version::V18).setting("idle_replication_slot_timeout", "1s")).await?;
    let daemon = scene.published(3).await?;
    stop(&daemon).await?;
    let slot = scene.slot();
    eventually(PATIENCE, || async {
        scene.client.batch_execute("SELECT pg_logical_emit_message(true, '', 'x'); CHECKPOINT").await?;
        let reason = "SELECT invalidation_reason FROM pg_replication_slots WHERE slot_name = $1";
        match scene.client.query_one(reason, &[&slot]).await?.get::<_, Option<&str>>(0) {
            Some("idle_timeout") => Ok(()),
            other => bail!("{other:?}"),
        }
    })
    .await;
    halts_again(&daemon, "slot-lost").await
}

#[tokio::test]
async fn a_source_that_idles_beside_a_busy_database_lets_go_of_its_log() -> Result<()> {
    let scene = Scene::shared().await?.with("[source.timeouts]\nidle_advance = \"200ms\"\nstatus = \"200ms\"");
    let _daemon = scene.streaming().await?;
    let other = scene.postgres.fresh_database("busy").await?;
    let busy = scene.postgres.client(&other).await?;
    busy.batch_execute("CREATE TABLE other AS SELECT generate_series(1, 50000) n").await?;
    scene.wait_caught_up().await
}

#[tokio::test]
async fn a_slot_is_made_when_the_transactions_that_are_open_have_ended() -> Result<()> {
    let mut scene = Scene::shared().await?;
    scene.insert(3).await?;
    let open = scene.postgres.client(&scene.database).await?;
    open.batch_execute("BEGIN").await?;
    insert_one(&scene, &open).await?;
    let daemon = scene.daemon()?;
    let making = format!("SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{}')", scene.slot());
    wait_true(&scene.client, &making).await;
    insert_one(&scene, &open).await?;
    scene.insert(3).await?;
    open.batch_execute("COMMIT").await?;
    wait_ready(&daemon).await;
    scene.assert_exactly(8).await
}

#[tokio::test]
async fn transactions_that_hold_a_slot_up_are_named() -> Result<()> {
    let scene = Scene::shared().await?.with("[source.timeouts]\nlock = \"300ms\"\nbackoff_max = \"1s\"");
    let open = scene.postgres.client(&scene.database).await?;
    open.batch_execute("BEGIN").await?;
    insert_one(&scene, &open).await?;
    let daemon = scene.daemon()?;
    let named = "made once the transactions have ended that were open before; the oldest of them are of pid ";
    daemon.wait_for_line(|line| line.contains(named) && line.contains("55P03"), PATIENCE).await?;
    open.batch_execute("COMMIT").await?;
    wait_ready(&daemon).await;
    scene.assert_exactly(1).await
}

#[tokio::test]
async fn a_role_that_loses_the_right_to_stream_goes_on_when_it_has_it_again() -> Result<()> {
    let mut scene = Scene::shared().await?.with("[source.timeouts]\nbackoff_max = \"1s\"");
    let role = role_with(&scene, &[]).await?;
    let daemon = scene.daemon_as(&role)?;
    wait_ready(&daemon).await;
    scene.insert(3).await?;
    scene.oracle().await?.assert_clean();
    for (take, give, code) in
        [("NOREPLICATION", "REPLICATION", "postgres-denied"), ("NOLOGIN", "LOGIN", "postgres-auth-failed")]
    {
        scene.client.batch_execute(&format!("ALTER ROLE {role} {take}")).await?;
        let end = format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{role}'");
        scene.client.batch_execute(&end).await?;
        scene.insert(3).await?;
        wait_code(&daemon, code).await?;
        scene.client.batch_execute(&format!("ALTER ROLE {role} {give}")).await?;
        scene.oracle().await?.assert_clean();
    }
    Ok(())
}

#[tokio::test]
async fn a_server_without_a_free_walsender_is_waited_for() -> Result<()> {
    let mut first = Scene::on_own_postgres(Postgres::builder(Version::V15).setting("max_wal_senders", "1")).await?;
    let daemon = first.published(2).await?;
    stop(&daemon).await?;
    // Somebody else takes the only one: a physical replication session that does nothing.
    let occupant = Occupant::take(&first).await?;
    daemon.start_again()?;
    wait_code(&daemon, "postgres-exhausted").await?;
    first.insert(2).await?;
    drop(occupant);
    first.oracle().await?.assert_clean();
    Ok(())
}

/// A replication session that only idles.
struct Occupant {
    _socket: tokio::net::TcpStream,
}

impl Occupant {
    async fn take(scene: &Scene) -> Result<Self> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", scene.postgres.port()?)).await?;
        // StartupMessage of protocol 3.0.
        let parameters = b"user\0postgres\0replication\0true\0\0";
        let mut startup = u32::try_from(parameters.len() + 8)?.to_be_bytes().to_vec();
        startup.extend(0x0003_0000_u32.to_be_bytes());
        startup.extend(parameters);
        socket.write_all(&startup).await?;
        // Until ReadyForQuery ('Z', length 5, 'I').
        let (mut answer, mut chunk) = (Vec::new(), [0; 1024]);
        while !answer.ends_with(b"Z\0\0\0\x05I") {
            match socket.read(&mut chunk).await? {
                0 => bail!("refused: {}", String::from_utf8_lossy(&answer)),
                read => answer.extend(&chunk[..read]),
            }
        }
        Ok(Self { _socket: socket })
    }
}

#[tokio::test]
async fn a_mark_that_a_lock_blocks_holds_back_the_slot_and_not_the_records() -> Result<()> {
    let mut scene = Scene::shared().await?.with("[source.timeouts]\nlock = \"1s\"\nbackoff_max = \"1s\"");
    let daemon = scene.streaming().await?;
    daemon.pause()?;
    scene.insert(3).await?;
    let locker = scene.postgres.client(&scene.database).await?;
    locker.batch_execute("BEGIN; SELECT FROM order_outbox FOR UPDATE").await?;
    daemon.resume()?;
    scene.wait_records(3).await;
    scene.insert(3).await?;
    scene.wait_records(6).await;
    let blocked = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype IN ('transactionid', 'tuple') \
                   AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database()))";
    wait_true(&scene.client, blocked).await;
    locker.batch_execute("COMMIT").await?;
    scene.assert_exactly(6).await?;
    scene.wait_caught_up().await
}

#[tokio::test]
async fn marks_that_are_denied_are_made_up_for_once_they_are_allowed() -> Result<()> {
    let mut scene = Scene::shared().await?.with("[source.timeouts]\nbackoff_max = \"1s\"");
    let daemon = scene.streaming().await?;
    scene.client.batch_execute("REVOKE UPDATE ON order_outbox FROM outboxd").await?;
    scene.insert(3).await?;
    scene.wait_records(3).await;
    wait_code(&daemon, "postgres-denied").await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    scene.client.batch_execute("GRANT UPDATE ON order_outbox TO outboxd").await?;
    scene.assert_exactly(3).await
}

#[tokio::test]
async fn marks_are_durable_whatever_the_role_prefers() -> Result<()> {
    // A commit that does not ask for the disk waits for it as long as this.
    let mut scene = Scene::on_own_postgres(Postgres::builder(Version::V15).setting("wal_writer_delay", "10s")).await?;
    scene.client.batch_execute("ALTER ROLE outboxd SET synchronous_commit = off").await?;
    let daemon = scene.streaming().await?;
    for _ in 0..3 {
        scene.insert(20).await?;
        scene.wait_caught_up().await?;
        scene.postgres.stop_immediate().await?;
        scene.start_postgres_again().await?;
        wait_ready(&daemon).await;
    }
    // Postgres never sends again what was confirmed, so a lost mark would stay lost.
    scene.oracle().await?.assert_clean();
    Ok(())
}

#[tokio::test]
async fn a_server_whose_log_has_no_room_left_is_waited_for() -> Result<()> {
    let postgres = Postgres::builder(Version::V15)
        .wal_megabytes(40)
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "10MB");
    let mut scene = Scene::on_own_postgres(postgres).await?.with("[source.timeouts]\nbackoff_max = \"1s\"");
    let daemon = scene.streaming().await?;
    let load = Load::builder(&scene.postgres.superuser_url(&scene.database), "order_outbox", &scene.aggregate);
    let load = load.writers(2).per_second(20).start();
    scene.insert(3).await?;
    // A slot that nobody reads keeps the log until the disk is full.
    scene.client.batch_execute("SELECT pg_create_physical_replication_slot('forgotten', true)").await?;
    let filler = scene.postgres.client(&scene.database).await?;
    filler.batch_execute("CREATE TABLE filler (text text)").await?;
    let fill = "INSERT INTO filler SELECT repeat(md5(n::text), 30) FROM generate_series(1, 1000) n";
    while filler.batch_execute(fill).await.is_ok() {}
    let log = scene.postgres.log_path()?;
    let full =
        || std::fs::read_to_string(&log).map(|log| log.contains("PANIC") && log.contains("No space left on device"));
    eventually(PATIENCE, || async { if full()? { Ok(()) } else { bail!("the server has room still") } }).await;
    // The server may restart by itself and need one more segment, or its recovery may fail.
    let _ = scene.postgres.kill9();
    scene.postgres.resize_wal(200)?;
    scene.start_postgres_again().await?;
    scene.client.batch_execute("SELECT pg_drop_replication_slot('forgotten')").await?;
    wait_ready(&daemon).await;
    scene.insert(3).await?;
    load.stop().await?;
    let audit = scene.oracle().await?;
    audit.assert_clean();
    assert!(audit.records > 6, "{audit}");
    Ok(())
}
