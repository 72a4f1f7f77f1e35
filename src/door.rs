//! The one door of all commands. It turns what a person wrote into the configuration, and
//! librdkafka judges its own options, before any command touches a server. Whatever is wrong ends
//! the command with exit code 2.

use crate::{
    Config, Result,
    config::{Flags, Sources},
    kafka,
};

/// Reads the configuration that the flags name.
///
/// # Errors
/// Class [`Config`](crate::Class::Config). The message names the place, the key, what was found and
/// what is allowed.
pub(crate) fn open(flags: &Flags) -> Result<Config> {
    Config::load(flags, kafka::judge)
}

/// Reads the sources alone, for a command that needs no Kafka. Nothing judges what stands under
/// `[kafka]`, but for the position topic.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_sources(flags: &Flags) -> Result<Sources> {
    Config::load_sources(flags)
}
