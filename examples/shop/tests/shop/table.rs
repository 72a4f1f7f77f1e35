//! The table of README.md names everything that the guide has, and a test that is there.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};

/// The guide's text: `../shared/seed` beside the clone.
pub(crate) fn seed() -> Result<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/seed");
    let files = fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))?;
    let mut texts = Vec::new();
    for file in files {
        texts.push(fs::read_to_string(file?.path())?);
    }
    ensure!(!texts.is_empty(), "{} is empty", folder.display());
    Ok(texts.join("\n"))
}

/// A row of the table: what kind of thing, which one, and its test.
struct Row {
    kind: String,
    thing: String,
    test: String,
}

fn rows() -> Result<Vec<Row>> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"))?;
    let section = readme.split("## What the guide has, and its test").nth(1).context("no table")?;
    let lines = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    let rows: Vec<Row> = lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            ensure!(cells.len() == 4, "four cells: {line}");
            let plain = |cell: &str| cell.replace('`', "");
            Ok(Row { kind: plain(cells[0]), thing: plain(cells[1]), test: plain(cells[3]) })
        })
        .collect::<Result<_>>()?;
    ensure!(!rows.is_empty(), "the table is empty");
    Ok(rows)
}

/// The words of a text that consist of letters, digits, `_` and `.`.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '.').map(|word| word.trim_matches('.'))
}

/// What the guide has: (kind, thing).
fn guide(seed: &str) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    let mut database = "monolith";
    for line in seed.lines() {
        for (heading, name) in [
            ("### Original Database Schema", "monolith"),
            ("### User Service Database", "user"),
            ("### Order Service Database", "order"),
            ("### Logistics Service Database", "logistics"),
        ] {
            if line.starts_with(heading) {
                database = name;
            }
        }
        for (start, kind) in [("CREATE TABLE ", "table"), ("CREATE VIEW ", "view")] {
            if let Some(rest) = line.strip_prefix(start) {
                let name = words(rest).next().unwrap_or_default();
                found.insert((kind.to_owned(), format!("{database}.{name}")));
            }
        }
        if let Some(at) = line.find("PHASE ") {
            let number = line[at + 6..].chars().take_while(char::is_ascii_digit).collect::<String>();
            found.insert(("phase".to_owned(), number));
        }
        if let Some(rest) = line.strip_prefix("| **") {
            found.insert(("decision".to_owned(), rest.split("**").next().unwrap_or_default().to_owned()));
        }
        for word in words(line) {
            if is_event(word) {
                found.insert(("event".to_owned(), word.to_owned()));
            }
            if word.ends_with(".events") {
                found.insert(("topic".to_owned(), word.to_owned()));
            }
        }
    }
    found
}

fn is_event(word: &str) -> bool {
    let subject = ["User", "Address", "Order", "Shipment", "DeliveryAttempt"];
    let verb = [
        "Created",
        "Added",
        "Updated",
        "Deleted",
        "Confirmed",
        "Cancelled",
        "Completed",
        "Dispatched",
        "Delivered",
        "Failed",
        "Returned",
    ];
    subject.iter().any(|subject| word.strip_prefix(subject).is_some_and(|rest| verb.contains(&rest)))
}

#[test]
fn the_table_has_everything_that_the_guide_has_and_nothing_else() -> Result<()> {
    let guide = guide(&seed()?);
    // The guide has 20 tables, a view, 13 events, three topics, six phases and six decisions.
    let count = |kind: &str| guide.iter().filter(|(k, _)| k == kind).count();
    let counts = ["table", "view", "event", "topic", "phase", "decision"].map(count);
    assert_eq!(counts, [20, 1, 13, 3, 6, 6], "{guide:#?}");
    let table: BTreeSet<(String, String)> = rows()?.into_iter().map(|row| (row.kind, row.thing)).collect();
    let missing: Vec<_> = guide.difference(&table).collect();
    let invented: Vec<_> = table.difference(&guide).collect();
    ensure!(missing.is_empty() && invented.is_empty(), "missing: {missing:?}; not in the guide: {invented:?}");
    Ok(())
}

#[test]
fn every_test_of_the_table_is_there() -> Result<()> {
    for row in rows()? {
        let (module, name) = row.test.split_once("::").with_context(|| format!("module::test: {}", row.test))?;
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/shop/{module}.rs"));
        let source = fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
        ensure!(source.contains(&format!("fn {name}(")), "{}: there is no test {}", row.thing, row.test);
    }
    Ok(())
}
