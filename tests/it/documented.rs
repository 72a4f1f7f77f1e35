//! What the documentation shows of the commands comes from real runs. Names and numbers that differ from run to run are
//! put in place of fixed ones.

use anyhow::{Result, ensure};
use testbed::{Daemon, documents, eventually};

use crate::scene::{PATIENCE, Scene, halts, wait_ready};

/// What `status` prints for a daemon of this configuration, as a person would call it beside the daemon.
async fn status(scene: &Scene, daemon: &Daemon) -> Result<String> {
    let config = scene.config().replace("{http}", &daemon.http_address());
    let command = Daemon::builder(env!("CARGO_BIN_EXE_outboxd"))?.args(&["status", "--config", "{config}"]);
    let command = command.config(&config).start()?;
    let code = command.wait_exit(PATIENCE).await?;
    let lines = command.lines();
    ensure!(code == 0 && lines.len() > 1, "{code}: {lines:?}");
    Ok(lines.join("\n") + "\n")
}

/// The columns of a table's line.
fn cells(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

/// A place in the log, such as `0/192AD10`, is put in place of a fixed one. Other words stay.
fn fixed_places(text: &str) -> String {
    let is_hex = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let word = |word: &str| {
        let place = word.trim_end_matches([',', '.']);
        let is_place = place.split_once('/').is_some_and(|(high, low)| is_hex(high) && is_hex(low));
        if is_place { word.replace(place, "0/1957AB8") } else { word.to_owned() }
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// The same table with fixed names and numbers in place of those that differ from run to run.
fn fixed(scene: &Scene, table: &str) -> String {
    let named = table.replace(&scene.slot(), "outboxd_orders").replace(&scene.source, "orders");
    let named = named.replace(&scene.database, "shop");
    let (lines, below): (Vec<_>, Vec<_>) = named.lines().partition(|line| !line.starts_with(' '));
    let mut rows: Vec<Vec<_>> =
        lines.into_iter().map(|line| cells(line).into_iter().map(fixed_places).collect()).collect();
    let heads = rows[0].clone();
    for row in &mut rows[1..] {
        let waits = row.get(6).is_some_and(|unpublished| unpublished != "0");
        for (cell, head) in row.iter_mut().zip(&heads).filter(|(cell, _)| *cell != "-") {
            match head.as_str() {
                // The server writes log of its own.
                "LAG" => *cell = "56 B".to_owned(),
                "OLDEST" if waits => *cell = "4s".to_owned(),
                _ => {}
            }
        }
    }
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let padded = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().enumerate().map(|(n, cell)| format!("{cell:<0$}", width(n))).collect();
        cells.join("  ").trim_end().to_owned()
    };
    let lines = rows.iter().map(padded).chain(below.into_iter().map(fixed_places));
    lines.map(|line| line + "\n").collect()
}

#[tokio::test]
async fn the_documentation_shows_what_status_prints_of_a_source_that_streams_and_of_one_that_halted() -> Result<()> {
    let mut scene = Scene::shared().await?;
    let daemon = scene.published(3).await?;
    wait_ready(&daemon).await;
    // A look at Postgres may be older than the marks.
    eventually(PATIENCE, || async {
        let shown = fixed(&scene, &status(&scene, &daemon).await?);
        documents::holds_part("docs/operating/README.md", "status of a source that streams", &shown)
    })
    .await;
    eventually(PATIENCE, || async {
        scene.terminate_walsender().await?;
        scene.drop_slot().await
    })
    .await;
    halts(&daemon, "slot-missing").await?;
    scene.insert(2).await?;
    let shown = fixed(&scene, &status(&scene, &daemon).await?);
    documents::holds_part("docs/operating/README.md", "status of a source that halted", &shown)
}
