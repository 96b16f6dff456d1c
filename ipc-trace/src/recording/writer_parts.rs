//! What the thread that feeds the engine and the one that writes a recording share.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize},
};

use super::{chunk::Chunk, destination::DumpedFile};
use crate::event::counts::SecondCounts;

/// Inputs for the thread.
#[derive(Debug)]
pub(super) struct Part {
    /// How many inputs the run had before them
    pub position: u64,
    pub inputs: Chunk,
    /// Whether to write them at once
    pub flush: bool,
    /// What to do then
    pub then: Then,
}

/// What the thread does when it has written inputs.
#[derive(Debug)]
pub(super) enum Then {
    Nothing,
    /// Write the engine's state, as of a boot time
    Checkpoint(Vec<u8>, u64),
    /// Write how often calls were made in inputs
    Counts(InputCounts),
    /// Write what a flight recorder has to a file
    Dump,
}

/// How often calls were made in inputs, by second.
#[derive(Debug)]
pub(super) struct InputCounts {
    /// How many inputs the run had before the first of them
    pub position: u64,
    /// How many inputs
    pub inputs: u32,
    pub counts: Vec<SecondCounts>,
}

/// What the threads share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Bytes that wait for the thread
    pub waiting: AtomicUsize,
    /// Inputs that were not recorded
    pub lost: AtomicU64,
    /// Bytes that were written
    pub written: AtomicU64,
    /// Bytes that are free in the file system, or [`NO_FREE`]
    pub free: AtomicU64,
    /// Whether the reader of a stream is gone
    pub is_closed: AtomicBool,
    /// Whether the engine's state is needed
    pub wants_checkpoint: AtomicBool,
    /// Files that a flight recorder wrote
    dumped: Mutex<Vec<DumpedFile>>,
}

impl Shared {
    /// Nothing is recorded yet.
    pub(super) const fn new() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            written: AtomicU64::new(0),
            free: AtomicU64::new(NO_FREE),
            is_closed: AtomicBool::new(false),
            wants_checkpoint: AtomicBool::new(false),
            dumped: Mutex::new(Vec::new()),
        }
    }

    /// Files that a flight recorder wrote, and that nobody has taken yet.
    pub(super) fn dumped(&self) -> MutexGuard<'_, Vec<DumpedFile>> {
        self.dumped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The free bytes are unknown.
pub(super) const NO_FREE: u64 = u64::MAX;

/// What was recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecordingSummary {
    /// Bytes in the file
    pub bytes: u64,
    /// Inputs in it
    pub inputs: u64,
    /// Calls in them
    pub calls: u64,
    /// Inputs that are not in it
    pub lost: u64,
    /// Files that a flight recorder wrote at the end
    pub dumped: Vec<DumpedFile>,
}
