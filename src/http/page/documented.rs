//! The picture of the page in the documentation shows the page as it is now.
//!
//! No two pictures are the same to the pixel. So `page.png.sha256` beside the picture has two sums:
//! that of a page over fixed sources, with its style, when the picture was taken, and that of the
//! picture. When the first changes, the picture has to be taken again.

use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest as _, Sha256};
use testbed::documents;

use super::{STYLE, page};
use crate::{
    Lsn,
    source::standing::{DaemonState, LastError, Problem, SlotStanding, SourceState, Standing},
    telemetry::{
        View,
        history::{History, Sample},
    },
};

const PICTURE: &str = "docs/operating/page.png";
const SUMS: &str = "docs/operating/page.png.sha256";

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A source that the picture could show. Everything that the page has a place for is there.
fn view(state: SourceState, now: SystemTime) -> View {
    let at = Instant::now() + Duration::from_secs(3600);
    let sample = |before, lag| Sample { at: at - Duration::from_secs(before), lag, published: 600 - before };
    let mut history = History::default();
    for (before, lag) in [(600, Some(0.0)), (300, None), (60, Some(1.5)), (30, Some(31.5))] {
        history.add(sample(before, lag));
    }
    let problem = Problem { code: "kafka-unreachable", message: "kafka:9092".into(), hint: "look at the brokers" };
    let error = |healed_at| LastError { problem: problem.clone(), at: now - Duration::from_secs(90), healed_at };
    let is_well = state == SourceState::Streaming;
    let last = error(is_well.then_some(now));
    View {
        standing: Standing {
            source: format!("orders-{}", state.as_str()),
            daemon: Some(DaemonState { state, since: now - Duration::from_secs(60), last_error: Some(last.clone()) }),
            position: Some(Lsn(0x0195_7AB8)),
            lag_seconds: Some(61.5),
            unpublished_rows: Some(3),
            slot: Some(SlotStanding {
                name: "outboxd_orders".into(),
                active: true,
                wal_status: Some("reserved".into()),
                confirmed_flush: Lsn(0x0195_7AB8),
                retained_bytes: Some(3 << 20),
            }),
            ..Standing::default()
        },
        errors: vec![last, error(Some(now))],
        rate: Some(12.5),
        history,
        now: sample(0, Some(61.5)),
    }
}

#[test]
fn the_picture_of_the_page_shows_the_page_as_it_is() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let views = [SourceState::Retrying, SourceState::Streaming].map(|state| view(state, now));
    // A new version alone is no new page.
    let shown = page(&views, false, now).into_string().replace(env!("CARGO_PKG_VERSION"), "VERSION");
    let page_sum = sum((shown + STYLE).as_bytes());
    let picture_sum = sum(&std::fs::read(documents::path(PICTURE)).unwrap());
    let known = std::fs::read_to_string(documents::path(SUMS)).unwrap_or_default();
    let is_older = !known.contains(&page_sum) && known.contains(&picture_sum);
    assert!(
        !is_older,
        "the page has changed since its picture was taken. Take it again, and look at it: \
         OUTBOXD_WRITE_DOCS=1 cargo test --test it page::\nthen: OUTBOXD_WRITE_DOCS=1 cargo test --lib documented"
    );
    let sums = format!("{page_sum}  the page over fixed sources, and its style\n{picture_sum}  page.png\n");
    documents::holds(SUMS, &sums).unwrap();
}
