//! A bar chart as SVG, legible on light and on dark ground.

use std::fmt::Write as _;

const WIDTH: u32 = 720;
const ROW: u32 = 34;
const TOP: u32 = 44;
/// Where bars begin, and how long the longest is.
const LEFT: u32 = 250;
const LONGEST: u32 = 370;

pub(crate) struct Bar<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: f64,
    /// Whether the bar is outboxd's, which is coloured. A reference is grey.
    pub(crate) ours: bool,
}

pub(crate) fn bars(title: &str, bars: &[Bar<'_>]) -> String {
    let height = TOP + ROW * u32::try_from(bars.len()).unwrap_or(0) + 10;
    let longest = bars.iter().map(|bar| bar.value).fold(1.0, f64::max);
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">
<title>{title}</title>
<style>
text {{ font: 14px sans-serif; fill: #1f2328; }}
.title {{ font-weight: bold; }}
.ours {{ fill: #0969da; }}
.reference {{ fill: #8c959f; }}
@media (prefers-color-scheme: dark) {{
  text {{ fill: #e6edf3; }}
  .ours {{ fill: #58a6ff; }}
  .reference {{ fill: #6e7681; }}
}}
</style>
<text class="title" x="10" y="24">{title}</text>
"#
    );
    for (top, Bar { name, value, ours }) in (TOP..).step_by(ROW as usize).zip(bars) {
        let length = value / longest * f64::from(LONGEST);
        let class = if *ours { "ours" } else { "reference" };
        let (text, after) = (top + 17, f64::from(LEFT) + length + 8.0);
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            r#"<text x="{}" y="{text}" text-anchor="end">{name}</text><rect class="{class}" x="{LEFT}" y="{top}" width="{length:.1}" height="24" rx="2"/><text x="{after:.1}" y="{text}">{}</text>"#,
            LEFT - 10,
            thousands(*value)
        );
    }
    svg + "</svg>\n"
}

/// `149,740`
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
