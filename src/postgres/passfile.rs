//! libpq's password file: a line for each connection, `host:port:database:user:password`.
//!
//! Page: "The Password File" (libpq).

use std::{
    fs::File,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::options::Host;
use crate::config::Secret;

/// No password file is longer.
const BYTES_MAX: u64 = 1 << 20;

/// Where libpq looks when nothing else names a password: `PGPASSFILE`, or else `~/.pgpass`.
pub(super) fn usual() -> Option<PathBuf> {
    let named = std::env::var_os("PGPASSFILE").filter(|path| !path.is_empty()).map(PathBuf::from);
    named.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".pgpass")))
}

/// The password for a connection; `None` if no line is for it.
///
/// # Errors
/// What is wrong with the file, without any of its text.
pub(super) fn password(path: &Path, host: &Host, database: &str, user: &str) -> Result<Option<Secret>, String> {
    let shown = path.display();
    let problem = |error: std::io::Error| format!("cannot read {shown}: {error}");
    let file = File::open(path).map_err(problem)?;
    let mode = file.metadata().map_err(problem)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!("{shown} can be read or changed by others; chmod 600 {shown}"));
    }
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text).map_err(problem)?;
    let (name, port) = named(host);
    Ok(find(&text, [&name, &port, database, user]))
}

/// Host and port as a line names them. libpq calls every socket `localhost`.
fn named(host: &Host) -> (String, String) {
    match host {
        Host::Tcp(name, port) => (name.clone(), port.to_string()),
        Host::Unix(socket) => {
            let port = socket.extension().map_or_else(String::new, |port| port.to_string_lossy().into_owned());
            ("localhost".to_owned(), port)
        }
    }
}

/// The password of the first line that is for this connection.
fn find(text: &str, wanted: [&str; 4]) -> Option<Secret> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(fields).find_map(|fields| {
        let (password, connection) = fields.split_last()?;
        let is_ours = connection.len() == wanted.len()
            && connection.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
        (is_ours && !password.is_empty()).then(|| Secret::new(password.clone()))
    })
}

/// The fields of a line. A backslash takes the next character as it is.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        let c = match c {
            ':' if fields.len() < 5 => {
                fields.push(String::new());
                continue;
            }
            '\\' => rest.next().unwrap_or('\\'),
            c => c,
        };
        if let Some(field) = fields.last_mut() {
            field.push(c);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, wanted: [&str; 4]) -> Option<String> {
        find(text, wanted).map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let text = "# a comment\n\nother:5432:shop:me:no\ndb\\:1:*:shop:me:a\\:b\\\\c:d\n*:*:*:*:any\n";
        assert_eq!(found(text, ["db:1", "5433", "shop", "me"]).as_deref(), Some("a:b\\c:d"));
        assert_eq!(found(text, ["db", "5432", "shop", "me"]).as_deref(), Some("any"));
        assert_eq!(found("db:5432:shop:me:", ["db", "5432", "shop", "me"]), None);
        assert_eq!(found("db:5432:shop:me", ["db", "5432", "shop", "me"]), None);
    }

    #[test]
    fn a_socket_is_localhost_and_has_its_port() {
        let socket = Host::Unix(PathBuf::from("/run/postgresql/.s.PGSQL.5433"));
        assert_eq!(named(&socket), ("localhost".to_owned(), "5433".to_owned()));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgpass");
        std::fs::write(&path, "*:*:*:*:s3cret\n").unwrap();
        let host = Host::Tcp("db".to_owned(), 5432);
        for (mode, says) in [(0o644, Some("chmod 600")), (0o600, None)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            match (password(&path, &host, "shop", "me"), says) {
                (Ok(secret), None) => assert_eq!(secret.unwrap().expose(), "s3cret"),
                (Err(problem), Some(says)) => {
                    assert!(problem.contains(says) && !problem.contains("s3cret"), "{problem}");
                }
                (other, _) => panic!("{mode:o}: {other:?}"),
            }
        }
    }
}
