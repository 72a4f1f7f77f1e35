//! Tells the program of which commit it was built. `OUTBOXD_COMMIT` says it where the sources come
//! without their history, as in a container's build. A build that knows no commit says nothing, and
//! the program then shows `unknown`.

use std::{path::Path, process::Command};

fn main() {
    println!("cargo:rerun-if-env-changed=OUTBOXD_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("OUTBOXD_COMMIT").is_some() {
        return; // The compiler sees the variable itself.
    }
    // Sources that were unpacked within another repository must not take that one's commit.
    if !Path::new(".git").exists() {
        return;
    }
    // `HEAD` changes with a checkout, and its log with every commit.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]).filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    if let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) {
        println!("cargo:rustc-env=OUTBOXD_COMMIT={commit}");
    }
}

/// What git says. `None` without git, and where git will not answer.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
