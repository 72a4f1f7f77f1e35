//! How many rows of a cursor come at a time.

/// About so many bytes come with one FETCH, going by the rows of the last one.
const BYTES: usize = 4 << 20;

/// How many rows to ask for after `rows` that had so many bytes, at most `most`. Large rows must not
/// come many at a time, and the first rows may be large as well. So the number grows step by step.
pub(crate) fn next_fetch(rows: usize, bytes: usize, most: usize) -> usize {
    let row = bytes / rows.max(1);
    (BYTES / row.max(1)).clamp(1, most.min(2 * rows.max(4)))
}
