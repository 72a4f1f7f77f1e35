//! A page for `shop up`: place orders, watch sagas, parcels and events move, and break things.
//!
//! The server makes the whole of it. The script of the page does two things: it fetches the panel
//! twice a second, and it sends what a button says.

mod faults;
mod panel;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::Result;
use axum::{
    Router,
    extract::{Path, State},
    response::Html,
    routing::{get, post},
};
use tokio::sync::Mutex;

use self::faults::Fault;
use crate::{
    load::{Kind, Ledger, Person, Shopper},
    prove::Stage,
    web::{self, Failure, Reply},
};

type App = State<Arc<Page>>;

struct Page {
    stage: Arc<Stage>,
    ledger: Arc<Ledger>,
    /// One fault at a time, and its name for the panel.
    fault: Mutex<()>,
    now: std::sync::Mutex<String>,
    /// Faults that are over.
    over: AtomicU64,
}

/// Serves the page until the process ends. The ledger remembers what is ordered there.
pub async fn serve(stage: Arc<Stage>, ledger: Arc<Ledger>, address: &str) -> Result<()> {
    let page = Arc::new(Page {
        stage,
        ledger,
        fault: Mutex::default(),
        now: std::sync::Mutex::new("all is well".to_owned()),
        over: AtomicU64::new(0),
    });
    let router = Router::new()
        .route("/", get(whole))
        .route("/panel", get(fragment))
        .route("/order/{kind}", post(order))
        .route("/break/{fault}", post(inflict))
        .with_state(page);
    web::serve(address, router).await
}

impl Page {
    fn say(&self, text: &str) {
        text.clone_into(&mut self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    fn said(&self) -> String {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

async fn whole(State(page): App) -> Html<String> {
    let buttons = |path: &str, names: &[(&str, &str)]| {
        names
            .iter()
            .map(|(name, label)| format!("<button data-post=\"/{path}/{name}\">{label}</button>"))
            .collect::<String>()
    };
    let orders = buttons("order", &Kind::NAMES);
    let faults = buttons("break", &Fault::NAMES);
    let panel = panel::render(&page).await;
    Html(format!(include_str!("page.html"), orders = orders, faults = faults, panel = panel))
}

async fn fragment(State(page): App) -> Html<String> {
    Html(panel::render(&page).await)
}

/// A customer who places such an order, and follows it to its end.
async fn order(State(page): App, Path(kind): Path<String>) -> Result<Reply, Failure> {
    let kind = Kind::parse(&kind).ok_or(Failure::NotFound("kind of order"))?;
    let shopper = Shopper::new(&page.stage.places.facade, page.ledger.clone());
    tokio::spawn(async move {
        let life = async { Person::register(&shopper, 1).await?.order(&shopper, kind).await };
        match life.await {
            Ok(()) => page.ledger.finish(),
            Err(error) => page.ledger.fail(format!("{error:#}")),
        }
    });
    Ok(Reply(202, "{}".to_owned()))
}

async fn inflict(State(page): App, Path(fault): Path<String>) -> Result<Reply, Failure> {
    let fault = Fault::parse(&fault).ok_or(Failure::NotFound("fault"))?;
    tokio::spawn(async move {
        let _one = page.fault.lock().await;
        page.say(fault.label());
        match fault.inflict(&page.stage).await {
            Ok(()) => {
                page.over.fetch_add(1, Ordering::Relaxed);
                page.say("all is well");
            }
            Err(error) => page.say(&format!("{error:#}")),
        }
    });
    Ok(Reply(202, "{}".to_owned()))
}
