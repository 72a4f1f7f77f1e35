//! Shows progress: two bars and a status on a terminal, and a line every two seconds elsewhere.

use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressStyle};

use super::watch::Lag;

const LINE_EVERY: Duration = Duration::from_secs(2);

/// The progress at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) transactions: u64,
    pub(crate) rows: u64,
    pub(crate) records: u64,
    /// `None` while the daemon is down.
    pub(crate) lag: Option<Lag>,
}

pub(crate) struct Screen {
    started: Instant,
    target: u64,
    bars: Option<Bars>,
    last_line: Mutex<Instant>,
}

struct Bars {
    all: MultiProgress,
    written: ProgressBar,
    read: ProgressBar,
    status: ProgressBar,
}

impl Screen {
    /// `target` is the number of transactions.
    pub(crate) fn new(target: u64) -> Self {
        let now = Instant::now();
        let bars = std::io::stdout().is_terminal().then(|| Bars::new(target));
        Self { started: now, target, bars, last_line: Mutex::new(now) }
    }

    /// Prints a line that stays, with the time.
    pub(crate) fn say(&self, text: &str) {
        self.print(&format!("{:>6.1} s  {text}", self.started.elapsed().as_secs_f64()));
    }

    /// Prints a line that stays.
    pub(crate) fn print(&self, text: &str) {
        match &self.bars {
            // The bars are drawn on standard error, and a printed line must not break them.
            Some(bars) => bars.all.suspend(|| println!("{text}")),
            None => println!("{text}"),
        }
    }

    pub(crate) fn show(&self, now: Standing) {
        if let Some(bars) = &self.bars {
            bars.show(now);
            return;
        }
        let mut last = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() < LINE_EVERY {
            return;
        }
        *last = Instant::now();
        self.say(&format!(
            "  {} of {} transactions   {} rows   {} records read   {}",
            HumanCount(now.transactions),
            HumanCount(self.target),
            HumanCount(now.rows),
            HumanCount(now.records),
            status(now)
        ));
    }

    /// Takes the bars away.
    pub(crate) fn finish(&self) {
        if let Some(bars) = &self.bars {
            for bar in [&bars.written, &bars.read, &bars.status] {
                bar.finish_and_clear();
            }
        }
    }
}

impl Bars {
    fn new(target: u64) -> Self {
        let all = MultiProgress::new();
        let bar = |length: u64, template: &str| {
            let bar = all.add(ProgressBar::new(length));
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("━━╌"));
            }
            bar
        };
        let written = bar(target, "  written  {bar:40.cyan} {human_pos:>7} of {human_len} transactions");
        let read = bar(1, "  read     {bar:40.green} {human_pos:>7} of {human_len} rows");
        let status = bar(1, "  {msg}");
        Self { all, written, read, status }
    }

    fn show(&self, now: Standing) {
        self.written.set_position(now.transactions);
        self.read.set_length(now.rows.max(1));
        self.read.set_position(now.records);
        self.status.set_message(status(now));
    }
}

/// The writers and the consumer count the rows. The lag in seconds comes from the daemon.
fn status(now: Standing) -> String {
    let behind = HumanCount(now.rows.saturating_sub(now.records)).to_string();
    match now.lag {
        None => format!("{behind} rows behind, outboxd is down"),
        Some(Lag { seconds, streaming }) => {
            format!("{behind} rows behind, lag {seconds:.1} s, {streaming} of 3 sources streaming")
        }
    }
}
