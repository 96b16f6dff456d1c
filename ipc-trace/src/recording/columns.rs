//! The inputs of a block, in columns: equal fields of all calls lie together, each as its difference to the call before
//! it of the same thread and operation, so that little is left to be compressed.
//!
//! `docs/RECORDING.md` describes the columns. Each has a number; a reader skips those that it does not know.

use ipc_trace_common::op;

use super::Damage;

/// The columns, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum ColumnKind {
    /// Runs of inputs of one kind: the length, times 8, plus the kind
    Order = 0,
    /// The callers, as each appears for the first time
    Callers = 1,
    /// By call and batch: its caller
    Caller = 2,
    /// Operations with ABI and flags, as each appears for the first time
    Shapes = 3,
    /// By call: its shape
    Shape = 4,
    /// By call: when it returned, after the call before it
    Time = 5,
    /// By call: how long it took, plus 1; 0: unknown
    Duration = 6,
    /// By call: which of the following it has
    Changed = 7,
    /// Arguments and results that differ from those of the thread's call before of that operation
    Values = 8,
    /// Payloads that differ likewise
    Payloads = 9,
    /// By read: both times, after those of the read before it
    Reads = 10,
    /// Batches
    Batches = 11,
    /// Rare inputs, each after its length
    Rare = 12,
}

pub(super) use ColumnKind as C;

pub(super) const COLUMNS: usize = C::Rare as usize + 1;

/// Bits of [`ColumnKind::Changed`], above those of the five arguments.
pub(super) const RESULT: u64 = 1 << 5;
pub(super) const PAYLOAD: u64 = 1 << 6;

/// A thread's last call of an operation.
#[derive(Clone, Debug, Default)]
pub(super) struct LastCall {
    /// Its arguments
    pub args: [u64; 5],
    /// Its result
    pub ret: i64,
    /// Its payload
    pub part: Vec<u8>,
}

/// The last calls, by caller and operation.
#[derive(Debug, Default)]
pub(super) struct LastCalls {
    places: Vec<[u32; op::COUNT + 1]>,
    all: Vec<LastCall>,
}

impl LastCalls {
    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.places.clear();
        self.all.clear();
    }

    #[inline]
    /// The last call of an operation by a caller.
    ///
    /// # Errors
    /// There is no such operation.
    pub(super) fn get_mut(&mut self, caller: usize, op: u8) -> Result<&mut LastCall, Damage> {
        if caller >= self.places.len() {
            self.places.resize(caller + 1, [u32::MAX; op::COUNT + 1]);
        }
        let place = self.places.get_mut(caller).and_then(|ops| ops.get_mut(usize::from(op)));
        let place = place.ok_or(Damage::Content("no such operation"))?;
        if *place == u32::MAX {
            *place = self.all.len() as u32;
            self.all.push(LastCall::default());
        }
        self.all.get_mut(*place as usize).ok_or(Damage::Content("no such operation"))
    }
}
