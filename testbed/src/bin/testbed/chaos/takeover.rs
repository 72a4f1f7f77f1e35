//! `testbed chaos takeover` measures the time from the leader's end to the standby's first record,
//! many times.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    pair::{Load, PATIENCE, Pair, Plan},
    watch::wait_state,
};
use crate::{
    RESULTS, daemon_binary,
    host::{Host, Processor},
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How often the leader is killed (-9)
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// How often the leader is stopped (SIGSTOP) until the server gives its session up
    #[arg(long, default_value_t = 10)]
    stops: u32,
    /// Rows a second
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Kafka brokers
    #[arg(long, default_value_t = 3)]
    brokers: usize,
    /// Seconds for which the idle standby is watched
    #[arg(long, default_value_t = 30)]
    idle: u64,
    /// `wal_sender_timeout` of the daemon's role
    #[arg(long, default_value = "1500ms")]
    wal_sender_timeout: String,
    /// `status` in [source.timeouts]
    #[arg(long, default_value = "300ms")]
    status: String,
    /// The daemon; by default the outboxd beside this program
    #[arg(long)]
    outboxd: Option<PathBuf>,
    /// Where the result is kept; nothing is written when empty
    #[arg(long, default_value = RESULTS)]
    results: String,
}

/// What ends the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Kill,
    Stop,
}

/// Times since the signal.
#[derive(Debug, Clone, Copy)]
struct Takeover {
    ready: Duration,
    first_record: Duration,
}

/// What a standby costs.
struct Idle {
    watched: Duration,
    processor: Duration,
    resident: u64,
    livez: u16,
    readyz: u16,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let host = Host::here();
    let outboxd = daemon_binary(arguments.outboxd.clone())?;
    say("starting Postgres and Kafka, and two daemons");
    let plan = Plan {
        outboxd: &outboxd,
        brokers: arguments.brokers,
        wal_sender_timeout: &arguments.wal_sender_timeout,
        status: &arguments.status,
    };
    let mut pair = Pair::start(&plan).await?;
    let mut load = pair.load(arguments.rate).await?;
    say("watching the standby");
    let idle = watch_standby(&pair, Duration::from_secs(arguments.idle)).await?;
    let kills = repeat(&mut pair, &mut load, Ending::Kill, arguments.kills).await?;
    let stops = repeat(&mut pair, &mut load, Ending::Stop, arguments.stops).await?;
    load.stop().await?;
    let audit = pair.audit().await?;
    ensure!(audit.is_clean() && audit.rows > 0, "the audit is not clean:\n{audit}");
    let text = markdown(&arguments, &host, &idle, [&kills, &stops]) + &format!("\n## The audit\n\n```\n{audit}```\n");
    println!("{text}");
    if !arguments.results.is_empty() {
        let day = host.date.split('T').next().unwrap_or_default();
        let path = Path::new(&arguments.results).join(format!("{day}-takeover.md"));
        std::fs::write(&path, text)?;
        say(&format!("kept as {}", path.canonicalize()?.display()));
    }
    Ok(())
}

fn say(text: &str) {
    eprintln!("chaos: {text}");
}

async fn watch_standby(pair: &Pair, time: Duration) -> Result<Idle> {
    let processor = Processor::of(pair.standby.pid()?)?;
    let (before, started) = (processor.time()?, Instant::now());
    tokio::time::sleep(time).await;
    wait_state(&pair.standby, "standby", PATIENCE).await?;
    Ok(Idle {
        watched: started.elapsed(),
        processor: processor.time()?.saturating_sub(before),
        resident: pair.standby.resident()?,
        livez: pair.standby.http_get("/livez").await?.0,
        readyz: pair.standby.http_get("/readyz").await?.0,
    })
}

async fn repeat(pair: &mut Pair, load: &mut Load, ending: Ending, times: u32) -> Result<Vec<Takeover>> {
    let mut takeovers = Vec::new();
    for n in 1..=times {
        // The pause is random, so that the fault can hit any phase of the standby's attempts.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1_000..2_000))).await;
        let ended = Instant::now();
        match ending {
            Ending::Kill => pair.leader.kill9()?,
            Ending::Stop => pair.leader.pause()?,
        }
        let (ready, arrived) = tokio::try_join!(pair.standby_ready(), load.first_of_after(ended))?;
        let takeover = Takeover { ready: ready - ended, first_record: arrived - ended };
        say(&format!(
            "{ending:?} {n}: ready after {:?}, first record after {:?}",
            takeover.ready, takeover.first_record
        ));
        takeovers.push(takeover);
        match ending {
            Ending::Kill => pair.leader.start_again()?,
            Ending::Stop => pair.leader.resume()?,
        }
        // The former leader stands by.
        wait_state(&pair.leader, "standby", PATIENCE).await?;
        pair.swap();
    }
    Ok(takeovers)
}

fn markdown(arguments: &Arguments, host: &Host, idle: &Idle, [kills, stops]: [&Vec<Takeover>; 2]) -> String {
    let Host { name, processor, cores, memory_gib, kernel, load, commit, date } = host;
    let Arguments { rate, brokers, wal_sender_timeout, status, .. } = arguments;
    let mut text = format!(
        "# Takeover: outboxd {commit}, {date}\n\n\
         `target/release/testbed chaos takeover --kills {} --stops {}`\n\n\
         {cores} cores of {processor}, {memory_gib} GiB, Linux {kernel}, host {name}, load before: {load}.\n\
         Postgres 15 (fsync on), Kafka {} ({brokers} brokers, separate controller), a leader and a standby share them;\n\
         {rate} single-row transactions a second. `wal_sender_timeout = {wal_sender_timeout}` for the daemon's role,\n\
         `status = \"{status}\"`.\n\n\
         Seconds from the signal to the leader until the standby's `/readyz` is 200, and until a `read_committed` consumer\n\
         has the first record of a row that was inserted after the signal.\n\n\
         | | times | ready p50 | ready max | first record p50 | first record max |\n|---|---:|---:|---:|---:|---:|\n",
        arguments.kills,
        arguments.stops,
        testbed::artifacts::KAFKA
    );
    for (name, takeovers) in [("`kill -9`", kills), ("SIGSTOP, until the server gives up", stops)] {
        let (ready, first) = (sorted(takeovers, |t| t.ready), sorted(takeovers, |t| t.first_record));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {name} | {} | {:.2} | {:.2} | {:.2} | {:.2} |",
            takeovers.len(),
            middle(&ready),
            ready.last().copied().unwrap_or_default(),
            middle(&first),
            first.last().copied().unwrap_or_default()
        );
    }
    for (name, takeovers) in [("kill -9", kills), ("SIGSTOP", stops)] {
        let all: Vec<String> = takeovers
            .iter()
            .map(|t| format!("{:.2}/{:.2}", t.ready.as_secs_f64(), t.first_record.as_secs_f64()))
            .collect();
        let _ = writeln!(text, "\nEach {name} (ready/first record): {}.", all.join(", "));
    }
    let share = idle.processor.as_secs_f64() / idle.watched.as_secs_f64() * 100.0;
    let _ = writeln!(
        text,
        "\n## The standby\n\nState `standby`, `/livez` {}, `/readyz` {}: {:.2} s of processor time in {:.0} s ({share:.2} % of a core), \
         {:.1} MiB resident.",
        idle.livez,
        idle.readyz,
        idle.processor.as_secs_f64(),
        idle.watched.as_secs_f64(),
        idle.resident as f64 / 1024.0 / 1024.0
    );
    text
}

fn sorted(takeovers: &[Takeover], of: impl Fn(&Takeover) -> Duration) -> Vec<f64> {
    let mut times: Vec<f64> = takeovers.iter().map(|takeover| of(takeover).as_secs_f64()).collect();
    times.sort_by(f64::total_cmp);
    times
}

fn middle(times: &[f64]) -> f64 {
    times.get(times.len() / 2).copied().unwrap_or_default()
}
