//! `docs/commands.md` is made from the command line itself, and what the other pages call is in it.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use clap::{Command, CommandFactory};
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
use testbed::documents;

use super::Cli;

/// The pages of the documentation wrap at 100 columns.
const COLUMNS: usize = 100;

const HEAD: &str = "# Commands

```sh
outboxd --help
```

What each command says with `--help`. `cargo test --lib documented` compares this page with the
program, and writes it with `OUTBOXD_WRITE_DOCS=1`.
";

fn section(page: &mut String, name: &str, command: &mut Command) {
    let help = command.render_long_help().to_string();
    let lines: Vec<_> = help.trim_end().lines().map(str::trim_end).collect();
    // Writing to a string cannot fail.
    let _ = write!(page, "\n## {name}\n\n```text\n{}\n```\n", lines.join("\n"));
}

#[test]
fn the_page_of_the_commands_says_what_help_says() {
    // The page must not depend on the environment of whoever writes it.
    let mut cli = Cli::command()
        .term_width(COLUMNS)
        .mut_subcommands(|command| command.mut_args(|argument| argument.hide_env_values(true)));
    cli.build();
    let mut page = HEAD.to_owned();
    section(&mut page, "outboxd", &mut cli);
    for command in cli.get_subcommands_mut().filter(|command| command.get_name() != "help") {
        let name = format!("outboxd {}", command.get_name());
        section(&mut page, &name, command);
    }
    documents::holds("docs/commands.md", &page).unwrap();
}

/// Every page that a person reads.
fn pages() -> Vec<PathBuf> {
    fn visit(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => visit(&path, found),
                Some(extension) if extension == "md" => found.push(path),
                _ => {}
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![root.join("README.md"), root.join("examples/shop/README.md")];
    visit(&root.join("docs"), &mut found);
    found
}

/// The calls of `outboxd` in a page: in its code, up to what belongs to the shell.
fn calls(page: &str) -> Vec<String> {
    let mut calls = Vec::new();
    let mut language = None;
    for event in Parser::new(page) {
        let text = match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(name))) => {
                language = Some(name.to_string());
                continue;
            }
            Event::End(TagEnd::CodeBlock) => {
                language = None;
                continue;
            }
            Event::Code(text) => text,
            Event::Text(text) if matches!(language.as_deref(), Some("sh" | "")) => text,
            _ => continue,
        };
        for line in text.replace("\\\n", " ").lines() {
            let command = line.trim_start_matches(['$', ' ']).trim_start_matches("sudo ");
            if let Some(arguments) = command.strip_prefix("outboxd ") {
                let end = arguments.find([';', '|', '#', '>', '&']).unwrap_or(arguments.len());
                calls.push(arguments[..end].trim().to_owned());
            }
        }
    }
    calls
}

/// What the command line does not know of a call. `…` and names in capitals stand for anything.
fn unknown(cli: &Command, call: &str) -> Option<String> {
    let mut words = call.split_whitespace();
    let first = words.next().unwrap_or_default();
    let is_flag = |word: &str| word.starts_with("--");
    let command = match first {
        "…" | "…," => return None,
        _ if is_flag(first) => cli,
        name => match cli.find_subcommand(name) {
            Some(command) => command,
            None => return Some(format!("there is no command {name}")),
        },
    };
    let flags: Vec<_> = std::iter::once(first).chain(words).filter(|word| is_flag(word)).collect();
    let known = |flag: &str| {
        let name = flag.trim_start_matches("--").split('=').next().unwrap_or_default();
        let name = name.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        matches!(name, "help" | "version") || command.get_arguments().any(|argument| argument.get_long() == Some(name))
    };
    let flag = flags.into_iter().find(|flag| !known(flag))?;
    Some(format!("{} has no {flag}", command.get_name()))
}

#[test]
fn every_call_in_the_documentation_names_a_command_and_flags_that_there_are() {
    let mut cli = Cli::command();
    cli.build();
    assert!(unknown(&cli, "recover --stratgy from-now").is_some());
    assert!(unknown(&cli, "recovr --strategy from-now").is_some());
    let (mut seen, mut problems) = (0, Vec::new());
    for path in pages() {
        for call in calls(&std::fs::read_to_string(&path).unwrap()) {
            // Lines of the log begin like a call.
            if call.starts_with("starts") || call.starts_with("ends") {
                continue;
            }
            seen += 1;
            let problem = unknown(&cli, &call);
            problems.extend(problem.map(|problem| format!("{}: `outboxd {call}`: {problem}", path.display())));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(seen > 100, "only {seen} calls were found");
}
