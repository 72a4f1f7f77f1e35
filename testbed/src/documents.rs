//! What the documentation shows of the program is made by tests. Each compares what it makes with the
//! page, and writes it where `OUTBOXD_WRITE_DOCS` is set.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Whether the tests write what they make.
#[must_use]
pub fn are_written() -> bool {
    std::env::var_os("OUTBOXD_WRITE_DOCS").is_some()
}

/// A file of the repository.
#[must_use]
pub fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)
}

/// Holds a file to what it should say.
///
/// # Errors
/// The file says something else.
pub fn holds(file: &str, text: &str) -> Result<()> {
    if are_written() {
        return Ok(std::fs::write(path(file), text)?);
    }
    let found = std::fs::read_to_string(path(file)).with_context(|| file.to_owned())?;
    ensure!(found == text, "{file} is stale: run this test with OUTBOXD_WRITE_DOCS=1. It should say:\n{text}");
    Ok(())
}

/// Holds a part of a page to what it should say. The part stands in a block of code between
/// `<!-- begin NAME -->` and `<!-- end NAME -->`.
///
/// # Errors
/// The part says something else, or the page has no such part.
pub fn holds_part(page: &str, name: &str, text: &str) -> Result<()> {
    let found = std::fs::read_to_string(path(page)).with_context(|| page.to_owned())?;
    holds(page, &with_part(&found, name, text).with_context(|| format!("{page} has no part {name}"))?)
}

fn with_part(page: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"));
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}```text\n{text}```\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_replaced_and_the_rest_stays() {
        let page = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n";
        let new = with_part(page, "x", "new\n").unwrap();
        assert_eq!(new, "a\n<!-- begin x -->\n```text\nnew\n```\n<!-- end x -->\nb\n");
        assert_eq!(with_part(&new, "x", "new\n").as_deref(), Some(&*new));
        assert_eq!(with_part(page, "y", "new\n"), None);
    }
}
