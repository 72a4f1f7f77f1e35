//! Holds `docs/fault-matrix.md` and the tests together.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

const TABLE: &str = include_str!("../../../docs/fault-matrix.md");

/// How many faults the matrix has.
const FAULTS: usize = 141;

/// One line of the table.
struct Fault {
    number: usize,
    what: &'static str,
    does: &'static str,
    tests: Vec<&'static str>,
}

fn faults() -> Result<Vec<Fault>> {
    let rows = TABLE.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| #"));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [number, what, does, tests] = cells[..] else { anyhow::bail!("not four cells: {line}") };
        let number = number.parse().with_context(|| line.to_owned())?;
        let tests = tests.split(',').map(|test| test.trim().trim_matches('`')).collect();
        Ok(Fault { number, what, does, tests })
    })
    .collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// The names of all tests of the integration binary: the functions that follow a `#[test]` or `#[tokio::test…]`, and
/// are not ignored.
fn tests() -> Result<HashSet<String>> {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it"), &mut files)?;
    let mut names = HashSet::new();
    for file in files {
        let text = fs::read_to_string(&file)?;
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if !(line.trim() == "#[test]" || line.trim().starts_with("#[tokio::test")) {
                continue;
            }
            let name = lines.peek().and_then(|next| next.trim().strip_prefix("async ").or(Some(next.trim())));
            let name = name.and_then(|next| next.strip_prefix("fn ")).and_then(|next| next.split('(').next());
            names.extend(name.map(str::to_owned));
        }
    }
    Ok(names)
}

#[test]
fn every_fault_has_a_line_and_every_test_that_it_names_exists() -> Result<()> {
    let (faults, tests) = (faults()?, tests()?);
    let numbers: Vec<usize> = faults.iter().map(|fault| fault.number).collect();
    assert_eq!(numbers, (1..=FAULTS).collect::<Vec<_>>());
    let mut wrong = Vec::new();
    for fault in &faults {
        assert!(!fault.what.is_empty() && !fault.does.is_empty(), "number {} says too little", fault.number);
        for test in &fault.tests {
            if !tests.contains(*test) && *test != "simulation" && (*test != "not yet" || fault.tests.len() > 1) {
                wrong.push(format!("{}: there is no test {test}", fault.number));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn every_test_of_the_matrix_stands_in_its_table() -> Result<()> {
    let named: HashSet<&str> = faults()?.into_iter().flat_map(|fault| fault.tests).collect();
    let families = [
        "brokers",
        "clock",
        "failover",
        "instances",
        "kafka",
        "network",
        "poison",
        "postgres",
        "refused",
        "relays",
        "restored",
        "resumed",
        "rights",
        "rows",
        "schema",
        "times",
        "wire_faults",
        "zombies",
    ];
    for family in families {
        let text = fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/matrix").join(family).with_extension("rs"),
        )?;
        for part in text.split("#[tokio::test").skip(1) {
            let name = part.split("fn ").nth(1).and_then(|rest| rest.split('(').next()).context("no name")?;
            assert!(named.contains(name), "{family}.rs: {name} is not in docs/fault-matrix.md");
        }
    }
    Ok(())
}
