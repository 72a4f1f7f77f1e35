//! The one address that clients know. It sends each request to the monolith or to the service of
//! its domain, as the table `route` says, and hides that a process is being replaced: a request
//! that nobody has answered goes out again, until [`PATIENCE`] is over.
//!
//! Sending a request again is safe because every write of this shop may be repeated: an order has
//! its number from the request, a step that was taken already is no error, and so on.

mod routes;

pub use routes::{Domain, Route, Target};

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{Method, Request},
    routing::{any, get, put},
};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use self::routes::Routes;
use crate::{
    db,
    places::{Database, Places},
    web::{self, Answer, Failure, Http, Reply},
};

/// How long a request is tried.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long one process may take for it.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const LARGEST_BODY: usize = 1 << 20;

struct Facade {
    http: Http,
    routes: Routes,
    places: Places,
    to_monolith: AtomicU64,
    to_services: AtomicU64,
    repeated: AtomicU64,
}

/// Serves until the process ends.
pub async fn run(places: &Places) -> Result<()> {
    let pool = db::pool(places, Database::Facade)?;
    let facade = Arc::new(Facade {
        http: Http::default(),
        routes: Routes::load(pool).await?,
        places: places.clone(),
        to_monolith: AtomicU64::new(0),
        to_services: AtomicU64::new(0),
        repeated: AtomicU64::new(0),
    });
    let router = Router::new()
        .route("/_facade/routes", get(show))
        .route("/_facade/routes/{domain}", put(change))
        .fallback(any(forward))
        .with_state(facade);
    web::serve(&places.facade, router).await
}

/// The routes, and how many requests each side has answered since the facade began.
async fn show(State(facade): State<Arc<Facade>>) -> Reply {
    Reply::ok(json!({
        "routes": facade.routes.all(),
        "to_monolith": facade.to_monolith.load(Ordering::Relaxed),
        "to_services": facade.to_services.load(Ordering::Relaxed),
        "repeated": facade.repeated.load(Ordering::Relaxed),
    }))
}

async fn change(
    State(facade): State<Arc<Facade>>,
    Path(domain): Path<Domain>,
    Json(route): Json<Route>,
) -> Result<Reply, Failure> {
    facade.routes.set(domain, route).await?;
    Ok(Reply::ok(json!({ "domain": domain, "route": route })))
}

/// A request, kept whole so that it can be sent again.
struct Kept {
    method: Method,
    path: String,
    key: String,
    body: Bytes,
}

async fn forward(State(facade): State<Arc<Facade>>, request: Request<Body>) -> Result<Reply, Failure> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let domain = Domain::of(head.uri.path()).ok_or(Failure::NotFound("path"))?;
    let key = head.headers.get("idempotency-key").and_then(|key| key.to_str().ok());
    let key = key.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
    let body = Limited::new(body, LARGEST_BODY).collect().await;
    let body = body.map_err(|error| Failure::Invalid(format!("the body: {error}")))?.to_bytes();
    let kept = Kept { method: head.method, path, key, body };
    let answer = persist(&facade, domain, &kept).await?;
    Ok(Reply(answer.status, answer.body))
}

/// Sends the request until somebody answers it.
async fn persist(facade: &Facade, domain: Domain, kept: &Kept) -> Result<Answer, Failure> {
    let started = Instant::now();
    let reads = kept.method == Method::GET || kept.path.starts_with("/login");
    let mut last = String::new();
    while started.elapsed() < PATIENCE {
        let route = facade.routes.of(domain);
        let target = if reads { route.reads } else { route.writes };
        let mut answer = send(facade, domain, target, kept).await;
        // A domain that is read in one place and written in the other: what was just written may
        // not have arrived.
        let unseen = answer.as_ref().is_ok_and(|answer| matches!(answer.status, 401 | 404));
        if reads && route.reads != route.writes && unseen {
            answer = send(facade, domain, route.writes, kept).await;
        }
        match answer {
            Ok(answer) if !matches!(answer.status, 421 | 503) => return Ok(answer),
            Ok(answer) => last = answer.body,
            Err(error) => last = format!("{error:#}"),
        }
        facade.repeated.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(Failure::Unavailable(format!("nobody has answered for {PATIENCE:?}: {last}")))
}

async fn send(facade: &Facade, domain: Domain, target: Target, kept: &Kept) -> Result<Answer> {
    let places = &facade.places;
    let (address, count) = match (target, domain) {
        (Target::Monolith, _) => (&places.monolith, &facade.to_monolith),
        (Target::Service, Domain::Users) => (&places.user, &facade.to_services),
        (Target::Service, Domain::Orders) => (&places.order, &facade.to_services),
        (Target::Service, Domain::Shipments) => (&places.logistics, &facade.to_services),
    };
    let request = Request::builder()
        .method(kept.method.clone())
        .uri(format!("http://{address}{}", kept.path))
        .header("content-type", "application/json")
        .header("idempotency-key", &kept.key)
        .body(Full::new(kept.body.clone()))?;
    let answer = facade.http.send(request, ANSWER_WITHIN).await?;
    count.fetch_add(1, Ordering::Relaxed);
    Ok(answer)
}

/// What `GET /_facade/routes` says.
pub async fn status(http: &Http, places: &Places) -> Result<Value> {
    let url = format!("http://{}/_facade/routes", places.facade);
    Ok(http.get(&url, Duration::from_secs(5)).await?.json())
}
