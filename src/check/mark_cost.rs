//! What marks by UPDATE cost on a table of this shape. The finding is never a failure: a slow mark
//! is a mark.

use super::Findings;
use crate::postgres::catalog::{TableInfo, mark_cost::MarkCost};

pub(super) fn check(table: &TableInfo, column: &str, cost: &MarkCost, findings: &mut Findings) {
    let about = format!("table {}", table.display_name());
    let text = format!("{}{}", shape(column, cost), so_far(cost));
    if cost.is_least() {
        findings.ok(&about, text);
    } else {
        let hint = "where marks limit the rate, see docs/operating/marks.md";
        findings.note(&about, text, hint);
    }
}

fn shape(column: &str, cost: &MarkCost) -> String {
    let MarkCost { covering, entries, fillfactor, .. } = cost;
    if !covering.is_empty() {
        let names = covering.join(", ");
        format!("marks cannot be HOT updates: {names} covers {column}; each mark writes {entries} index entries")
    } else if cost.is_least() {
        format!("marks are HOT updates: fillfactor {fillfactor}, and no index over {column}")
    } else {
        format!(
            "marks in bulk are HOT updates only in part: fillfactor {fillfactor} leaves a page no room for a second copy \
             of its rows; each other mark writes {entries} index entries"
        )
    }
}

fn so_far(cost: &MarkCost) -> String {
    cost.hot_percent()
        .map_or_else(String::new, |percent| format!("; {percent} % of the {} updates so far were HOT", cost.updates))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(covering: &[&str], fillfactor: u8, updates: u64, hot: u64) -> MarkCost {
        let covering = covering.iter().map(|&name| name.to_owned()).collect();
        MarkCost { covering, entries: 2, fillfactor, updates, hot }
    }

    #[test]
    fn the_index_is_named_first_as_no_fillfactor_helps_against_it() {
        let text = shape("published_at", &cost(&["waiting"], 50, 0, 0));
        assert!(
            text.contains("cannot be HOT") && text.contains("waiting") && text.contains("2 index entries"),
            "{text}"
        );
        assert!(shape("published_at", &cost(&[], 60, 0, 0)).contains("fillfactor 60 leaves"));
        assert!(shape("published_at", &cost(&[], 50, 0, 0)).contains("are HOT updates"));
    }

    #[test]
    fn what_happened_so_far_is_told_once_something_has() {
        assert_eq!(so_far(&cost(&[], 50, 0, 0)), "");
        assert_eq!(so_far(&cost(&[], 50, 3, 2)), "; 66 % of the 3 updates so far were HOT");
    }
}
