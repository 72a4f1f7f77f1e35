//! `docs/commands.md` is made from the command line itself.

use std::fmt::Write as _;

use clap::{Command, CommandFactory};
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
