//! The engine's whole state as bytes (CBOR, by the numbers of fields), and back.
//!
//! A value that several others share is encoded once; afterwards its number stands for it. So a task, an ancestor or a
//! container is shared as before, and takes no more memory.
//!
//! Not in it: what the run's metadata says, the policy, and counts by second.

use ipc_trace_common::cbor::invalid;
use minicbor::{Encode, decode::Error};

use super::Engine;
#[cfg(test)]
use super::{detect::Detect, track::Tracker};
use crate::event::shared::SharedTables;

/// Which counts a report has after a state was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestoredCounts {
    /// Those of the state
    Recorded,
    /// None yet
    Fresh,
    /// Those of the engine that takes it: inputs before it are missing
    Kept,
}

fn to_bytes(state: &impl Encode<SharedTables>) -> Vec<u8> {
    let encoded = minicbor::to_vec_with(state, &mut SharedTables::default());
    // Writing to memory can't fail, and no type refuses a value.
    encoded.unwrap_or_default()
}

impl Engine {
    /// The state.
    #[must_use]
    pub(crate) fn checkpoint(&self) -> Vec<u8> {
        to_bytes(self)
    }

    /// Takes the place of an engine that handed out this state, as the run's metadata and the policy of this one say.
    ///
    /// # Errors
    /// The bytes are no state.
    pub(crate) fn restore(&mut self, bytes: &[u8], counts: RestoredCounts) -> Result<(), Error> {
        let mut tables = SharedTables::default();
        let state: Self = minicbor::decode_with(bytes, &mut tables)?;
        if !state.tracker.containers.is_whole(&mut tables) {
            return Err(invalid("a container without a state"));
        }
        drop(tables);
        let before = std::mem::replace(self, state);
        self.begin = before.begin;
        self.call_filter = before.call_filter;
        self.counts_by_second = before.counts_by_second;
        match counts {
            RestoredCounts::Recorded if before.stats.is_some() => {}
            RestoredCounts::Recorded => self.stats = None,
            RestoredCounts::Fresh => (self.stats, self.started) = (before.stats, self.now),
            RestoredCounts::Kept => {
                (self.stats, self.started, self.calls) =
                    (before.stats, before.started, before.calls);
            }
        }
        self.tracker.restored(before.tracker);
        self.detect.restored(before.detect);
        if !self.has_lines() {
            self.detect.findings.hide_lines();
        }
        Ok(())
    }
}

/// Hands out the state and takes it back: tests run as if they were resumed from a checkpoint at any time.
#[cfg(test)]
pub(crate) fn reload(tracker: &mut Tracker, detect: &mut Detect) {
    let bytes = to_bytes(&(&*tracker, &*detect));
    let mut tables = SharedTables::default();
    let (new_tracker, new_detect): (Tracker, Detect) =
        minicbor::decode_with(&bytes, &mut tables).unwrap();
    drop(tables);
    let before = std::mem::replace(tracker, new_tracker);
    tracker.restored(before);
    let before = std::mem::replace(detect, new_detect);
    detect.restored(before);
    assert_eq!(to_bytes(&(&*tracker, &*detect)), bytes, "equal states are equal bytes");
}
