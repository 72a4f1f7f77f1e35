//! How the daemon gets in: passwords, TLS with libpq's meanings, Unix sockets. Each streams rows to the end, since a
//! source needs both kinds of session.

use anyhow::Result;
use testbed::{Postgres, Version};

use crate::scene::{Scene, stop, wait_code, wait_ready};

/// A server that offers TLS and asks `vera` for her password in this way.
async fn guarded(method: &str) -> Result<Scene> {
    let postgres = Postgres::builder(Version::V15)
        .ssl(true)
        .setting("password_encryption", if method == "md5" { "md5" } else { "scram-sha-256" })
        .hba(&format!("host all vera 127.0.0.1/32 {method}"));
    let scene = Scene::on_own_postgres(postgres).await?;
    scene
        .client
        .batch_execute("CREATE ROLE vera LOGIN REPLICATION PASSWORD 'pässword %'; GRANT ALL ON order_outbox TO vera")
        .await?;
    Ok(scene)
}

/// `vera`'s URL with these parameters.
fn url(scene: &Scene, parameters: &str) -> String {
    let url = scene.postgres.role_url("vera:p%C3%A4ssword%20%25", &scene.database);
    if url.contains('?') { format!("{url}&{parameters}") } else { format!("{url}?{parameters}") }
}

/// A daemon that connects with this URL publishes rows.
async fn streams(scene: &mut Scene, url: &str) -> Result<()> {
    let daemon = scene.daemon_at(url)?;
    wait_ready(&daemon).await;
    scene.insert(3).await?;
    scene.oracle().await?.assert_clean();
    stop(&daemon).await?;
    Ok(())
}

#[tokio::test]
async fn a_password_is_proved_by_scram_bound_to_the_channel_over_verified_tls() -> Result<()> {
    let mut scene = guarded("scram-sha-256").await?;
    let ca = scene.postgres.certificates()?.ca.display().to_string();
    let verified = format!("sslmode=verify-full&sslrootcert={ca}&channel_binding=require");
    let bound = url(&scene, &verified);
    streams(&mut scene, &bound).await?;
    let plain = url(&scene, "sslmode=disable");
    streams(&mut scene, &plain).await
}

#[tokio::test]
async fn a_server_whose_certificate_nobody_vouches_for_is_refused_where_that_is_asked() -> Result<()> {
    let scene = guarded("scram-sha-256").await?;
    let other = guarded("scram-sha-256").await?;
    let ca = other.postgres.certificates()?.ca.display().to_string();
    let stranger = url(&scene, &format!("sslmode=verify-ca&sslrootcert={ca}"));
    let daemon = scene.daemon_at(&stranger)?;
    wait_code(&daemon, "postgres-tls-failed").await?;
    Ok(())
}

#[tokio::test]
async fn md5_and_a_unix_socket_serve_as_well() -> Result<()> {
    let mut scene = guarded("md5").await?;
    let md5 = url(&scene, "sslmode=prefer");
    streams(&mut scene, &md5).await?;
    let directory = scene.postgres.socket_dir()?.display().to_string().replace('/', "%2F");
    let socket = format!("postgres://outboxd@{directory}:{}/{}", scene.postgres.port()?, scene.database);
    streams(&mut scene, &socket).await
}
