//! The majors under test, and where their binaries are.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Result, bail};

use crate::artifacts;

/// A Postgres major.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Version {
    V15,
    V16,
    V17,
    V18,
}

impl Version {
    /// All majors, the oldest first.
    pub const ALL: [Self; 4] = [Self::V15, Self::V16, Self::V17, Self::V18];

    /// The number, 15 to 18.
    #[must_use]
    pub fn major(self) -> u32 {
        match self {
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }

    fn published(self) -> &'static str {
        match self {
            Self::V15 => "15.19.0",
            Self::V16 => "16.15.0",
            Self::V17 => "17.11.0",
            Self::V18 => "18.6.0",
        }
    }

    /// The installation. It is Debian's where that is installed, and else Maven's, which is
    /// downloaded at the first use.
    pub fn install(self) -> Result<PathBuf> {
        let debian = Path::new("/usr/lib/postgresql").join(self.major().to_string());
        if debian.join("bin/initdb").exists() { Ok(debian) } else { artifacts::postgres(self.published()) }
    }
}

impl FromStr for Version {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|v| v.major().to_string() == text) {
            Some(version) => Ok(version),
            None => bail!("Postgres {text} is not one of 15, 16, 17, 18"),
        }
    }
}
