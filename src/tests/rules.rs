//! Compares `docs/rules.md` with the repository. The page has each rule that a file cites, and the
//! files and tests that the page names exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Files and folders that may cite a rule by its number.
const CITING: &[&str] = &[
    "src",
    "tests",
    "testbed/src",
    "testbed/tests",
    "benches",
    "docs",
    "migrations",
    "config",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
];

/// The parts of each rule, in this order.
const PARTS: &[&str] = &["**Why.**", "**Source.**", "**Kept in.**", "**Tests.**"];

/// This file is not read, since its citations are only examples.
const THIS_FILE: &str = "src/tests/rules.rs";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Finds all text files under `path`, or `path` itself. It skips what a fuzzer or a benchmark
/// keeps.
fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let skipped = ["target", "corpus", "results", "baseline", "profile", "seed"];
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap().path();
            if !entry.file_name().and_then(|name| name.to_str()).is_some_and(|name| skipped.contains(&name)) {
                files(&entry, found);
            }
        }
        return;
    }
    let text = ["rs", "md", "toml", "sql", "yml", "service", "txt"];
    if path.extension().and_then(|extension| extension.to_str()).is_some_and(|extension| text.contains(&extension)) {
        found.push(path.to_owned());
    }
}

/// The words of a text, without the marks that begin a line of a comment or of a list.
fn words(text: &str) -> Vec<&str> {
    let marks = ["//", "///", "//!", "--", "#", "-"];
    text.split_whitespace().filter(|word| !marks.contains(word)).collect()
}

/// The number at the beginning of a word such as `7:`, `4's` or `24).`, and the rest of the word.
fn number(word: &str) -> Option<(u32, &str)> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, rest) = word.split_at(digits);
    // `1.95` and `4.4.0` are versions.
    let fraction = rest.strip_prefix('.').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    number.parse().ok().filter(|_| !fraction).map(|number| (number, rest))
}

/// Each rule that a text cites: `rule 7`, `rules 2, 4, 7`, `Rules 22 to 24`, `rules 4 and 18`.
fn cited(text: &str) -> Vec<u32> {
    let words = words(text);
    let mut rules = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let word = word.trim_start_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
        if word != "rule" && word != "rules" {
            continue;
        }
        let mut rest = words[at + 1..].iter().copied().peekable();
        let mut from = None;
        while let Some((found, behind)) = rest.next().and_then(number) {
            rules.extend(from.take().unwrap_or(found)..=found);
            match (behind, rest.peek()) {
                ("" | ",", Some(&("and" | "or"))) => drop(rest.next()),
                ("", Some(&"to")) => from = rest.next().map(|_| found + 1),
                (",", _) => {}
                _ => break,
            }
        }
    }
    rules
}

/// The text of each rule in `docs/rules.md`, by its number.
fn rules() -> BTreeMap<u32, String> {
    let text = read("docs/rules.md");
    let sections = text.split("\n## Rule ").skip(1);
    let rules: Vec<(u32, String)> = sections
        .map(|section| {
            let (number, rest) = section.split_once(": ").unwrap_or_else(|| panic!("no title: {section}"));
            (number.parse().unwrap_or_else(|_| panic!("no number: {section}")), rest.to_owned())
        })
        .collect();
    let numbers: Vec<u32> = rules.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=u32::try_from(rules.len()).unwrap()).collect::<Vec<_>>(), "the rules stand in order");
    rules.into_iter().collect()
}

/// The part of a rule that begins with `name`, up to the next part.
fn part<'a>(rule: &'a str, name: &str) -> &'a str {
    let (_, rest) = rule.split_once(name).unwrap_or_else(|| panic!("no {name} in: {rule}"));
    PARTS
        .iter()
        .filter_map(|next| rest.split_once(next))
        .map(|(part, _)| part)
        .min_by_key(|part| part.len())
        .unwrap_or(rest)
}

/// The parts of a text that stand in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The names of all tests, and of the bugs that the simulation puts in on purpose.
fn tests() -> BTreeSet<String> {
    let mut found = Vec::new();
    for folder in ["src", "tests", "testbed"] {
        files(&root().join(folder), &mut found);
    }
    let mut names = BTreeSet::new();
    for text in found.iter().map(|file| fs::read_to_string(file).unwrap()) {
        let mut lines = text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            if line == "#[test]" || line.starts_with("#[tokio::test") {
                // Other attributes may stand between. An ignored test counts, since `make soak`
                // runs it.
                let name = lines.by_ref().find_map(|line| line.split_once("fn ").map(|(_, rest)| rest));
                names.extend(name.and_then(|name| name.split('(').next()).map(str::to_owned));
            }
            // Properties stand within `proptest!`, in the same form.
        }
    }
    let bugs = read("tests/simulation/bugs.rs");
    names.extend(bugs.split("(Self::").skip(1).filter_map(|bug| bug.split(',').next()).map(str::to_owned));
    names
}

#[test]
fn a_citation_is_known_in_each_of_its_forms() {
    for (text, expected) in [
        ("// Rule 7: inside", vec![7]),
        ("(rules 22 to 24)", vec![22, 23, 24]),
        ("(rules 2, 4, 7).", vec![2, 4, 7]),
        ("Rules 2 and 3: the", vec![2, 3]),
        ("takes turns (rule\n    /// 26), or", vec![26]),
        ("Rule 4's test", vec![4]),
        ("rule 9. 3 connections", vec![9]),
        ("no rule of order, and 5 rows", vec![]),
        ("the rule 1.95 of", vec![]),
        ("| rule 7 | 1 | 1246 |", vec![7]),
    ] {
        assert_eq!(cited(text), expected, "{text:?}");
    }
}

#[test]
fn every_rule_that_is_cited_stands_in_the_list() {
    let (rules, mut citing) = (rules(), Vec::new());
    for path in CITING {
        assert!(root().join(path).exists(), "{path} is gone");
        files(&root().join(path), &mut citing);
    }
    let mut citations = 0;
    let mut unknown = Vec::new();
    for file in citing.iter().filter(|file| !file.ends_with(THIS_FILE)) {
        for number in cited(&fs::read_to_string(file).unwrap()) {
            citations += 1;
            if !rules.contains_key(&number) {
                unknown.push(format!("{}: rule {number}", file.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "not in docs/rules.md:\n{}", unknown.join("\n"));
    // If there are fewer, the search itself is broken.
    assert!(citations > 90, "{citations} citations were found");
}

#[test]
fn every_rule_says_why_and_whence_and_names_files_and_tests_that_exist() {
    let tests = tests();
    let mut wrong = Vec::new();
    for (number, rule) in rules() {
        for name in PARTS {
            let said = part(&rule, name).trim();
            if said.len() < 10 {
                wrong.push(format!("rule {number} says nothing at {name}"));
            }
        }
        for path in quoted(part(&rule, PARTS[2])) {
            let is_path = path.contains('/');
            if is_path && !root().join(path).exists() {
                wrong.push(format!("rule {number}: there is no file {path}"));
            }
        }
        for test in quoted(part(&rule, PARTS[3])) {
            if !tests.contains(test) {
                wrong.push(format!("rule {number}: there is no test {test}"));
            }
        }
    }
    assert!(wrong.is_empty(), "docs/rules.md:\n{}", wrong.join("\n"));
}
