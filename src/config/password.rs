//! Where a password comes from.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::Secret;

/// Where the password of a source comes from. All but [`Password::Written`] is looked up for each
/// connection, since passwords are changed while daemons run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// The configuration has it.
    Written(Secret),
    /// A file has it.
    File(PathBuf),
    /// A program prints it.
    Command {
        /// The program and its arguments. There is at least the program.
        line: Vec<String>,
        /// How long what it printed is used again.
        ttl: Duration,
    },
}

/// The password that a file holds or a program printed: all but the line's end.
///
/// # Errors
/// What is wrong with it, without any of it.
pub(crate) fn one_line(text: &str) -> Result<Secret, &'static str> {
    let password = text.trim_end_matches(['\r', '\n']);
    match password {
        "" => Err("is empty; expected a password"),
        // The protocol's strings end at a zero byte.
        _ if password.contains('\0') => Err("holds a zero byte; expected a password"),
        _ => Ok(Secret::new(password.to_owned())),
    }
}

/// Reads the password that a file holds.
///
/// # Errors
/// What is wrong with the file, without any of its text.
pub(crate) fn in_file(path: &Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    one_line(&text).map_err(|problem| format!("{} {problem}", path.display()))
}
