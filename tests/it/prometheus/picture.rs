//! A curve of the lag as a picture for the documentation.

use maud::{Markup, html};
use testbed::prometheus::Sample;

use super::lag::Curve;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 280.0;
/// The curve's place: room for numbers is left of it and below, and for the title above.
const LEFT: f64 = 50.0;
const RIGHT: f64 = WIDTH - 15.0;
const TOP: f64 = 35.0;
const BOTTOM: f64 = HEIGHT - 45.0;

/// So much of the time around the outage is shown, in seconds.
pub(super) const AROUND: f64 = 15.0;
/// Distance of the numbers on both axes, in seconds.
const EVERY: f64 = 30.0;

/// From seconds to places in the picture. Time begins with the outage.
struct Scale {
    first: f64,
    last: f64,
    highest: f64,
}

impl Scale {
    fn x(&self, time: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (time - self.first) / (self.last - self.first)
    }

    fn y(&self, lag: f64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * lag / self.highest
    }

    fn line(&self, samples: &[Sample]) -> String {
        let points = samples.iter().enumerate().map(|(n, sample)| {
            format!("{}{:.1} {:.1}", if n == 0 { "M" } else { "L" }, self.x(sample.at), self.y(sample.value))
        });
        points.collect()
    }
}

/// The multiples of [`EVERY`] within these bounds.
fn marks(from: f64, to: f64) -> impl Iterator<Item = f64> {
    let (first, last) = ((from / EVERY).ceil() as i32, (to / EVERY).floor() as i32);
    (first..=last).map(|n| f64::from(n) * EVERY)
}

/// Draws the curve; `kept` says what kept the rows.
pub(super) fn draw(title: &str, kept: &str, curve: &Curve) -> String {
    let began = curve.outage.start;
    let samples: Vec<_> = curve.samples.iter().map(|sample| Sample { at: sample.at - began, ..*sample }).collect();
    let length = curve.outage.end - began;
    let fell = samples.iter().rev().find(|sample| sample.value >= 1.0).map_or(length, |sample| sample.at);
    let within = |sample: &&Sample| (-AROUND..=fell + AROUND).contains(&sample.at) && !sample.value.is_nan();
    let samples: Vec<_> = samples.iter().filter(within).copied().collect();
    let highest = samples.iter().map(|sample| sample.value).fold(EVERY, f64::max);
    let scale = Scale { first: -AROUND, last: fell + AROUND, highest: (highest / EVERY).ceil() * EVERY };
    picture(title, kept, &scale, length, &samples).into_string() + "\n"
}

fn picture(title: &str, kept: &str, scale: &Scale, length: f64, samples: &[Sample]) -> Markup {
    let (from, to) = (scale.x(0.0), scale.x(length));
    let place = |x: f64, y: f64| (format!("{x:.1}"), format!("{y:.1}"));
    html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) width=(WIDTH) height=(HEIGHT)
            role="img" aria-label=(title) font-family="sans-serif" font-size="12" {
            rect width="100%" height="100%" fill="white" {}
            rect x=(format!("{from:.1}")) y=(TOP) width=(format!("{:.1}", to - from)) height=(BOTTOM - TOP) fill="#fdeceb" {}
            @for lag in marks(0.0, scale.highest) {
                @let (x, y) = place(LEFT - 8.0, scale.y(lag));
                path d=(format!("M{LEFT} {y}H{RIGHT}")) stroke="#dddddd" {}
                text x=(x) y=(y) text-anchor="end" dominant-baseline="middle" { (lag) }
            }
            @for time in marks(scale.first, scale.last) {
                @let (x, y) = place(scale.x(time), BOTTOM + 16.0);
                text x=(x) y=(y) text-anchor="middle" { (time) }
            }
            text x=(LEFT) y="20" font-size="14" font-weight="bold" { (title) }
            text x=(format!("{:.1}", from + 6.0)) y=(TOP + 16.0) fill="#a02b22" { (kept) }
            text x=((LEFT + RIGHT) / 2.0) y=(HEIGHT - 10.0) text-anchor="middle" {
                "seconds; up: outboxd_replication_lag_seconds, as Prometheus scraped it every second"
            }
            path d=(scale.line(samples)) fill="none" stroke="#0b62c4" stroke-width="2" {}
        }
    }
}
