//! Shows how far an audit is, on standard error when that is a terminal.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar, or nothing.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// A bar when standard error is a terminal.
    #[must_use]
    pub(crate) fn on_terminal() -> Self {
        Self(std::io::stderr().is_terminal().then(ProgressBar::new_spinner))
    }

    /// Begins a step of about this many rows or records. 0 means that nobody knows how many.
    pub(super) fn begin(&self, what: &str, total: u64) {
        let Some(bar) = &self.0 else { return };
        let template = if total == 0 {
            "{spinner} {msg} {human_pos} {elapsed}"
        } else {
            "{spinner} {msg} {human_pos}/{human_len} {wide_bar} {eta}"
        };
        bar.reset();
        bar.set_length(total);
        bar.set_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
    }

    /// More of the step is done.
    pub(super) fn add(&self, count: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(count);
        }
    }

    /// Removes the bar from the screen.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
