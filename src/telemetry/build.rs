//! What this program was built of.

/// The version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, where the build knew it (`build.rs`).
pub(crate) const COMMIT: &str = match option_env!("OUTBOXD_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
