//! Sessions, schemas, and the question who may write.

use anyhow::{Context, Result};
use deadpool_postgres::{Config, ManagerConfig, Object, Pool, PoolConfig, RecyclingMethod, Runtime};
use tokio_postgres::{Client, GenericClient, NoTls, Transaction};

use crate::{
    places::{Database, Places},
    web::Failure,
};

/// Sessions of one process.
const SESSIONS: usize = 12;

/// A pool for one database. It connects when it is asked.
pub fn pool(places: &Places, database: Database) -> Result<Pool> {
    let mut config = Config::new();
    config.url = Some(places.url(database));
    config.manager = Some(ManagerConfig { recycling_method: RecyclingMethod::Verified });
    let mut sessions = PoolConfig::new(SESSIONS);
    // A request that finds no session in this time is refused, and the facade tries again.
    let limit = Some(std::time::Duration::from_secs(5));
    sessions.timeouts.wait = limit;
    sessions.timeouts.create = limit;
    sessions.timeouts.recycle = limit;
    config.pool = Some(sessions);
    Ok(config.create_pool(Some(Runtime::Tokio1), NoTls)?)
}

/// Begins a transaction on a session of the pool.
pub async fn begin(client: &mut Object) -> Result<Transaction<'_>, tokio_postgres::Error> {
    let client: &mut Client = client;
    client.transaction().await
}

/// One session of its own.
pub async fn connect(places: &Places, database: Database) -> Result<Client> {
    let connecting = tokio_postgres::connect(&places.url(database), NoTls).await;
    let (client, connection) = connecting.with_context(|| format!("database {}", database.name()))?;
    // The connection ends with the client or the server. The next call of the client then fails.
    tokio::spawn(connection);
    Ok(client)
}

/// The SQL files of a database, in their order.
#[must_use]
pub fn schema(database: Database) -> &'static [&'static str] {
    macro_rules! sql {
        ($name:literal) => {
            include_str!(concat!("../sql/", $name, ".sql"))
        };
    }
    match database {
        // The last four are what the migration adds. They change nothing until a phase switches them on.
        Database::Monolith => {
            &[sql!("monolith"), sql!("sync"), sql!("monolith_ids"), sql!("monolith_images"), inbox::MIGRATION]
        }
        Database::User => &[sql!("user"), sql!("ownership"), sql!("sync"), sql!("user_sync"), inbox::MIGRATION],
        Database::Order => {
            &[sql!("order"), sql!("order_saga"), sql!("ownership"), sql!("sync"), sql!("order_sync"), inbox::MIGRATION]
        }
        Database::Logistics => {
            &[sql!("logistics"), sql!("ownership"), sql!("sync"), sql!("logistics_sync"), inbox::MIGRATION]
        }
        Database::Partners => &[sql!("partners")],
        Database::Facade => &[sql!("facade")],
    }
}

/// Runs SQL files in one transaction.
pub async fn run_files(client: &mut Client, files: &[&str]) -> Result<()> {
    let transaction = client.transaction().await?;
    for file in files {
        transaction.batch_execute(file).await?;
    }
    Ok(transaction.commit().await?)
}

/// Finds something where a phase has made the tables of a service.
const TABLES: &str = "SELECT FROM pg_class WHERE relname = 'module_state' AND relkind = 'r'";

/// Whether a phase has made the tables of a service.
pub async fn has_tables(places: &Places, database: Database) -> Result<bool> {
    Ok(connect(places, database).await?.query_opt(TABLES, &[]).await?.is_some())
}

/// Waits until a phase has made the tables of a service.
pub async fn await_tables(pool: &Pool) {
    loop {
        if let Ok(client) = pool.get().await
            && matches!(client.query_opt(TABLES, &[]).await, Ok(Some(_)))
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

/// Whether this database is the one to write the module. The answer stays true until the
/// transaction ends.
pub async fn owns(transaction: &impl GenericClient, module: &str) -> Result<bool, tokio_postgres::Error> {
    let row = transaction.query_opt("SELECT owner FROM module_state WHERE module = $1 FOR SHARE", &[&module]).await?;
    Ok(row.is_some_and(|row| row.get(0)))
}

/// Refuses a write that belongs elsewhere.
pub async fn require(transaction: &impl GenericClient, module: &'static str) -> Result<(), Failure> {
    if owns(transaction, module).await? { Ok(()) } else { Err(Failure::Elsewhere(module)) }
}

/// What comes now was written by the other side, and is not sent back.
pub async fn applying(transaction: &impl GenericClient) -> Result<(), tokio_postgres::Error> {
    transaction.batch_execute("SET LOCAL shop.applying = 'on'").await
}
