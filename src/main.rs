//! Temporary entry until the command line lands.
use clap::Parser;
#[derive(Parser)]
struct Cli { _command: String, #[command(flatten)] flags: outboxd::config::Flags }
fn main() -> std::process::ExitCode {
    tracing_subscriber::fmt().json().flatten_event(true).with_max_level(tracing::Level::DEBUG).with_writer(std::io::stderr).init();
    let cli = Cli::parse();
    let config = match outboxd::config::Config::load(&cli.flags) { Ok(c) => c, Err(e) => { eprintln!("error[{}]: {}\n  hint: {}", e.code(), e.detail(), e.hint()); return 2.into() } };
    let rt = tokio::runtime::Runtime::new().unwrap();
    rt.block_on(async {
        let metrics = outboxd::telemetry::Metrics::new();
        let (tx, rx) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
            term.recv().await; let _ = tx.send(true);
            std::future::pending::<()>().await;
        });
        if let Some(listen) = config.http.listen {
            let m = metrics.clone();
            let app = axum::Router::new()
              .route("/metrics", axum::routing::get({let m = m.clone(); move || async move { m.render().unwrap() }}))
              .route("/readyz", axum::routing::get({let m = m.clone(); move || async move {
                 let ok = m.statuses().iter().all(|s| s.state.is_ready()) && !m.statuses().is_empty();
                 (if ok {axum::http::StatusCode::OK} else {axum::http::StatusCode::SERVICE_UNAVAILABLE}, format!("{:?}", m.statuses())) }}))
              .route("/status", axum::routing::get({let m = m.clone(); move || async move { m.statuses().iter().map(|s| format!("\"{}\"", s.state.as_str())).collect::<String>() }}));
            let l = tokio::net::TcpListener::bind(listen).await.unwrap();
            tokio::spawn(async move { axum::serve(l, app).await.unwrap() });
        }
        match outboxd::relay::run(&config, &metrics, rx).await {
            Ok(outboxd::relay::Outcome::Stopped) => 0.into(),
            Ok(outboxd::relay::Outcome::Halted) => 3.into(),
            Err(e) => { eprintln!("{e}"); 2.into() }
        }
    })
}
