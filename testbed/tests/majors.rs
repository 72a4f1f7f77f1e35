//! Every major starts; TLS, standbys and restored disks are what they should be.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Result;
use testbed::{Postgres, Version, eventually, workload};

const WITHIN: Duration = Duration::from_secs(20);

#[tokio::test]
async fn every_major_decodes_logically_with_tls() -> Result<()> {
    for version in Version::ALL {
        let server = Postgres::builder(version).ssl(true).hba("hostssl all tls 127.0.0.1/32 cert").start().await?;
        let client = server.client("postgres").await?;
        let number: String = client.query_one("SHOW server_version_num", &[]).await?.get(0);
        assert_eq!(number[..2], version.major().to_string());
        client.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')", &[]).await?;
        let ssl: String = client.query_one("SHOW ssl", &[]).await?.get(0);
        assert_eq!(ssl, "on");
        let handshake = Command::new("openssl")
            .args(["s_client", "-starttls", "postgres", "-verify_return_error", "-verify_ip", "127.0.0.1", "-connect"])
            .arg(format!("127.0.0.1:{}", server.port()?))
            .arg("-CAfile")
            .arg(&server.certificates()?.ca)
            .stdin(Stdio::null())
            .output()?;
        assert!(handshake.status.success(), "{}", String::from_utf8_lossy(&handshake.stderr));
    }
    Ok(())
}

#[tokio::test]
async fn a_standby_follows_and_is_promoted() -> Result<()> {
    let primary = Postgres::start(Version::V17).await?;
    let client = primary.client("postgres").await?;
    workload::create_outbox(&client, "order_outbox").await?;
    let standby = primary.standby(&[]).await?;
    workload::bulk(&client, "order_outbox", "order", 100, 3).await?;
    let rows = async || -> Result<i64> {
        let row = standby.client("postgres").await?.query_one("SELECT count(*) FROM order_outbox", &[]).await?;
        Ok(row.get(0))
    };
    eventually(WITHIN, async || match rows().await {
        Ok(100) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    primary.kill9()?;
    standby.promote().await?;
    standby.client("postgres").await?.batch_execute("DELETE FROM order_outbox").await?;
    Ok(())
}

#[tokio::test]
async fn a_restored_disk_forgets_what_came_after() -> Result<()> {
    let server = Postgres::start(Version::V15).await?;
    server.client("postgres").await?.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await?;
    server.stop_fast().await?;
    let disk = server.copy_disk()?;
    server.start_again().await?;
    server.client("postgres").await?.batch_execute("INSERT INTO t VALUES (2)").await?;
    server.stop_fast().await?;
    server.restore_disk(&disk)?;
    server.start_again().await?;
    let rows: i64 = server.client("postgres").await?.query_one("SELECT count(*) FROM t", &[]).await?.get(0);
    assert_eq!(rows, 1);
    Ok(())
}

#[tokio::test]
async fn database_encodings_and_roles_are_the_tests_to_choose() -> Result<()> {
    let server = Postgres::shared(Version::V15).await?;
    let name = testbed::unique("latin1");
    server.create_database_with(&name, "ENCODING 'LATIN1' TEMPLATE template0").await?;
    let (client, connection) = tokio_postgres::connect(&server.url(&name), tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let row = client.query_one("SELECT current_user::text, current_setting('server_encoding')", &[]).await?;
    assert_eq!((row.get::<_, String>(0), row.get::<_, String>(1)), ("outboxd".to_owned(), "LATIN1".to_owned()));
    Ok(())
}
