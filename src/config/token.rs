//! Where the token of SASL/OAUTHBEARER comes from.

use std::path::PathBuf;

/// Looked up again whenever librdkafka needs a token, since tokens expire while daemons run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// A file has it, which somebody keeps fresh.
    File(PathBuf),
    /// A program prints it. There is at least the program.
    Command(Vec<String>),
}

impl TokenSource {
    /// The key that names it in the configuration.
    #[must_use]
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::File(_) => "token_file",
            Self::Command(_) => "token_command",
        }
    }
}
