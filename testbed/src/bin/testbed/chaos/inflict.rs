//! Carries a fault out: begins it, lets it last, and heals it.

use std::{os::unix::process::ExitStatusExt as _, time::Duration};

use anyhow::{Context, Result, ensure};
use testbed::{
    Proxy,
    proxy::{Direction, Flow},
};
use tokio::time::sleep;

use super::{
    fault::{Fault, Kind},
    kafka,
    servers::Ending,
    stage::{BROKERS, PATIENCE, Stage},
};
use crate::sources::SOURCES;

const SIGTERM: i32 = 15;

/// When a fast shutdown takes longer than this, a daemon delays it.
pub(crate) const SHUTDOWN_WITHIN: Duration = Duration::from_secs(30);

/// Returns whether the fault happened. For instance, a foreign producer cannot reach a broker that
/// is down. An error is a failure of the run.
pub(crate) async fn inflict(stage: &Stage, fault: Fault) -> Result<bool> {
    use Kind as K;
    match fault.kind {
        K::KillDaemon | K::StopDaemon | K::RestartDaemon => hit_daemon(stage, fault).await?,
        K::KillBroker | K::PauseBroker | K::RestartBroker | K::PauseTwoBrokers => hit_broker(stage, fault).await?,
        K::FastRestart | K::ImmediateRestart | K::KillPostgres | K::PausePostgres => hit_postgres(stage, fault).await?,
        K::FailOver => {
            let ending = [Ending::Kill, Ending::Immediate, Ending::Fast][fault.choice % 3];
            return stage.servers.fail_over(fault.lasts, ending, &stage.proxies).await;
        }
        K::TerminateWalsender => {
            let slot = format!("outboxd_{}", SOURCES[fault.target].name);
            let query = "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots \
                         WHERE slot_name = $1 AND active_pid IS NOT NULL";
            return terminate(stage, query, &slot).await;
        }
        K::TerminateMarkers => {
            let query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1";
            return terminate(stage, query, "outboxd marker").await;
        }
        K::TerminateSessions => {
            let query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1";
            return terminate(stage, query, testbed::postgres::ROLE).await;
        }
        // A restart of the server ends the locks early, but the rows were locked.
        K::LockRows => return Ok(lock_rows(stage, fault).await.unwrap_or(false)),
        K::CutPostgres
        | K::DelayPostgres
        | K::SlicePostgres
        | K::HoldPostgres
        | K::SwallowPostgres
        | K::ThrottlePostgres => hit_network(&stage.proxies[fault.target], fault).await,
        K::CutKafka | K::DelayKafka | K::SliceKafka | K::HoldKafka | K::SwallowKafka | K::ThrottleKafka => {
            hit_network(stage.kafka.proxy(fault.target)?, fault).await;
        }
        K::Fence => return Ok(kafka::fence(stage.kafka.brokers(), fault).await),
        K::ForeignTransaction => return Ok(kafka::hold_transaction(stage.kafka.brokers(), fault).await),
        // When a broker is down, Kafka cannot place the partition's replicas.
        K::RaisePartitions => return Ok(stage.raise_partitions(fault.target).await.unwrap_or(false)),
    }
    Ok(true)
}

async fn hit_daemon(stage: &Stage, fault: Fault) -> Result<()> {
    let daemon = &stage.daemons[fault.target];
    if fault.kind == Kind::StopDaemon {
        daemon.pause()?;
        sleep(fault.lasts).await;
        return daemon.resume();
    }
    if fault.kind == Kind::KillDaemon {
        daemon.kill9()?;
    } else {
        daemon.term()?;
        let status = daemon.wait_status(PATIENCE).await?;
        // A daemon that has just begun does not handle the signal yet, so the signal ends it.
        let drained = status.success() || status.signal() == Some(SIGTERM);
        ensure!(drained, "daemon {} ended with {status} after SIGTERM", fault.target);
    }
    sleep(fault.lasts).await;
    daemon.start_again()
}

async fn hit_broker(stage: &Stage, fault: Fault) -> Result<()> {
    let (kafka, broker) = (&stage.kafka, fault.target);
    match fault.kind {
        Kind::PauseBroker => {
            kafka.pause(broker)?;
            sleep(fault.lasts).await;
            kafka.resume(broker)?;
            return kafka.wait_ready().await;
        }
        Kind::PauseTwoBrokers => {
            let other = (broker + 1) % BROKERS;
            kafka.pause(broker)?;
            kafka.pause(other)?;
            sleep(fault.lasts).await;
            kafka.resume(broker)?;
            kafka.resume(other)?;
            return kafka.wait_ready().await;
        }
        Kind::KillBroker => kafka.kill9(broker)?,
        _ => kafka.stop(broker).await?,
    }
    sleep(fault.lasts).await;
    kafka.restart(broker).await
}

async fn hit_postgres(stage: &Stage, fault: Fault) -> Result<()> {
    let postgres = stage.servers.primary();
    match fault.kind {
        Kind::PausePostgres => {
            postgres.pause()?;
            sleep(fault.lasts).await;
            return postgres.resume();
        }
        Kind::FastRestart => {
            postgres.begin_stop_fast()?;
            let stopped = postgres.wait_stopped(SHUTDOWN_WITHIN).await;
            stopped.context("a fast shutdown of Postgres was held up")?;
        }
        Kind::KillPostgres => postgres.kill9()?,
        _ => {
            postgres.stop_immediate().await?;
        }
    }
    sleep(fault.lasts).await;
    postgres.start_again().await
}

async fn terminate(stage: &Stage, query: &str, whose: &str) -> Result<bool> {
    let client = stage.servers.client("postgres").await?;
    Ok(client.query_one(query, &[&whose]).await?.get::<_, i64>(0) > 0)
}

/// Locks every unmarked row that it can get, again and again.
async fn lock_rows(stage: &Stage, fault: Fault) -> Result<bool> {
    let source = &SOURCES[fault.target];
    let mut client = stage.servers.client(source.database).await?;
    let lock = format!("SELECT id FROM {} WHERE published_at IS NULL FOR UPDATE SKIP LOCKED", source.table);
    let transaction = client.transaction().await?;
    let (until, mut locked) = (tokio::time::Instant::now() + fault.lasts, 0);
    loop {
        locked += transaction.query(&lock, &[]).await?.len();
        if tokio::time::Instant::now() >= until && (locked > 0 || tokio::time::Instant::now() >= until + fault.lasts) {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    transaction.rollback().await?;
    Ok(locked > 0)
}

async fn hit_network(proxy: &Proxy, fault: Fault) {
    use Kind as K;
    let Fault { kind, lasts, direction, choice, .. } = fault;
    match kind {
        K::CutPostgres | K::CutKafka if choice % 2 == 0 => proxy.cut(),
        K::CutPostgres | K::CutKafka => proxy.reset(),
        K::DelayPostgres | K::DelayKafka => proxy.delay(direction, Duration::from_millis(20 + 40 * choice as u64)),
        K::SlicePostgres | K::SliceKafka => proxy.slice(direction, Some(1 + 20 * choice)),
        K::ThrottlePostgres | K::ThrottleKafka => proxy.bandwidth(Direction::Both, Some(20_000 * (1 + choice as u64))),
        K::SwallowPostgres | K::SwallowKafka => proxy.flow(direction, Flow::Drop),
        _ => proxy.blackhole(direction),
    }
    sleep(lasts).await;
    if matches!(kind, K::SwallowPostgres | K::SwallowKafka) {
        // The bytes that follow would make no sense to either side.
        proxy.reset();
    }
    proxy.heal();
}
