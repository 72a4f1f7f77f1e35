//! The page for a person: where each source stands, why it stands still, and its last hour.
//!
//! The server writes it as a whole, and a short script puts what has changed in its place. Without
//! the script the browser asks again by itself. Nothing comes from elsewhere.

#[cfg(test)]
mod documented;
mod picture;

use std::time::{Duration, SystemTime};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{
    Lsn, runbook,
    source::standing::{LastError, SlotStanding, SourceState},
    telemetry::View,
};

/// The look of the pages.
pub(super) const STYLE: &str = include_str!("page.css");

/// What keeps the page up to date.
pub(super) const SCRIPT: &str = include_str!("page.js");

/// The page over these sources. `stopping`: the daemon drains.
pub(super) fn page(sources: &[View], stopping: bool, now: SystemTime) -> Markup {
    let content = html! {
        header {
            h1 { "outboxd" }
            p { "Version " (env!("CARGO_PKG_VERSION")) @if stopping { ", draining before it stops" } }
        }
        p #silent role="alert" hidden {
            "The daemon does not answer. What stands here is from " time { } "."
        }
        main {
            @for source in sources { (article(source, now)) }
            @if sources.is_empty() { p { "No source is running." } }
        }
        footer {
            a href="/runbook" { "Runbook" } " · " a href="/status" { "Status as JSON" } " · " a href="/metrics" { "Metrics" }
        }
        noscript { meta http-equiv="refresh" content="5"; }
        script src="/page.js" defer { }
    };
    document("outboxd", &content)
}

/// The runbook.
pub(super) fn runbook_page() -> Markup {
    let content = html! {
        p { a href="/" { "Where the sources stand" } }
        main .runbook { (PreEscaped(runbook::as_html())) }
    };
    document("outboxd: runbook", &content)
}

fn document(title: &str, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="stylesheet" href="/page.css";
            }
            body { (content) }
        }
    }
}

fn article(view: &View, now: SystemTime) -> Markup {
    let standing = &view.standing;
    let id = format!("source-{}", standing.source);
    let state = standing.state().unwrap_or(SourceState::Starting);
    let daemon = standing.daemon.as_ref();
    let trouble = daemon.and_then(|daemon| daemon.last_error.as_ref()).filter(|error| error.healed_at.is_none());
    html! {
        article id=(id) aria-labelledby=(format!("{id}-name")) {
            h2 id=(format!("{id}-name")) { (standing.source) }
            p .state data-state=(state.as_str()) {
                strong { (state.as_str()) }
                @if let Some(daemon) = daemon { " for " (span(now.duration_since(daemon.since).unwrap_or_default())) }
                " — " (meaning(state))
            }
            @if let Some(error) = trouble { (why(error)) }
            dl {
                (fact("Lag", &seconds(standing.lag_seconds)))
                (fact("Published", &view.rate.map_or_else(unknown, |rate| format!("{} rows/s", rounded(rate)))))
                (fact("Unpublished rows", &standing.unpublished_rows.map_or_else(unknown, |rows| rows.to_string())))
                (fact("Position", &lsn(standing.position)))
                (slot(standing.slot.as_ref()))
            }
            figure {
                (picture::lag(&view.history, view.now))
                figcaption { "Lag over the last hour" }
            }
            @if !view.errors.is_empty() { (last_errors(&view.errors, now)) }
        }
    }
}

fn why(error: &LastError) -> Markup {
    let problem = &error.problem;
    html! {
        section .why {
            p { a href=(format!("/runbook#{}", problem.code)) { (problem.code) } ": " (problem.message) }
            p { "Next step: " (problem.hint) }
        }
    }
}

fn last_errors(errors: &[LastError], now: SystemTime) -> Markup {
    html! {
        details {
            summary { "Last errors" }
            ol {
                @for error in errors {
                    li {
                        time datetime=(humantime::format_rfc3339_seconds(error.at)) {
                            (span(now.duration_since(error.at).unwrap_or_default())) " ago"
                        }
                        ": " a href=(format!("/runbook#{}", error.problem.code)) { (error.problem.code) } ": "
                        (error.problem.message)
                        @if let Some(healed) = error.healed_at {
                            " (healed " (span(now.duration_since(healed).unwrap_or_default())) " ago)"
                        }
                    }
                }
            }
        }
    }
}

fn slot(slot: Option<&SlotStanding>) -> Markup {
    let Some(slot) = slot else { return fact("Slot", "not seen") };
    let status = slot.wal_status.as_deref().map(|status| format!(", {status}")).unwrap_or_default();
    html! {
        (fact("Slot", &slot.name))
        (fact("Confirmed", &slot.confirmed_flush.to_string()))
        (fact("Log retained", &format!("{}{status}", slot.retained_bytes.map_or_else(unknown, bytes))))
    }
}

fn fact(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

/// What a state means for the rows.
fn meaning(state: SourceState) -> &'static str {
    match state {
        SourceState::Starting => "connecting, and comparing the position with the server",
        SourceState::Standby => "another instance holds the slot; this one takes over when it ends",
        SourceState::Backfill => "publishing the rows from before the slot",
        SourceState::Streaming => "publishing what is committed",
        SourceState::Retrying => "rows wait; it tries again by itself",
        SourceState::Halted => "rows wait until a person has acted",
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn lsn(lsn: Option<Lsn>) -> String {
    lsn.map_or_else(unknown, |lsn| lsn.to_string())
}

fn seconds(seconds: Option<f64>) -> String {
    match seconds {
        None => unknown(),
        Some(seconds) if seconds < 60.0 => format!("{seconds:.1} s"),
        Some(seconds) => span(Duration::from_secs_f64(seconds)),
    }
}

/// A duration in its two largest units.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, _, _) => format!("{days} d {hours} h"),
    }
}

fn rounded(rate: f64) -> String {
    if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

fn bytes(bytes: u64) -> String {
    let kib = bytes as f64 / 1024.0;
    match kib {
        ..1024.0 => format!("{kib:.0} KiB"),
        ..1_048_576.0 => format!("{:.1} MiB", kib / 1024.0),
        _ => format!("{:.1} GiB", kib / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Code, Error, telemetry::Metrics};

    fn shown(metrics: &Metrics) -> String {
        page(&metrics.views(), false, SystemTime::now()).into_string()
    }

    #[test]
    fn what_keeps_a_source_is_said_until_it_has_healed() {
        let metrics = Metrics::new();
        let source = metrics.source("a<b");
        source.error(&Error::new(Code::SlotMissing, "slot outboxd_order"));
        source.set_state(SourceState::Halted);
        let text = shown(&metrics);
        for part in ["a&lt;b", "<strong>halted</strong>", "/runbook#slot-missing", "Next step: ", "class=\"why\""] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        source.set_state(SourceState::Streaming);
        let text = shown(&metrics);
        assert!(!text.contains("class=\"why\"") && text.contains("Last errors"), "{text}");
        assert!(text.contains("(healed 0 s ago)"), "{text}");
    }

    #[test]
    fn what_nobody_knows_is_unknown() {
        let metrics = Metrics::new();
        let _ = metrics.source("order");
        let text = shown(&metrics);
        assert!(text.contains("<dt>Lag</dt><dd>unknown</dd>"), "{text}");
        assert!(text.contains("<dt>Slot</dt><dd>not seen</dd>"), "{text}");
    }

    #[test]
    fn durations_and_bytes_are_said_in_units_of_their_size() {
        let said: Vec<_> = [5, 65, 3700, 90_000].map(|seconds| span(Duration::from_secs(seconds))).into();
        assert_eq!(said, ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
        assert_eq!([bytes(0), bytes(3 << 20), bytes(5 << 30)], ["0 KiB", "3.0 MiB", "5.0 GiB"]);
    }
}
