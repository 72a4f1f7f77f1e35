//! The command line: arguments → configuration → one command → exit code. One file for each
//! command.

mod check;
#[cfg(test)]
mod documented;
mod explain;
mod output;
mod purge;
mod recover;
mod reload;
mod replay;
mod run;
mod setup;
mod status;
mod tail;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{Class, Error, Result, door, runtime::on_runtime};

/// Carries the rows of a Postgres outbox table to Kafka, exactly once, in commit order.
#[derive(Parser)]
#[command(
    name = "outboxd",
    version,
    max_term_width = 120,
    arg_required_else_help = true,
    after_help = "Example:\n  outboxd check --config /etc/outboxd/outboxd.toml\n\n\
                  Exit codes:\n  0  done\n  1  check or verify found something, or the command failed\n  \
                  2  bad arguments or configuration\n  3  halted: a person has to act"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Publish until SIGTERM or SIGINT, then drain. SIGHUP reads the configuration again.
    #[command(after_help = "Examples:\n  outboxd run --config /etc/outboxd/outboxd.toml\n  \
                            outboxd run --source-url postgres://outboxd@localhost/orders --table order_outbox --brokers kafka:9092\n  \
                            outboxd run --config /etc/outboxd/outboxd.toml --until-idle")]
    Run(#[command(flatten)] run::RunArgs),
    /// Test every precondition and say what is missing.
    #[command(after_help = "Example:\n  outboxd check --config /etc/outboxd/outboxd.toml")]
    Check(#[command(flatten)] check::CheckArgs),
    /// Create what is missing: table, grants, publication, slot, topics.
    #[command(after_help = "Examples:\n  outboxd setup --config /etc/outboxd/outboxd.toml --dry-run\n  \
                            outboxd setup --config /etc/outboxd/outboxd.toml --source order --add-table refund_outbox")]
    Setup(#[command(flatten)] setup::SetupArgs),
    /// Show where each source stands: phase, position, lag, slot, unpublished rows, and what the
    /// daemon on this machine does. Works while none runs.
    #[command(after_help = "Examples:\n  outboxd status --config /etc/outboxd/outboxd.toml\n  \
                            outboxd status --config /etc/outboxd/outboxd.toml --json")]
    Status(#[command(flatten)] status::StatusArgs),
    /// Show events as they commit, as they would be sent, from a temporary slot. Needs no Kafka and
    /// marks nothing.
    #[command(after_help = "Examples:\n  outboxd tail --config /etc/outboxd/outboxd.toml\n  \
                            outboxd tail --config /etc/outboxd/outboxd.toml --topic order.events --type OrderCreated | jq .value\n  \
                            outboxd tail --config /etc/outboxd/outboxd.toml --unpublished --limit 10")]
    Tail(#[command(flatten)] tail::TailArgs),
    /// Hold the tables against the topics: missing, duplicated, out of order, unmarked, unknown.
    /// Changes nothing.
    #[command(after_help = "Examples:\n  outboxd verify --config /etc/outboxd/outboxd.toml\n  \
                            outboxd verify --config /etc/outboxd/outboxd.toml --since 24h --json\n\n\
                            Exit codes: 0 clean, 1 a difference, 2 bad arguments or configuration.")]
    Verify(#[command(flatten)] verify::VerifyArgs),
    /// Go on after a halt, in a way that a person chooses. Says first what may be lost or repeated.
    #[command(
        after_help = "Example:\n  outboxd recover --config /etc/outboxd/outboxd.toml --source order --strategy republish-unmarked\n\n\
                            docs/errors.md says for each halt which strategy fits."
    )]
    Recover(#[command(flatten)] recover::RecoverArgs),
    /// Publish chosen rows again, to their topics or to another one, each once for each request.
    /// A request that was interrupted goes on where it stopped. Touches no mark, slot or position.
    #[command(
        after_help = "Examples:\n  outboxd replay --config /etc/outboxd/outboxd.toml --type OrderCreated --since 2026-11-01T00:00:00Z --dry-run\n  \
                            outboxd replay --config /etc/outboxd/outboxd.toml --source order --key 7b0e --to order.repair\n  \
                            outboxd replay --config /etc/outboxd/outboxd.toml --all --request rebuild-1 --rate 500\n\n\
                            Exit codes: 0 every row is published, 1 interrupted or failed: the same request goes on, \
                            2 bad arguments or configuration, 3 a row that a person has to look at."
    )]
    Replay(#[command(flatten)] replay::ReplayArgs),
    /// Let published rows go, once: in small batches, or with their partition. Never an unpublished
    /// row. `[source.retention]` lets `run` do the same now and then.
    #[command(
        after_help = "Examples:\n  outboxd purge --config /etc/outboxd/outboxd.toml --older-than 7d --dry-run\n  \
                            outboxd purge --config /etc/outboxd/outboxd.toml --source order --by partition --older-than 7d"
    )]
    Purge(#[command(flatten)] purge::PurgeArgs),
    /// Say what an error code means, where to look, and the way back.
    #[command(after_help = "Examples:\n  outboxd explain slot-missing\n  outboxd explain ways-back\n\n\
                            A daemon shows the same text at /runbook.")]
    Explain(#[command(flatten)] explain::ExplainArgs),
}

impl Cli {
    /// Runs the command.
    #[must_use]
    pub fn execute(self) -> ExitCode {
        self.outcome().unwrap_or_else(|error| {
            output::complain(&told(&error));
            exit_code(&error)
        })
    }

    fn outcome(self) -> Result<ExitCode> {
        match self.command {
            Command::Run(args) => {
                let config = door::open(&args.flags)?;
                match args.until_idle {
                    true => on_runtime(run::run(config, None, run::relay_until_idle)),
                    false => on_runtime(run::run(config, Some(args.flags), run::relay)),
                }
            }
            Command::Check(args) => {
                let config = door::open(&args.flags)?;
                on_runtime(check::check(config, args.json))
            }
            Command::Setup(args) => {
                let config = door::open(&args.flags)?;
                let options = args.options()?;
                on_runtime(setup::setup(config, options))
            }
            Command::Status(args) => {
                let config = door::open(&args.flags)?;
                on_runtime(status::status(config, args.json, args.exit_code))
            }
            Command::Tail(args) => {
                let sources = args.chosen(door::open_sources(&args.flags)?)?;
                on_runtime(tail::tail(sources, args.options()))
            }
            Command::Verify(args) => {
                let config = door::open(&args.flags)?;
                on_runtime(verify::verify(config, args.request()))
            }
            Command::Replay(args) => {
                let config = door::open(&args.flags)?;
                on_runtime(replay::replay(config, args))
            }
            Command::Purge(args) => {
                let config = door::open(&args.flags)?;
                on_runtime(purge::purge(config, args))
            }
            Command::Explain(args) => explain::explain(&args),
            Command::Recover(args) => {
                let config = door::open(&args.flags)?;
                on_runtime(recover::recover(config, args.options()))
            }
        }
    }
}

/// Shows `error[code]: message`, the next step, and where more of it stands.
fn told(error: &Error) -> String {
    let code = error.code();
    format!("error[{code}]: {}\n  hint: {}\n  more: outboxd explain {code}", error.detail(), code.advice())
}

/// The exit codes are a contract: 2 and 3 tell systemd not to start the daemon again.
fn exit_code(error: &Error) -> ExitCode {
    ExitCode::from(match error.class() {
        Class::Config => 2,
        Class::Halt => 3,
        Class::Retry | Class::Rebuild => 1,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{run::RunArgs, *};
    use crate::{Code, Config};

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example_and_no_secret_of_the_environment() {
        let mut command = Cli::command();
        for command in command.get_subcommands_mut() {
            let name = command.get_name().to_owned();
            let help = command.render_long_help().to_string();
            assert!(help.contains(&format!("  outboxd {name} ")), "{help}");
            for argument in command.get_arguments() {
                let carries_a_secret =
                    ["source_url", "admin_url", "kafka_options"].contains(&argument.get_id().as_str());
                assert!(
                    !carries_a_secret || argument.is_hide_env_values_set(),
                    "{} shows its variable",
                    argument.get_id()
                );
            }
        }
    }

    #[test]
    fn a_sidecar_is_described_by_flags() {
        let arguments = [
            "outboxd",
            "run",
            "--source-url",
            "postgres://u@db/shop",
            "--table",
            "a,b",
            "--table",
            "c",
            "--column",
            "id=event_id,payload=body",
            "--column",
            "created_at=at",
            "--brokers",
            "k",
        ];
        let Command::Run(RunArgs { flags, .. }) =
            Cli::try_parse_from(arguments).map_err(|error| error.to_string()).unwrap().command
        else {
            panic!("not run");
        };
        assert_eq!(flags.source.tables, ["a", "b", "c"]);
        assert_eq!(flags.source.columns, ["id=event_id", "payload=body", "created_at=at"]);
        assert_eq!(Config::load_with(&flags, &|_| None).unwrap().sources[0].name, "shop");
    }

    #[test]
    fn tail_takes_filters_where_other_commands_take_templates() {
        let arguments = ["outboxd", "tail", "--topic", "a", "--topic", "b", "--key", "k", "--topic-template", "{t}"];
        let Command::Tail(args) = Cli::try_parse_from(arguments).map_err(|error| error.to_string()).unwrap().command
        else {
            panic!("not tail");
        };
        assert_eq!(args.flags.source.topic.as_deref(), Some("{t}"));
        assert_eq!(args.flags.source.key, None);
        let options = args.options();
        assert_eq!(options.wanted.topics, ["a", "b"]);
        assert_eq!(options.wanted.keys, ["k"]);
    }

    #[test]
    fn an_error_is_shown_with_its_code_and_its_hint() {
        let error = Error::new(Code::SlotMissing, "slot outboxd_order");
        assert_eq!(
            told(&error),
            "error[slot-missing]: slot outboxd_order\n  hint: the slot was dropped: see the runbook, then `outboxd recover`\n  \
             more: outboxd explain slot-missing"
        );
    }
}
