//! Which lines of the log are written: a level, and other levels for some targets.

use std::{fmt, str::FromStr};

use tracing_subscriber::filter::{Directive, EnvFilter};

/// The levels by name, as messages list them.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A filter of log lines, such as `info` or `info,outboxd::relay=debug`. Once it is parsed it
/// cannot be wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter {
    first: Directive,
    rest: Vec<Directive>,
}

impl LogFilter {
    /// The filter in the form that `tracing` needs.
    pub(crate) fn to_env_filter(&self) -> EnvFilter {
        // An empty text leaves only the default directive.
        let first = EnvFilter::builder().with_default_directive(self.first.clone()).parse_lossy("");
        self.rest.iter().cloned().fold(first, EnvFilter::add_directive)
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self { first: tracing::Level::INFO.into(), rest: Vec::new() }
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let levels = LEVELS.join(", ");
            format!("found {text:?}; allowed: {levels}, or a filter such as \"info,outboxd::relay=debug\"")
        };
        let directive = |part: &str| names_a_level(part).then(|| part.parse().ok()).flatten();
        let mut directives = text.split(',').map(|part| directive(part).ok_or_else(wrong));
        // `split` gives at least one part.
        let first = directives.next().ok_or_else(wrong)??;
        Ok(Self { first, rest: directives.collect::<Result<_, _>>()? })
    }
}

/// `tracing` itself takes a word such as `inof` for the name of a module, and then logs nothing
/// else.
fn names_a_level(part: &str) -> bool {
    let is_level = |word: &str| LEVELS.contains(&word.trim().to_ascii_lowercase().as_str());
    match part.rsplit_once('=') {
        Some((target, level)) => !target.trim().is_empty() && is_level(level),
        None => is_level(part),
    }
}

/// Shows the filter as the configuration could have it.
impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        self.rest.iter().try_for_each(|directive| write!(f, ",{directive}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_the_one_that_tracing_reads_from_the_same_text() {
        for text in [
            "info",
            "OFF",
            "debug,librdkafka=trace",
            "outboxd::relay=debug,warn",
            "outboxd=debug",
            "a=info,a=debug",
            "outboxd[source{source=order}]=debug,error",
        ] {
            let filter: LogFilter = text.parse().unwrap();
            assert_eq!(filter.to_env_filter().to_string(), EnvFilter::new(text).to_string(), "{text}");
        }
        assert_eq!(LogFilter::default(), "info".parse().unwrap());
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for text in ["", "inof", "info,", ",", "outboxd", "=debug", "outboxd=loud", "info,outboxd"] {
            assert!(text.parse::<LogFilter>().is_err(), "{text:?} was taken for a filter");
        }
    }
}
