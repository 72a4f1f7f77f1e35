//! `make shop`: everything on real servers, all phases under load, everything killed at least once,
//! a way back, and the invariants at the end.

mod invariants;
mod play;
mod stage;

pub use invariants::{Finding, audit_topics, invariants};
pub use play::settle;
pub use stage::{Part, Stage};

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;

use crate::page;

#[derive(clap::Args, Debug, Clone)]
pub struct Arguments {
    #[command(flatten)]
    stage: StageArguments,
    /// Customers at a time
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// How long the customers are left alone in each phase, in seconds
    #[arg(long, default_value_t = 4)]
    linger: u64,
}

#[derive(clap::Args, Debug, Clone)]
pub struct UpArguments {
    #[command(flatten)]
    stage: StageArguments,
    /// host:port of the page
    #[arg(long, default_value = "127.0.0.1:8090")]
    page: String,
}

#[derive(clap::Args, Debug, Clone)]
struct StageArguments {
    /// The outboxd to run
    #[arg(long, env = "SHOP_OUTBOXD", default_value = "../../target/release/outboxd")]
    outboxd: PathBuf,
    /// Users of the monolith to begin with
    #[arg(long, default_value_t = 300)]
    users: u32,
}

/// Plays everything. Returns whether every invariant held.
pub async fn run(arguments: Arguments) -> Result<bool> {
    let stage = Stage::start(&arguments.stage.outboxd, arguments.stage.users).await?;
    play::play(stage, arguments.clients, std::time::Duration::from_secs(arguments.linger)).await
}

/// Starts everything and waits for Ctrl-C.
pub async fn up(arguments: UpArguments) -> Result<()> {
    let stage = Arc::new(Stage::start(&arguments.stage.outboxd, arguments.stage.users).await?);
    println!(
        "The page is at http://{}, the shop's API at http://{}. In another terminal:",
        arguments.page, stage.places.facade
    );
    for (name, value) in stage.places.environment() {
        println!("  export {name}={value}");
    }
    println!("  shop migrate 1   # and 2 to 6; --check, --back\n  shop load        # customers\nCtrl-C ends it all.");
    let follow = stage.follow();
    tokio::select! {
        served = page::serve(stage.clone(), Arc::default(), &arguments.page) => served,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
        ended = follow => ended,
    }
}
