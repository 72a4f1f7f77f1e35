//! The six phases of the strangler fig: `shop migrate N`, `--check`, and `--back`.
//!
//! | phase | forward | back |
//! |---|---|---|
//! | 1 | prints boundaries and dependencies from the live schema | nothing to undo |
//! | 2 | the User service's database, and the facade | the service may be stopped |
//! | 3 | users: sync, compare, reads, writes | writes and reads go home, sync off |
//! | 4 | orders: the same, and sagas from then on | sagas end first, then the same |
//! | 5 | shipments: the same, and the monolith's tables are put away | tables come back, then the same |
//! | 6 | the last comparison, files, and the database is put away | the database comes back |
//!
//! A domain has one writer at a time: its database says so in `module_state`, and every write looks
//! there. A cut-over takes the module away on one side, waits until the other side has everything,
//! and gives it to that side. Requests in between are held by the facade.

mod archive;
mod boundaries;
mod compare;
mod cutover;
mod phases;
mod sync;

pub use compare::lasting;
pub use cutover::{Flow, unapplied};

use anyhow::{Result, bail};
use tokio_postgres::Client;

use crate::{
    db,
    facade::{Domain, Route},
    places::{Database, Places},
    web::Http,
};

#[derive(clap::Args, Debug, Clone)]
pub struct Arguments {
    #[command(flatten)]
    pub places: Places,
    /// 1 to 6
    pub phase: u8,
    /// Walk it back
    #[arg(long, conflicts_with = "check")]
    pub back: bool,
    /// Change nothing; say whether the phase is done and sound
    #[arg(long)]
    pub check: bool,
    /// How long a domain is read in its service before it is written there, in seconds
    #[arg(long, default_value_t = 2)]
    pub dwell: u64,
    /// Where phase 6 puts the monolith's tables as files
    #[arg(long, default_value = "archive")]
    pub archive: std::path::PathBuf,
}

/// What the phases work with.
pub(crate) struct Migration {
    places: Places,
    http: Http,
    dwell: std::time::Duration,
    archive: std::path::PathBuf,
}

/// Runs a phase. Returns whether its check was passed.
pub async fn run(arguments: Arguments) -> Result<bool> {
    let Arguments { places, phase, back, check, dwell, archive } = arguments;
    let dwell = std::time::Duration::from_secs(dwell);
    let migration = Migration { places, http: Http::default(), dwell, archive };
    if check {
        return phases::check(&migration, phase).await;
    }
    match (phase, back) {
        (1, _) => return boundaries::report(&migration.monolith().await?).await,
        (2, false) => phases::extract_users(&migration).await?,
        (2, true) => phases::back_from_2(&migration).await?,
        (3, false) => phases::move_users(&migration).await?,
        (3, true) => phases::back_from_3(&migration).await?,
        (4, false) => phases::move_orders(&migration).await?,
        (4, true) => phases::back_from_4(&migration).await?,
        (5, false) => phases::move_shipments(&migration).await?,
        (5, true) => phases::back_from_5(&migration).await?,
        (6, false) => archive::decommission(&migration).await?,
        (6, true) => archive::back(&migration).await?,
        _ => bail!("there is no phase {phase}"),
    }
    phases::note(&migration, phase, if back { "back" } else { "done" }).await?;
    Ok(true)
}

impl Migration {
    async fn monolith(&self) -> Result<Client> {
        self.connect(Database::Monolith).await
    }

    async fn connect(&self, database: Database) -> Result<Client> {
        db::connect(&self.places, database).await
    }

    /// Changes a route. A facade that has just been killed comes back.
    async fn route(&self, domain: Domain, route: Route) -> Result<()> {
        let url = format!("http://{}/_facade/routes/{}", self.places.facade, domain.name());
        let body = serde_json::to_value(route)?;
        let within = std::time::Duration::from_secs(15);
        let started = tokio::time::Instant::now();
        loop {
            let answer = self.http.json(axum::http::Method::PUT, &url, &body, within).await;
            match answer {
                Ok(answer) if answer.status == 200 => break,
                other if started.elapsed() > within => bail!("the facade does not take the route: {other:?}"),
                _ => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
        say(&format!("{}: read in the {}, written in the {}", domain.name(), name(route.reads), name(route.writes)));
        Ok(())
    }
}

fn name(target: crate::facade::Target) -> &'static str {
    match target {
        crate::facade::Target::Monolith => "monolith",
        crate::facade::Target::Service => "service",
    }
}

/// One line of what is being done, with the seconds since the command began.
fn say(line: &str) {
    static BEGAN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let began = BEGAN.get_or_init(std::time::Instant::now);
    println!("  {:>5.1} s  {line}", began.elapsed().as_secs_f64());
}
