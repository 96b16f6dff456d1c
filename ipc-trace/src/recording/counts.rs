//! Counts of calls by second, in blocks of their own: who has them needs not decode the calls. This module reads heads,
//! indexes and blocks of counts, and never the inputs.
//!
//! Invariant: nothing is counted twice. Counts are used only if they are of exactly the inputs that the files have.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use ipc_trace_common::cbor::invalid;
use minicbor::{Decode as _, Decoder, Encode, decode::Error};

use super::{
    block::BlockKind,
    files::{OpenFile, ReadError},
    head::{Head, IndexEntry},
    index,
};
use crate::event::{
    counts::SecondCounts,
    shared::{SharedState, SharedTables},
};

/// How many counts are read at most: a recording of months. Of what has more, the inputs can still be counted.
const MAX_ROWS: usize = 1 << 22;

/// The payload of a block of counts.
#[derive(Encode)]
#[cbor(context_bound = "SharedState")]
struct CountsPayload<'a> {
    #[n(0)]
    counts: &'a [SecondCounts],
}

/// The payload of a block of counts.
pub(super) fn encode(counts: &[SecondCounts]) -> Vec<u8> {
    let encoded = minicbor::to_vec_with(CountsPayload { counts }, &mut SharedTables::default());
    // Writing to memory can't fail, and no type refuses a value.
    encoded.unwrap_or_default()
}

/// Calls `each` with each of the counts of a payload.
///
/// # Errors
/// The payload is malformed; counts before that were passed on.
pub(super) fn decode(payload: &[u8], mut each: impl FnMut(SecondCounts)) -> Result<(), Error> {
    let mut from = Decoder::new(payload);
    let mut tables = SharedTables::default();
    // Later versions may have more fields.
    let without_length = || invalid("counts without a length");
    from.array()?.filter(|fields| *fields > 0).ok_or_else(without_length)?;
    let len = from.array()?.ok_or_else(without_length)?;
    // The length isn't trusted: each row is read.
    for _ in 0..len {
        each(SecondCounts::decode(&mut from, &mut tables)?);
    }
    Ok(())
}

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

/// Opens a file that can be read twice; `None`: it can be read once alone.
fn open_regular(path: &Path) -> Result<Option<OpenFile>, ReadError> {
    // Opening a FIFO would take it from who reads it afterwards.
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Ok(None),
        _ if path == Path::new(super::files::STDIN) => Ok(None),
        _ => OpenFile::open(path).map(|file| Some(file).filter(OpenFile::is_regular)),
    }
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

/// The metadata of a run, and how often calls were made in it.
pub(crate) type CountsOfRun = (Head, Vec<SecondCounts>);

impl RecordedCounts {
    /// Opens recordings; `None`: they have no counts of exactly their inputs. Later nothing is opened.
    ///
    /// # Errors
    /// A file can't be opened or read.
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Option<Self>, ReadError> {
        let (mut files, mut runs) = (Vec::new(), BTreeMap::new());
        for path in paths {
            let Some(file) = open_regular(path)? else { return Ok(None) };
            if !add_file(&file, files.len(), &mut runs)? {
                return Ok(None);
            }
            files.push(file);
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

    /// Calls `each` with the number of a run and counts of it, for all counts. Returns whether all could be read: if not,
    /// those that were passed on are of no use.
    ///
    /// # Errors
    /// A file can't be read.
    pub(crate) fn for_each(
        &self,
        mut each: impl FnMut(usize, SecondCounts),
    ) -> Result<bool, ReadError> {
        let mut payload = Vec::new();
        for (number, run) in self.runs.iter().enumerate() {
            for CountsBlock { entry, file } in &run.blocks {
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

    /// All counts of each run; `None`: not all can be read.
    ///
    /// # Errors
    /// A file can't be read.
    pub(crate) fn read(&self) -> Result<Option<Vec<CountsOfRun>>, ReadError> {
        let mut runs: Vec<_> = self.heads().map(|head| (head.clone(), Vec::new())).collect();
        let mut rows = 0;
        let is_whole = self.for_each(|run, one| {
            rows += 1;
            if let Some((_, counts)) = runs.get_mut(run).filter(|_| rows <= MAX_ROWS) {
                counts.push(one);
            }
        })?;
        Ok((is_whole && rows <= MAX_ROWS).then_some(runs))
    }
}

/// The counts of each run of recordings; `None`: there are none of exactly their inputs.
///
/// # Errors
/// A file can't be opened or read.
#[cfg_attr(not(test), expect(dead_code, reason = "summaries of recordings will use it"))]
pub(crate) fn read(paths: &[PathBuf]) -> Result<Option<Vec<CountsOfRun>>, ReadError> {
    match RecordedCounts::open(paths)? {
        Some(recordings) => recordings.read(),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests;
