//! The runbook that travels in the binary: `docs/errors.md`, as a person reads it in a terminal or
//! in a browser.

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};

use crate::Code;

/// The whole page.
const TEXT: &str = include_str!("../docs/errors.md");

/// What [`section`] has besides the codes: the ways back that their sections speak of.
pub(crate) const WAYS_BACK: &str = "ways-back";

/// The section of a code, or of [`WAYS_BACK`], as Markdown; `None` for any other name.
#[must_use]
pub(crate) fn section(name: &str) -> Option<&'static str> {
    if name == WAYS_BACK {
        return TEXT.split_once("\n# ").map(|(_, rest)| rest.trim());
    }
    sections().find(|(code, _)| *code == name).map(|(_, text)| text.trim())
}

/// The names that [`section`] knows, in order.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    Code::ALL.iter().map(|code| code.as_str()).chain([WAYS_BACK])
}

/// The sections of the codes, in order.
fn sections() -> impl Iterator<Item = (&'static str, &'static str)> {
    // The part after the codes has headings of the first level.
    let codes = TEXT.split("\n# ").next().unwrap_or_default();
    codes.split("\n## ").skip(1).filter_map(|section| section.split_once('\n'))
}

/// The whole page as HTML. Each heading has the id that its links name. A link to a document that
/// the binary does not carry becomes its text.
#[must_use]
pub(crate) fn as_html() -> String {
    let mut events: Vec<_> = Parser::new_ext(TEXT, Options::ENABLE_TABLES).collect();
    for at in 0..events.len() {
        let title = title(&events[at..]);
        if let Event::Start(Tag::Heading { id, .. }) = &mut events[at] {
            *id = Some(CowStr::from(anchor(&title)));
        }
    }
    let mut out = String::new();
    let mut leads_away = false;
    let kept = events.into_iter().filter(|event| match event {
        Event::Start(Tag::Link { dest_url, .. }) => {
            leads_away = !dest_url.starts_with('#') && !dest_url.starts_with("https://");
            !leads_away
        }
        Event::End(TagEnd::Link) => !std::mem::take(&mut leads_away),
        _ => true,
    });
    html::push_html(&mut out, kept);
    out
}

/// The text of the heading with which the events begin.
fn title(events: &[Event<'_>]) -> String {
    let within = events.iter().take_while(|event| !matches!(event, Event::End(TagEnd::Heading(_))));
    let texts = within.filter_map(|event| match event {
        Event::Text(text) | Event::Code(text) => Some(text.as_ref()),
        _ => None,
    });
    texts.collect()
}

/// The anchor of a heading, as GitHub makes it of plain words.
fn anchor(title: &str) -> String {
    title.to_lowercase().replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runbook_has_a_section_for_each_code_in_the_same_order_and_for_nothing_else() {
        let sections: Vec<_> = sections().map(|(code, _)| code).collect();
        let codes: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(sections, codes);
    }

    #[test]
    fn a_section_says_the_class_and_what_it_means_and_where_to_look_and_the_way_back() {
        for (code, (_, section)) in Code::ALL.iter().zip(sections()) {
            let class = format!("Class: {}.", format!("{:?}", code.class()).to_lowercase());
            for part in [class.as_str(), "**What it means.** ", "**Look at.** ", "**Way back.** "] {
                assert!(section.contains(part), "{code} lacks {part:?}");
            }
        }
    }

    #[test]
    fn every_name_has_its_text() {
        assert!(names().all(|name| section(name).is_some_and(|text| text.len() > 100)));
        assert!(section(WAYS_BACK).unwrap().starts_with("The ways back"));
        assert_eq!(section("nothing"), None);
    }

    #[test]
    fn every_link_of_the_page_leads_to_a_heading_of_it() {
        let page = as_html();
        for name in names().filter(|name| *name != WAYS_BACK) {
            assert!(page.contains(&format!("<h2 id=\"{name}\">")), "{name}");
        }
        for link in page.split("href=\"#").skip(1).map(|rest| rest.split_once('"').unwrap().0) {
            assert!(page.contains(&format!("id=\"{link}\"")), "{link}");
        }
        assert!(!page.contains(".md\""));
    }
}
