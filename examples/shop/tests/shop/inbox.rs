//! The inbox: an event that comes again has no second effect, and one whose effect failed comes
//! again.

use anyhow::{Result, bail};
use deadpool_postgres::{Config, Pool, Runtime};
use inbox::{Event, Handler};
use serde_json::json;
use testbed::{Postgres, Version};
use tokio_postgres::{NoTls, Transaction};
use uuid::Uuid;

/// Counts its effects.
struct Count {
    fails: bool,
}

impl Handler for Count {
    fn wants(&self, _: &str) -> bool {
        true
    }

    async fn handle(&self, transaction: &Transaction<'_>, _: &Event) -> Result<()> {
        transaction.execute("UPDATE effects SET n = n + 1", &[]).await?;
        if self.fails {
            bail!("it cannot be done now");
        }
        Ok(())
    }
}

async fn database() -> Result<Pool> {
    let postgres = Postgres::shared(Version::V15).await?;
    let name = postgres.fresh_database("inbox").await?;
    let pool = Config { url: Some(postgres.superuser_url(&name)), ..Config::new() };
    let pool = pool.create_pool(Some(Runtime::Tokio1), NoTls)?;
    let client = pool.get().await?;
    client.batch_execute(inbox::MIGRATION).await?;
    client.batch_execute("CREATE TABLE effects (n INTEGER); INSERT INTO effects VALUES (0)").await?;
    Ok(pool)
}

async fn effects(pool: &Pool) -> Result<i32> {
    Ok(pool.get().await?.query_one("SELECT n FROM effects", &[]).await?.get(0))
}

fn event() -> Event {
    Event { id: Uuid::new_v4(), kind: "OrderConfirmed".to_owned(), data: json!({}) }
}

#[tokio::test]
async fn an_event_that_comes_again_has_no_second_effect() -> Result<()> {
    let pool = database().await?;
    let again = event();
    for _ in 0..3 {
        inbox::once("one", &pool, &Count { fails: false }, std::slice::from_ref(&again)).await?;
    }
    // Also not within one transaction, and not from two sessions at a time.
    inbox::once("one", &pool, &Count { fails: false }, &[again.clone(), again.clone()]).await?;
    let both = event();
    let events = std::slice::from_ref(&both);
    let take = || inbox::once("one", &pool, &Count { fails: false }, events);
    tokio::try_join!(take(), take())?;
    assert_eq!(effects(&pool).await?, 2);
    Ok(())
}

#[tokio::test]
async fn another_consumer_has_an_effect_of_its_own() -> Result<()> {
    let pool = database().await?;
    let event = event();
    for consumer in ["one", "two"] {
        inbox::once(consumer, &pool, &Count { fails: false }, std::slice::from_ref(&event)).await?;
    }
    assert_eq!(effects(&pool).await?, 2);
    Ok(())
}

#[tokio::test]
async fn an_effect_that_fails_leaves_nothing_and_can_be_tried_again() -> Result<()> {
    let pool = database().await?;
    let event = event();
    let events = std::slice::from_ref(&event);
    assert!(inbox::once("one", &pool, &Count { fails: true }, events).await.is_err());
    assert_eq!(effects(&pool).await?, 0);
    inbox::once("one", &pool, &Count { fails: false }, events).await?;
    assert_eq!(effects(&pool).await?, 1);
    Ok(())
}
