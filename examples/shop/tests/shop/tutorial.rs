//! The pages of docs/migration show what the commands print. `SHOP_WRITE_DOCS=1` writes it there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use shop::prove::{Part, Stage};

use crate::scene;

fn page(phase: u8) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../docs/migration/phase-{phase}.md"))
}

/// A line without its numbers, ids and addresses, which differ from run to run.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    for c in line.trim().chars() {
        let c = if c.is_ascii_digit() { '#' } else { c };
        if !(c == '#' && shape.ends_with('#')) {
            shape.push(c);
        }
    }
    shape
}

/// Runs the commands of a page. Returns the page with what they have printed.
async fn play(stage: &Stage, phase: u8) -> Result<String> {
    let text = fs::read_to_string(page(phase))?;
    let mut new = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("```console\n") {
        let (before, block) = rest.split_at(at);
        let end = block[3..].find("```").context("a block without an end")? + 3;
        let command =
            block.lines().nth(1).and_then(|line| line.strip_prefix("$ shop migrate ")).context("no command")?;
        let printed = run(stage, command).await?;
        new += &format!("{before}```console\n$ shop migrate {command}\n{}\n```", printed.join("\n").trim_end());
        rest = &block[end + 3..];
    }
    Ok(new + rest)
}

async fn run(stage: &Stage, command: &str) -> Result<Vec<String>> {
    let arguments: Vec<&str> = command.split(' ').collect();
    // The second part of phase 6 needs the monolith to be stopped.
    if command == "6" {
        stage.stop(Part::Monolith).await?;
        stage.stop(Part::OutboxdMonolith).await?;
    }
    let (code, lines) = stage.migrate(&arguments).await?;
    ensure!(code == 0, "shop migrate {command} ended with {code}: {lines:?}");
    if command == "2" {
        stage.launch(Part::OutboxdUser)?;
    }
    Ok(lines)
}

#[tokio::test]
async fn the_pages_show_what_the_commands_print() -> Result<()> {
    let stage = scene::stage().await?;
    // The outboxds of the phases start with their tables.
    let write = std::env::var_os("SHOP_WRITE_DOCS").is_some();
    for phase in 1..=6 {
        let played = async {
            tokio::select! {
                page = play(&stage, phase) => page,
                followed = follow(&stage, phase) => followed.and(Err(anyhow::anyhow!("it ended"))),
            }
        };
        let played = played.await.with_context(|| format!("phase {phase}"))?;
        if write {
            fs::write(page(phase), &played)?;
        }
        let there = fs::read_to_string(page(phase))?;
        let shapes = |text: &str| text.lines().map(shape).collect::<Vec<_>>();
        for (there, played) in shapes(&there).into_iter().zip(shapes(&played)) {
            assert_eq!(there, played, "docs/migration/phase-{phase}.md; SHOP_WRITE_DOCS=1 writes it anew");
        }
        assert_eq!(there.lines().count(), played.lines().count(), "docs/migration/phase-{phase}.md");
        // A page ends with the way back.
        if (2..=5).contains(&phase) {
            scene::forward(&stage, phase).await?;
        }
    }
    Ok(())
}

/// Starts the outboxd of a phase as soon as there are tables.
async fn follow(stage: &Stage, phase: u8) -> Result<()> {
    use shop::places::Database;
    match phase {
        4 => stage.follow_one(Database::Order, Part::OutboxdOrder).await?,
        5 => stage.follow_one(Database::Logistics, Part::OutboxdLogistics).await?,
        _ => {}
    }
    std::future::pending().await
}
