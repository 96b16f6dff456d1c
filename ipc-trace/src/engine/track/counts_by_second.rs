//! Counts of calls by second, for recordings: a summary of a long time then needs not all calls.
//!
//! They are no part of the state that events depend on, and nothing here keeps anything of that state alive.
//!
//! Invariant: what is counted is what [`super::stats`] counts.

use std::sync::Arc;

use ipc_trace_common::{
    op::Op,
    record::{BatchHead, NO_DURATION, NsRef},
};

use super::{OrderedMap, Tracker, stats::message_bytes};
use crate::{
    event::{
        Container, IpcNs, LossBy,
        counts::SecondCounts,
        histogram::SparseHistogram,
        value::{CallError, OpName},
    },
    input::{Call, batch::BatchGroup},
};

/// How many rows are found without hashing: calls of several threads, and of several operations, come mixed.
const RECENT: usize = 64;

/// What calls have in common that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct SecondKey {
    second: u64,
    ns: Option<NsRef>,
    /// The address of the container, which the row keeps; 0: none
    container: usize,
    op: Op,
    error: Option<CallError>,
}

impl SecondKey {
    /// Where the row is among the recent ones. It is the same in each second, so that a new one takes the place.
    #[inline]
    fn slot(&self) -> usize {
        let error = self.error.map_or(0, |error| usize::from(error.0));
        let ns = self.ns.map_or(0, |ns| ns.inum as usize);
        let sum = (self.op as usize)
            .wrapping_add(error.wrapping_mul(17))
            .wrapping_add(ns.wrapping_mul(29))
            // Addresses are multiples of 8.
            .wrapping_add(self.container >> 3);
        sum % RECENT
    }
}

/// The counts of such calls.
#[derive(Debug)]
struct SecondRow {
    ipc_ns: Option<IpcNs>,
    container: Option<Arc<Container>>,
    calls: u64,
    bytes: u64,
    foreign: u64,
    lost: u64,
    durations: SparseHistogram,
}

impl SecondRow {
    fn new(ipc_ns: Option<IpcNs>, container: Option<&Arc<Container>>) -> Self {
        Self {
            ipc_ns,
            container: container.cloned(),
            calls: 0,
            bytes: 0,
            foreign: 0,
            lost: 0,
            durations: SparseHistogram::default(),
        }
    }

    /// Lengths come from callers, and the sum of those in a recording can be anything.
    #[inline]
    fn add_bytes(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// Counts since they were last taken.
#[derive(Debug)]
pub(crate) struct CountsBySecond {
    rows: OrderedMap<SecondKey, SecondRow>,
    /// The indices of recent rows, by their slots. Each may be another row's by now.
    recent: [usize; RECENT],
}

impl Default for CountsBySecond {
    fn default() -> Self {
        Self { rows: OrderedMap::default(), recent: [0; RECENT] }
    }
}

impl CountsBySecond {
    /// How many rows there are.
    #[must_use]
    pub(crate) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Removes and returns all counts.
    pub(crate) fn take(&mut self) -> Vec<SecondCounts> {
        let all = std::mem::take(&mut self.rows).into_iter();
        all.map(|(key, row)| SecondCounts {
            second: key.second,
            ipc_ns: row.ipc_ns,
            container: row.container,
            op: OpName(key.op),
            error: key.error,
            calls: row.calls,
            bytes: key.op.carries_message().then_some(row.bytes),
            foreign: row.foreign,
            lost: row.lost,
            durations: Some(row.durations).filter(|durations| !durations.is_empty()),
        })
        .collect()
    }

    /// The row of such calls. `thread`: the number and the context of the calling thread; `None`: unknown.
    #[inline]
    fn row(
        &mut self,
        boot_ns: u64,
        ns: Option<NsRef>,
        thread: Option<(u32, u64)>,
        (op, error): (Op, Option<CallError>),
        tracker: &Tracker,
    ) -> &mut SecondRow {
        let task_info = thread.and_then(|(tid, context)| tracker.contexts.get(tid, context));
        let handle = task_info.and_then(|task_info| task_info.container.as_ref());
        let container = handle.map(|handle| tracker.containers.borrowed(handle));
        let key = SecondKey {
            second: tracker.clock.second(boot_ns),
            ns,
            container: container.map_or(0, |container| Arc::as_ptr(container).addr()),
            op,
            error,
        };
        let slot = key.slot();
        let mut at = self.recent.get(slot).copied().unwrap_or_default();
        if self.rows.get_index(at).is_none_or(|(known, _)| *known != key) {
            let make = || SecondRow::new(ns.map(|ns| tracker.namespaces.show(ns)), container);
            at = self.find_or_insert(key, make);
            if let Some(recent) = self.recent.get_mut(slot) {
                *recent = at;
            }
        }
        #[expect(clippy::indexing_slicing, reason = "it was found there, or put there")]
        &mut self.rows[at]
    }

    #[cold]
    fn find_or_insert(&mut self, key: SecondKey, make: impl FnOnce() -> SecondRow) -> usize {
        let known = self.rows.get_index_of(&key);
        known.unwrap_or_else(|| self.rows.insert_full(key, make()).0)
    }

    /// Counts a delivered call.
    #[inline]
    pub(crate) fn call(&mut self, call: &Call<'_>, tracker: &Tracker) {
        let record = call.record;
        let error = CallError::from_ret(record.ret);
        let thread = Some((record.tid, record.context));
        let what = (call.op, error);
        let row = self.row(record.boot_ns, Some(record.ns), thread, what, tracker);
        row.calls += 1;
        row.foreign += u64::from(tracker.place(call).foreign == Some(true));
        if record.duration_ns != NO_DURATION {
            row.durations.insert(record.duration_ns);
        }
        if error.is_none() {
            let [_, _, size, ..] = record.args;
            row.add_bytes(message_bytes(call.op, size, record.ret));
        }
    }

    /// Counts a group of batched calls, as of the time of the last one.
    pub(crate) fn group(&mut self, head: &BatchHead, group: &BatchGroup<'_>, tracker: &Tracker) {
        let thread = Some((head.tid, head.context));
        let what = (group.op, group.error);
        let row = self.row(group.last_ns, Some(head.ns), thread, what, tracker);
        row.calls += group.count;
        if tracker.place_of_group(head, group).foreign == Some(true) {
            row.foreign += group.count;
        }
        if group.op.blocks() {
            group.durations().for_each(|duration_ns| row.durations.insert(duration_ns));
        }
        row.add_bytes(message_bytes(group.op, group.sent, group.results.cast_signed()));
    }

    /// Counts calls whose loss was noticed at `now`.
    pub(crate) fn lost(&mut self, loss: &LossBy, now: u64, tracker: &Tracker) {
        let ns = loss.inum.zip(loss.r#gen);
        let ns = ns.map(|(inum, generation)| NsRef { inum, generation });
        let row = self.row(now, ns, None, (loss.op.0, loss.error), tracker);
        row.calls += loss.count;
        row.lost += loss.count;
    }
}
