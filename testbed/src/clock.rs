//! A wall clock for one process, which a test can set while the process runs.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result};
use tempfile::NamedTempFile;

use crate::artifacts;

const SOURCE: &str = include_str!("clock/jump.c");

/// The wall clock of processes that run with [`Clock::environment`]. It changes neither their
/// monotonic clock nor the wall clock of other processes.
#[derive(Debug)]
pub struct Clock {
    ahead: NamedTempFile,
    library: PathBuf,
}

impl Clock {
    /// A clock that shows the right time. Needs a C compiler.
    pub fn new() -> Result<Self> {
        let mut hasher = DefaultHasher::new();
        SOURCE.hash(&mut hasher);
        let built = artifacts::once(&format!("clock-{:016x}", hasher.finish()), "the clock", |dir| {
            let source = dir.join("jump.c");
            std::fs::write(&source, SOURCE)?;
            let mut compiler = Command::new("cc");
            compiler.args(["-shared", "-fPIC", "-O2", "-o"]).arg(dir.join("jump.so")).arg(source).arg("-ldl");
            artifacts::run(&mut compiler)
        })?;
        let clock = Self { ahead: NamedTempFile::new()?, library: built.join("jump.so") };
        clock.set(0)?;
        Ok(clock)
    }

    /// Makes the clock jump to this many seconds ahead of the machine's clock; a negative number is
    /// behind it.
    pub fn set(&self, seconds: i64) -> Result<()> {
        self.ahead.as_file().write_all_at(&seconds.to_ne_bytes(), 0).context("setting a clock")
    }

    /// The environment of a process that uses the clock.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 2] {
        let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
        [("LD_PRELOAD", path(&self.library)), ("TESTBED_CLOCK", path(self.ahead.path()))]
    }
}
