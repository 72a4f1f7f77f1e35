//! What the tests do in the database, and what they wait for there.

use anyhow::{Result, bail};
use testbed::{eventually, unique};
use tokio_postgres::Client;
use uuid::Uuid;

use super::{PATIENCE, Scene};

/// Waits until this query gives true.
pub(crate) async fn wait_true(client: &Client, query: &str) {
    eventually(PATIENCE, || async {
        match client.query_one(query, &[]).await?.get(0) {
            Some(true) => Ok(()),
            other => bail!("{other:?}: {query}"),
        }
    })
    .await;
}

/// Inserts one row of a key of its own by this session, in its transaction if one is open.
pub(crate) async fn insert_one(scene: &Scene, session: &Client) -> Result<Uuid> {
    insert_one_into(scene, session, "order_outbox").await
}

/// The same in another table.
pub(crate) async fn insert_one_into(scene: &Scene, session: &Client, table: &str) -> Result<Uuid> {
    let id = Uuid::new_v4();
    let insert = format!(
        "INSERT INTO {table} (id, aggregate_type, aggregate_id, event_type, payload) \
         VALUES ($1, $2, gen_random_uuid(), 'OrderCreated', '{{\"seq\": 1}}')"
    );
    session.execute(&insert, &[&id, &scene.aggregate]).await?;
    Ok(id)
}

/// A role of the test's own, as the daemon's is, with these settings (`SET x = y; …`); its name.
pub(crate) async fn role_with(scene: &Scene, settings: &[&str]) -> Result<String> {
    let role = unique("role");
    scene
        .client
        .batch_execute(&format!("CREATE ROLE {role} LOGIN REPLICATION; GRANT ALL ON order_outbox TO {role}"))
        .await?;
    for setting in settings {
        scene.client.batch_execute(&format!("ALTER ROLE {role} SET {setting}")).await?;
    }
    Ok(role)
}

/// Makes the publication that a source of this table needs.
pub(crate) async fn create_publication(client: &Client, name: &str) -> Result<()> {
    let create = format!(
        "CREATE PUBLICATION {name} FOR TABLE order_outbox \
         WITH (publish = 'insert', publish_via_partition_root = true)"
    );
    Ok(client.batch_execute(&create).await?)
}

/// What a test does to the slot, the publication and the sessions that use them.
impl Scene {
    /// From now on every mark waits, until [`Scene::let_marks_go`].
    pub(crate) async fn hold_marks(&self) -> Result<()> {
        let hold = "CREATE FUNCTION wait_for_42() RETURNS trigger LANGUAGE plpgsql AS \
                    $$ BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NEW; END $$; \
                    CREATE TRIGGER wait_for_42 BEFORE UPDATE ON order_outbox FOR EACH ROW EXECUTE FUNCTION wait_for_42(); \
                    SELECT pg_advisory_lock(42)";
        Ok(self.client.batch_execute(hold).await?)
    }

    /// Lets the marks be made.
    pub(crate) async fn let_marks_go(&self) -> Result<()> {
        Ok(self.client.batch_execute("SELECT pg_advisory_unlock(42)").await?)
    }

    /// The slot's name, which is the publication's as well.
    pub(crate) fn slot(&self) -> String {
        format!("outboxd_{}", self.source)
    }

    pub(crate) async fn drop_slot(&self) -> Result<()> {
        self.client.execute("SELECT pg_drop_replication_slot($1)", &[&self.slot()]).await?;
        Ok(())
    }

    /// Moves the slot past everything that is in the log.
    pub(crate) async fn advance_slot(&self) -> Result<()> {
        let advance = "SELECT pg_replication_slot_advance($1, pg_current_wal_flush_lsn())";
        self.client.query_one(advance, &[&self.slot()]).await?;
        Ok(())
    }

    /// Writes so much log that a server with `max_slot_wal_keep_size = 1MB` removes what the slot needs.
    pub(crate) async fn lose_slot(&self) -> Result<()> {
        for _ in 0..4 {
            self.client.batch_execute("SELECT pg_logical_emit_message(true, '', 'x'); SELECT pg_switch_wal()").await?;
        }
        self.client.batch_execute("CHECKPOINT").await?;
        let lost = format!("SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = '{}'", self.slot());
        wait_true(&self.client, &lost).await;
        Ok(())
    }

    pub(crate) async fn drop_publication(&self) -> Result<()> {
        Ok(self.client.batch_execute(&format!("DROP PUBLICATION {}", self.slot())).await?)
    }

    /// `ALTER PUBLICATION … <change>`
    pub(crate) async fn alter_publication(&self, change: &str) -> Result<()> {
        Ok(self.client.batch_execute(&format!("ALTER PUBLICATION {} {change}", self.slot())).await?)
    }

    /// Ends the server's side of the session that streams.
    pub(crate) async fn terminate_walsender(&self) -> Result<()> {
        let terminate = "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots \
                         WHERE slot_name = $1 AND active_pid IS NOT NULL";
        self.client.query_one(terminate, &[&self.slot()]).await?;
        Ok(())
    }

    /// Starts the server again that was stopped, and connects to it.
    pub(crate) async fn start_postgres_again(&mut self) -> Result<()> {
        self.postgres.start_again().await?;
        self.client = self.postgres.client(&self.database).await?;
        Ok(())
    }
}
