//! `testbed up` starts servers to play with until Ctrl-C. `testbed fetch` downloads everything in
//! advance.

use anyhow::Result;
use testbed::{Kafka, Postgres, Version, artifacts};
use tokio::signal::unix::{SignalKind, signal};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Majors to start, 15 to 18; may be given several times
    #[arg(long, default_value = "15")]
    postgres: Vec<Version>,
    /// Kafka brokers; 0 starts none
    #[arg(long, default_value_t = 1)]
    brokers: usize,
}

pub(crate) fn fetch() -> Result<()> {
    for version in Version::ALL {
        println!("postgres {}  {}", version.major(), version.install()?.display());
    }
    println!("kafka {}  {}", artifacts::KAFKA, artifacts::kafka()?.display());
    Ok(())
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let mut servers = Vec::new();
    for version in arguments.postgres {
        let server = Postgres::start(version).await?;
        let (number, url) = (version.major(), server.superuser_url("postgres"));
        println!("postgres {number}: {url} (pid {}, log {})", server.pid()?, server.log_path()?.display());
        println!("  export TESTBED_POSTGRES_URL={url}");
        servers.push(server);
    }
    let kafka = if arguments.brokers == 0 { None } else { Some(Kafka::builder(arguments.brokers).start().await?) };
    if let Some(kafka) = &kafka {
        for i in 0..kafka.len() {
            println!("kafka broker {i}: pid {}, log {}", kafka.pid(i)?, kafka.log_path(i)?.display());
        }
        println!("  export TESTBED_KAFKA_BROKERS={}", kafka.brokers());
    }
    println!("ready; Ctrl-C stops them");
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
