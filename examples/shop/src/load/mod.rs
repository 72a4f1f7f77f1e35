//! Clients of the shop. They know one address, the facade's, and they remember what they were told.
//! What they remember is compared with the databases at the end.

mod client;
mod ledger;
mod life;

pub use client::Shopper;
pub use ledger::{Fate, Ledger, Placed, Tally};
pub use life::{Kind, Person};

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use tokio::{sync::watch, task::JoinSet};

use crate::places::Places;

#[derive(clap::Args, Debug, Clone)]
pub struct Arguments {
    #[command(flatten)]
    pub places: Places,
    /// Customers at a time
    #[arg(long, default_value_t = 4)]
    pub clients: usize,
}

/// Customers who go on until they are told to stop.
pub struct Load {
    ledger: Arc<Ledger>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Starts so many customers.
    #[must_use]
    pub fn start(facade: &str, clients: usize) -> Self {
        let ledger = Arc::new(Ledger::default());
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            let shopper = Shopper::new(facade, ledger.clone());
            tasks.spawn(life::live(shopper, number, stopped.clone()));
        }
        Self { ledger, stop, tasks }
    }

    /// What the customers remember so far.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Lets every customer finish what is begun.
    pub async fn stop(mut self) -> Arc<Ledger> {
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
        self.ledger
    }
}

/// `shop load`: goes on until Ctrl-C, with a line a second.
pub async fn run(arguments: Arguments) -> Result<bool> {
    let load = Load::start(&arguments.places.facade, arguments.clients);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            _ = ticks.tick() => println!("{}", load.ledger().tally()),
        }
    }
    let ledger = load.stop().await;
    println!("{}", ledger.tally());
    for failure in ledger.failures() {
        println!("  {failure}");
    }
    Ok(ledger.failures().is_empty())
}
