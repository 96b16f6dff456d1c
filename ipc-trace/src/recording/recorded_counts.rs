//! How often calls were made, by second, from blocks of their own: who has them needs not decode the calls. This module
//! reads heads, indexes and blocks of counts, and never the inputs.
//!
//! Invariant: nothing is counted twice. Counts are used only if they are of exactly the inputs that the files have.

use std::collections::BTreeMap;

use super::{
    block::BlockKind,
    counts::decode,
    files::{OpenFile, ReadError},
    head::{Head, IndexEntry},
    index,
};
use crate::event::counts::SecondCounts;

/// A block of counts, and the number of its file.
#[derive(Clone, Copy, Debug)]
struct CountsBlock {
    entry: IndexEntry,
    file: usize,
}

/// What the files have of a run.
#[derive(Debug)]
struct CountedRun {
    head: Head,
    /// Between which positions they have inputs
    inputs: Vec<(u64, u64)>,
    /// In the order of their positions, once they are known to be of all inputs
    blocks: Vec<CountsBlock>,
}

impl CountedRun {
    const fn new(head: Head) -> Self {
        Self { head, inputs: Vec::new(), blocks: Vec::new() }
    }

    /// Puts the blocks in order, each once, as files may overlap. Returns whether they are of exactly the inputs that
    /// there are.
    fn put_in_order(&mut self) -> bool {
        let place =
            |block: &CountsBlock| (block.entry.position, block.entry.inputs, block.entry.calls);
        self.blocks.sort_by_key(place);
        self.blocks.dedup_by_key(|block| place(block));
        let counted: Option<Vec<_>> = self.blocks.iter().map(|one| positions(&one.entry)).collect();
        let Some(counted) = counted else { return false };
        let overlaps = counted.windows(2).any(|pair| {
            let [(_, end), (begin, _)] = pair else { return false };
            begin < end
        });
        self.inputs.sort_unstable();
        !overlaps && joined(&counted) == joined(&self.inputs)
    }

    /// When it began, nanoseconds since 1970.
    fn began(&self) -> i128 {
        let at = self.head.begin.at;
        i128::from(at.boot_ns) + at.offset_ns
    }
}

/// The positions of a block's inputs; `None`: there are none, or they are impossible.
fn positions(entry: &IndexEntry) -> Option<(u64, u64)> {
    let end = entry.position.checked_add(u64::from(entry.inputs))?;
    (end > entry.position).then_some((entry.position, end))
}

/// Ranges in order, joined where they touch or overlap.
fn joined(ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = Vec::new();
    for (begin, end) in ranges {
        match all.last_mut() {
            Some((_, last)) if begin <= last => *last = (*last).max(*end),
            _ => all.push((*begin, *end)),
        }
    }
    all
}

/// Adds what a file has to the runs. Returns whether all of it is known to be of a run.
fn add_file(
    file: &OpenFile,
    number: usize,
    runs: &mut BTreeMap<String, CountedRun>,
) -> Result<bool, ReadError> {
    let (mut run, mut payload) = (None, Vec::new());
    for entry in index::blocks(file)? {
        let kind = BlockKind::from_number(entry.kind);
        if kind == Some(BlockKind::Head) {
            let read = index::block_at(file, entry.offset, &mut payload)?;
            let is_head = read.is_some_and(|header| header.kind == entry.kind);
            let head: Option<Head> = minicbor::decode(&payload).ok().filter(|_| is_head);
            // The other copy may be whole.
            let Some(head) = head else { continue };
            let Some(id) = head.begin.run_id.clone() else { return Ok(false) };
            run = Some(runs.entry(id).or_insert_with(|| CountedRun::new(head)));
        }
        if !matches!(kind, Some(BlockKind::Inputs | BlockKind::Counts)) {
            continue;
        }
        let Some(run) = &mut run else { return Ok(false) };
        if kind == Some(BlockKind::Counts) {
            run.blocks.push(CountsBlock { entry, file: number });
        } else {
            run.inputs.extend(positions(&entry));
        }
    }
    Ok(run.is_some())
}

/// Recordings whose counts are of all of their inputs.
#[derive(Debug)]
pub(crate) struct RecordedCounts {
    files: Vec<OpenFile>,
    runs: Vec<CountedRun>,
}

impl RecordedCounts {
    /// Of open recordings; `None`: they have no counts of exactly their inputs.
    ///
    /// # Errors
    /// A file can't be read.
    pub(crate) fn new(all: &[OpenFile]) -> Result<Option<Self>, ReadError> {
        let (mut files, mut runs) = (Vec::new(), BTreeMap::new());
        for file in all {
            if !file.is_regular() || !add_file(file, files.len(), &mut runs)? {
                return Ok(None);
            }
            files.push(file.clone());
        }
        let mut runs: Vec<_> = runs.into_values().collect();
        runs.sort_by_key(CountedRun::began);
        let is_whole = runs.iter_mut().all(CountedRun::put_in_order);
        Ok(is_whole.then_some(Self { files, runs }))
    }

    /// The runs, from 0, in the order of their beginnings.
    pub(crate) fn heads(&self) -> impl Iterator<Item = &Head> {
        self.runs.iter().map(|run| &run.head)
    }

    /// Calls `each` with the number of a run and counts of it, for all counts of blocks with inputs of a time that
    /// `wants` wants: given the first and the last one, nanoseconds since 1970. Returns whether all could be read: if
    /// not, those that were passed on are of no use.
    ///
    /// # Errors
    /// A file can't be read.
    pub(crate) fn for_each(
        &self,
        wants: impl Fn(i128, i128) -> bool,
        mut each: impl FnMut(usize, SecondCounts),
    ) -> Result<bool, ReadError> {
        let mut payload = Vec::new();
        for (number, run) in self.runs.iter().enumerate() {
            let offset_ns = run.head.begin.at.offset_ns;
            let time = |boot_ns: u64| i128::from(boot_ns) + offset_ns;
            let wanted =
                |block: &&CountsBlock| wants(time(block.entry.first_ns), time(block.entry.last_ns));
            for CountsBlock { entry, file } in run.blocks.iter().filter(wanted) {
                let Some(file) = self.files.get(*file) else { return Ok(false) };
                let read = index::block_at(file, entry.offset, &mut payload)?;
                // The index may say something else than the block.
                let is_it = |header| IndexEntry::new(entry.offset, header) == *entry;
                if !read.as_ref().is_some_and(is_it) {
                    return Ok(false);
                }
                let mut calls = 0_u64;
                let decoded = decode(&payload, |one| {
                    calls = calls.saturating_add(one.calls);
                    each(number, one);
                });
                if decoded.is_err() || calls != entry.calls {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_joined() {
        assert_eq!(joined(&[(0, 3), (3, 5), (4, 5), (6, 7)]), [(0, 5), (6, 7)]);
        assert_eq!(joined(&[(0, 9), (1, 2)]), [(0, 9)]);
        assert_eq!(joined(&[]), []);
    }
}
