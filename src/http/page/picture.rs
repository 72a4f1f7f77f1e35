//! The lag as a line over the last hour.

use std::fmt::Write as _;

use maud::{Markup, html};

use crate::telemetry::history::{History, REACH, Sample};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 120.0;

/// The top of the picture is at least so many seconds, so that a lag of milliseconds stays small.
const LEAST_TOP: f64 = 10.0;

/// The lag up to `now`. Where nobody knew it, there is no line.
pub(super) fn lag(history: &History, now: Sample) -> Markup {
    let samples: Vec<Sample> = history.samples().copied().chain([now]).collect();
    let highest = samples.iter().filter_map(|sample| sample.lag).fold(0.0, f64::max);
    let top = highest.max(LEAST_TOP);
    let last = now.lag.map_or_else(|| "unknown".to_owned(), |lag| format!("{lag:.1} s"));
    let told = format!("Lag over the last hour: now {last}, at most {highest:.1} s");
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(told) preserveAspectRatio="none" {
            path d=(line(&samples, now, top)) {}
        }
        p .scale { "0 to " (format!("{top:.0}")) " s" }
    }
}

/// The path: a line for each run of samples in which the lag is known.
fn line(samples: &[Sample], now: Sample, top: f64) -> String {
    let mut path = String::new();
    let mut draws = false;
    for sample in samples {
        let Some(lag) = sample.lag else {
            draws = false;
            continue;
        };
        let before = now.at.saturating_duration_since(sample.at).as_secs_f64();
        let (x, y) = (WIDTH * (1.0 - before / REACH.as_secs_f64()), HEIGHT * (1.0 - lag / top));
        // Writing to a string cannot fail.
        let _ = write!(path, "{}{x:.1} {y:.1}", if draws { "L" } else { "M" });
        draws = true;
    }
    path
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_line_has_a_gap_where_the_lag_is_unknown() {
        let end = Instant::now() + Duration::from_secs(3600);
        let sample = |before, lag| Sample { at: end - Duration::from_secs(before), lag, published: 0 };
        let samples = [sample(3600, Some(0.0)), sample(1800, Some(10.0)), sample(900, None), sample(0, Some(5.0))];
        assert_eq!(line(&samples, samples[3], 10.0), "M0.0 120.0L360.0 0.0M720.0 60.0");
    }
}
