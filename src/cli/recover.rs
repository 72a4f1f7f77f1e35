//! `outboxd recover`: the way back from a halt. The command says what may be lost or repeated,
//! asks, and acts only then.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    process::ExitCode,
};

use clap::Args;

use super::output::print;
use crate::{
    Code, Config, Error, Result,
    config::Flags,
    recover::{Next, Plan, Recovery, Strategy},
};

/// The arguments of `recover`.
#[derive(Args)]
pub(super) struct RecoverArgs {
    /// The source that halted.
    #[arg(long, value_name = "NAME")]
    source: String,
    /// The way back.
    #[arg(long, value_enum)]
    strategy: Strategy,
    /// Do it without asking.
    #[arg(long)]
    yes: bool,
    /// Also where nothing shows that would halt the source, as with a history that diverged on the
    /// same timeline. A source from which a daemon streams is refused all the same.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

impl RecoverArgs {
    pub(super) fn options(&self) -> RecoverOptions {
        let Self { source, strategy, yes, force, .. } = self;
        RecoverOptions { source: source.clone(), strategy: *strategy, yes: *yes, force: *force }
    }
}

/// What a person chose.
#[derive(Debug, Clone)]
pub(super) struct RecoverOptions {
    source: String,
    strategy: Strategy,
    yes: bool,
    force: bool,
}

/// The exit code is 0 when the source can be started again. A command that is refused has changed
/// nothing.
pub(super) async fn recover(config: Config, options: RecoverOptions) -> Result<ExitCode> {
    let source = config.source(&options.source)?;
    let recovery = Recovery::begin(source, &config.kafka).await?;
    let plan = recovery.plan(options.strategy, options.force)?;
    print(|out| plan.print(source, out))?;
    if !options.yes {
        confirm(&source.name)?;
    }
    // The reader of the output may be gone. The recovery must not end half-way because of that.
    let say = |step: &str| drop(writeln!(io::stdout(), "  {step}"));
    recovery.carry_out(&plan, by(), say).await?;
    print(|out| writeln!(out, "done: {}", what_next(&plan)))?;
    Ok(ExitCode::SUCCESS)
}

fn what_next(plan: &Plan) -> &'static str {
    match plan.next {
        Next::DropSlot => "start the daemon; it makes the slot and publishes what is unmarked",
        Next::KeepSlot | Next::NewSlot => "start the daemon",
    }
}

/// On a terminal a person has to type the name of the source, which nobody does by accident.
fn confirm(name: &str) -> Result<()> {
    let refused = |text: &str| Err(Error::new(Code::RecoverRefused, text));
    if !io::stdin().is_terminal() {
        return refused("nobody can be asked here: give --yes to agree to the above");
    }
    let _ = write!(io::stderr(), "Type the source's name to go on: ");
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    if read.is_ok() && line.trim() == name { Ok(()) } else { refused("the name was not typed") }
}

/// `user@host`, as far as the environment tells.
pub(super) fn by() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}@{}", user.as_deref().unwrap_or("unknown"), host.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_that_is_not_configured_is_a_configuration_error() {
        let config = Config::of_names(&["order", "user"]);
        let source = "ordr".to_owned();
        let options = RecoverOptions { source, strategy: Strategy::RepublishUnmarked, yes: true, force: false };
        assert_eq!(
            recover(config, options).await.unwrap_err().to_string(),
            "config-invalid: there is no source \"ordr\"; the configuration has order, user"
        );
    }
}
