//! Sorts more than fits into memory. Entries are byte strings, and their order is the order of
//! their bytes.
//!
//! ```text
//!   push ─▶ arena, up to the limit ─▶ sorted run ─▶ one unlinked file ─┐
//!                                     sorted run ─▶ the same file     ─┼─▶ merge ─▶ next, next, …
//!                                     sorted run ─▶ the same file     ─┘
//! ```
//!
//! The crates for this sort values that they serialize, and pull them from an iterator. Our entries
//! are bytes already and come from two sides.

use std::{
    cmp::Ordering,
    fs::File,
    io::{self, BufWriter, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Bounds of the buffer of one run while the runs are merged.
const READ_BYTES_MIN: usize = 4 << 10;
const READ_BYTES_MAX: usize = 256 << 10;

/// Where an entry lies in the arena. The prefix decides most comparisons without a look into the
/// arena.
#[derive(Debug, Clone, Copy)]
struct EntryAt {
    prefix: u64,
    at: u32,
    length: u32,
}

/// Takes entries in any order.
#[derive(Debug)]
pub(super) struct Sorter {
    arena: Vec<u8>,
    entries: Vec<EntryAt>,
    arena_limit: usize,
    entry_limit: usize,
    directory: PathBuf,
    file: Option<File>,
    /// Where each run lies in the file.
    runs: Vec<Range<u64>>,
}

impl Sorter {
    /// A sorter that holds at most `memory` bytes and writes runs into a file in `directory`.
    pub(super) fn new(memory: usize, directory: &Path) -> Self {
        // An entry has about 60 bytes, an `EntryAt` 16. Offsets in the arena have four bytes.
        let arena_limit = (memory / 5 * 4).clamp(1, 2 << 30);
        let entry_limit = (memory / 5 / size_of::<EntryAt>()).max(1);
        Self {
            arena: Vec::new(),
            entries: Vec::new(),
            arena_limit,
            entry_limit,
            directory: directory.to_owned(),
            file: None,
            runs: Vec::new(),
        }
    }

    /// Takes an entry.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn push(&mut self, entry: &[u8]) -> io::Result<()> {
        let full = self.arena.len() + entry.len() > self.arena_limit || self.entries.len() >= self.entry_limit;
        if full && !self.entries.is_empty() {
            self.spill()?;
        }
        if self.arena.capacity() == 0 {
            // This reserves everything at once, because growing would hold twice as much for a
            // moment. The kernel gives pages only when they are touched.
            self.arena.reserve_exact(self.arena_limit);
            self.entries.reserve_exact(self.entry_limit);
        }
        let (Ok(at), Ok(length)) = (u32::try_from(self.arena.len()), u32::try_from(entry.len())) else {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        };
        self.arena.extend_from_slice(entry);
        self.entries.push(EntryAt { prefix: prefix(entry), at, length });
        Ok(())
    }

    /// Whether anything lies in the file.
    #[cfg(test)]
    pub(super) fn has_spilled(&self) -> bool {
        !self.runs.is_empty()
    }

    /// Ends the input. The entries come back in order.
    ///
    /// # Errors
    /// The file cannot be written or read.
    pub(super) fn finish(mut self) -> io::Result<Sorted> {
        if self.runs.is_empty() {
            self.sort();
            return Ok(Sorted(Source::Memory { arena: self.arena, entries: self.entries, next: 0 }));
        }
        let memory = self.arena_limit;
        self.spill()?;
        let Self { file, runs, arena, entries, .. } = self;
        drop((arena, entries));
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        Ok(Sorted(Source::Runs(Merge::start(file, &runs, memory)?)))
    }

    fn sort(&mut self) {
        let arena = &self.arena;
        let bytes = |entry: &EntryAt| entry.of(arena);
        self.entries.sort_unstable_by(|a, b| a.prefix.cmp(&b.prefix).then_with(|| bytes(a).cmp(bytes(b))));
    }

    fn spill(&mut self) -> io::Result<()> {
        self.sort();
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile_in(&self.directory)?);
        }
        let Some(file) = &self.file else { return Ok(()) };
        let start = self.runs.last().map_or(0, |run| run.end);
        let mut end = start;
        let mut out = BufWriter::with_capacity(READ_BYTES_MAX, file);
        for entry in &self.entries {
            out.write_all(&entry.length.to_be_bytes())?;
            out.write_all(entry.of(&self.arena))?;
            end += 4 + u64::from(entry.length);
        }
        out.flush()?;
        self.runs.push(start..end);
        self.arena.clear();
        self.entries.clear();
        Ok(())
    }
}

impl EntryAt {
    fn of(self, arena: &[u8]) -> &[u8] {
        &arena[self.at as usize..][..self.length as usize]
    }
}

/// The first eight bytes as a number. A shorter entry is filled up with zeros, and the bytes
/// themselves break the tie.
fn prefix(entry: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let length = entry.len().min(8);
    bytes[..length].copy_from_slice(&entry[..length]);
    u64::from_be_bytes(bytes)
}

/// Entries in order.
#[derive(Debug)]
pub(super) struct Sorted(Source);

#[derive(Debug)]
enum Source {
    /// All of them fitted.
    Memory { arena: Vec<u8>, entries: Vec<EntryAt>, next: usize },
    /// Runs of the file.
    Runs(Merge),
}

impl Sorted {
    /// The next entry. It lives until the next call.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        match &mut self.0 {
            Source::Memory { arena, entries, next } => {
                *next += 1;
                Ok(entries.get(*next - 1).map(|entry| entry.of(arena)))
            }
            Source::Runs(merge) => merge.next(),
        }
    }
}

/// The runs, and a heap of those that have an entry. The least entry is on top.
#[derive(Debug)]
struct Merge {
    file: File,
    runs: Vec<Run>,
    heap: Vec<usize>,
    /// The entry on top was given out.
    given: bool,
}

/// One run being read.
#[derive(Debug)]
struct Run {
    /// What is still to be read of the file.
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    /// What is still to be given out of the buffer. The bytes of its first entry come first.
    from: usize,
    length: usize,
    read: usize,
}

impl Merge {
    fn start(file: File, runs: &[Range<u64>], memory: usize) -> io::Result<Self> {
        let bytes = (memory / runs.len().max(1)).clamp(READ_BYTES_MIN, READ_BYTES_MAX);
        let run =
            |run: &Range<u64>| Run { at: run.start, end: run.end, buffer: vec![0; bytes], from: 0, length: 0, read: 0 };
        let mut merge = Self { file, runs: runs.iter().map(run).collect(), heap: Vec::new(), given: false };
        for number in 0..merge.runs.len() {
            if merge.runs[number].advance(&merge.file)? {
                merge.heap.push(number);
            }
        }
        for place in (0..merge.heap.len() / 2).rev() {
            merge.sift(place);
        }
        Ok(merge)
    }

    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        if self.given
            && let Some(&top) = self.heap.first()
        {
            if !self.runs[top].advance(&self.file)? {
                self.heap.swap_remove(0);
            }
            self.sift(0);
        }
        self.given = true;
        Ok(self.heap.first().map(|&top| self.runs[top].entry()))
    }

    /// Lets the run at `place` of the heap sink to where it belongs.
    fn sift(&mut self, mut place: usize) {
        let less = |heap: &[usize], a: usize, b: usize| {
            self.runs[heap[a]].entry().cmp(self.runs[heap[b]].entry()) == Ordering::Less
        };
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            let mut least = place;
            if left < self.heap.len() && less(&self.heap, left, least) {
                least = left;
            }
            if right < self.heap.len() && less(&self.heap, right, least) {
                least = right;
            }
            if least == place {
                return;
            }
            self.heap.swap(place, least);
            place = least;
        }
    }
}

impl Run {
    fn entry(&self) -> &[u8] {
        &self.buffer[self.from..self.from + self.length]
    }

    /// Goes to the next entry. False at the end.
    fn advance(&mut self, file: &File) -> io::Result<bool> {
        self.from += self.length;
        self.length = 0;
        if !self.fill(4, file)? {
            return Ok(false);
        }
        let mut length = [0; 4];
        length.copy_from_slice(&self.buffer[self.from..self.from + 4]);
        self.from += 4;
        let length = u32::from_be_bytes(length) as usize;
        if !self.fill(length, file)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.length = length;
        Ok(true)
    }

    /// Makes the next `wanted` bytes lie in the buffer. False when the run has no more.
    fn fill(&mut self, wanted: usize, file: &File) -> io::Result<bool> {
        if self.read - self.from >= wanted {
            return Ok(true);
        }
        self.buffer.copy_within(self.from..self.read, 0);
        self.read -= self.from;
        self.from = 0;
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        while self.read < wanted {
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            let room = (self.buffer.len() - self.read).min(left);
            if room == 0 {
                return Ok(false);
            }
            let got = file.read_at(&mut self.buffer[self.read..self.read + room], self.at)?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.read += got;
            self.at += got as u64;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The entries as the sorter gives them, and whether the disk was used.
    fn sorted(entries: &[Vec<u8>], memory: usize) -> (Vec<Vec<u8>>, bool) {
        let mut sorter = Sorter::new(memory, &std::env::temp_dir());
        for entry in entries {
            sorter.push(entry).unwrap();
        }
        let spilled = sorter.has_spilled();
        let mut sorted = sorter.finish().unwrap();
        let mut out = Vec::new();
        while let Some(entry) = sorted.next().unwrap() {
            out.push(entry.to_vec());
        }
        assert!(sorted.next().unwrap().is_none(), "an entry after the end");
        (out, spilled)
    }

    #[test]
    fn many_runs_are_merged_into_one_order() {
        let entries: Vec<Vec<u8>> =
            (0..20_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes().to_vec()).collect();
        let (out, spilled) = sorted(&entries, 1 << 10);
        assert!(spilled);
        let mut expected = entries;
        expected.sort();
        assert_eq!(out, expected);
    }

    #[test]
    fn a_directory_that_cannot_be_written_to_is_an_error_and_nothing_is_without_entries() {
        assert!(sorted(&[], 100).0.is_empty());
        let mut sorter = Sorter::new(100, Path::new("/no/such/directory"));
        let failed = (0..100).map(|_| sorter.push(b"some entry")).find_map(Result::err);
        assert!(failed.is_some());
    }

    proptest! {
        #[test]
        fn any_entries_come_back_sorted_whatever_the_memory(
            entries in prop::collection::vec(prop::collection::vec(0..4_u8, 0..40), 0..300),
            memory in 1..20_000_usize,
        ) {
            let (out, _) = sorted(&entries, memory);
            let mut expected = entries;
            expected.sort();
            prop_assert_eq!(out, expected);
        }

        #[test]
        fn an_entry_larger_than_every_buffer_comes_back(length in 1..40_000_usize, small in 0..50_usize) {
            let mut entries = vec![vec![7; length]];
            entries.extend((0..small).map(|n| vec![u8::try_from(n).unwrap()]));
            let (out, _) = sorted(&entries, 64);
            let mut expected = entries;
            expected.sort();
            prop_assert_eq!(out, expected);
        }
    }
}
