//! The one door: what a person wrote becomes the configuration, with librdkafka's word on its own options, before any
//! command touches a server. Whatever is wrong ends the command with exit code 2.

use crate::{Config, Result, config::Flags, kafka};

/// Reads the configuration that the flags name.
///
/// # Errors
/// Class [`Config`](crate::Class::Config); the message names the place, the key, what was found and what is allowed.
pub(crate) fn open(flags: &Flags) -> Result<Config> {
    Config::load(flags, kafka::judge)
}
