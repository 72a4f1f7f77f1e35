//! `shop`: every process of the example, the migration, and the proof.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shop::{
    db, facade, load, logistics, migrate, monolith, order, partners,
    places::{Database, Places},
    prove, user,
};

/// The migration guide's shop: from a monolith to three services, on outboxd.
#[derive(Parser)]
#[command(name = "shop", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The monolith
    Monolith(#[command(flatten)] Places),
    /// The User service
    User(#[command(flatten)] Places),
    /// The Order service
    Order(#[command(flatten)] Places),
    /// The Logistics service
    Logistics(#[command(flatten)] Places),
    /// Stand-ins for stock and payment
    Partners(#[command(flatten)] Places),
    /// The address that clients know
    Facade(#[command(flatten)] Places),
    /// One phase of the migration, its check, or its way back
    Migrate(#[command(flatten)] migrate::Arguments),
    /// Remove users that were deleted so many days ago
    Purge {
        #[command(flatten)]
        places: Places,
        #[arg(long, default_value_t = 30)]
        days: i32,
    },
    /// Clients, until Ctrl-C
    Load(#[command(flatten)] load::Arguments),
    /// Start everything, run all phases under load, break things, and audit
    Prove(#[command(flatten)] prove::Arguments),
    /// Start everything, and leave it running until Ctrl-C
    Up(#[command(flatten)] prove::UpArguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SHOP_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match run(Arguments::parse().command).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("shop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether what was checked is as it should be.
async fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Monolith(places) => monolith::run(&places).await?,
        Command::User(places) => user::run(&places).await?,
        Command::Order(places) => order::run(&places).await?,
        Command::Logistics(places) => logistics::run(&places).await?,
        Command::Partners(places) => partners::run(&places).await?,
        Command::Facade(places) => facade::run(&places).await?,
        Command::Migrate(arguments) => return migrate::run(arguments).await,
        Command::Purge { places, days } => {
            let client = db::connect(&places, Database::User).await?;
            println!("{} users removed", user::purge(&client, days).await?);
        }
        Command::Load(arguments) => return load::run(arguments).await,
        Command::Prove(arguments) => return prove::run(arguments).await,
        Command::Up(arguments) => prove::up(arguments).await?,
    }
    Ok(true)
}
