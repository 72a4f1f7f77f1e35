//! Writes the manual pages and the shell completions of `outboxd` into the directory that the one
//! argument names. Both are made from the command line itself, so they cannot fall behind it. This
//! is a program of its own, so that the daemon does not carry what writes them.

use std::{ffi::OsString, fs, io, path::Path, process::ExitCode};

use clap::CommandFactory;
use clap_complete::Shell;
use outboxd::cli::Cli;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [directory] = arguments.as_slice() else {
        eprintln!("usage: outboxd-manual DIRECTORY");
        return ExitCode::from(2);
    };
    match write(Path::new(directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outboxd-manual: {}: {error}", Path::new(directory).display());
            ExitCode::FAILURE
        }
    }
}

/// `man/outboxd.1`, one page for each command, and `completions/`.
fn write(directory: &Path) -> io::Result<()> {
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(Cli::command(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "outboxd", &completions)?;
    }
    Ok(())
}
