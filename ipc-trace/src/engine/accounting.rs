//! Builds the accounting and the list of pending calls for output.

use std::collections::BTreeMap;

use ipc_trace_common::record::{PendingRecord, queue_flag};

use super::Engine;
use crate::{
    engine::track::Tracker,
    event::{
        Accounting, ControlAccounting, OpAccounting, PendingCall,
        value::{AbiName, KindName, OpName, OsBytes},
    },
    input::{counters::CallCounters, namespace_list::NamespaceList},
};

/// One operation's counters. `unwanted` is the number of delivered calls that the container filter removed in
/// user space.
fn account(counts: &CallCounters, delivered: u64, unwanted: u64) -> OpAccounting {
    OpAccounting {
        seen: counts.seen,
        filtered: counts.filtered + unwanted,
        emitted: counts.emitted.saturating_sub(unwanted),
        dropped: counts.dropped,
        delivered: delivered.saturating_sub(unwanted),
        not_made: counts.not_made,
    }
}

impl Engine {
    /// The accounting so far. Operations without calls are left out.
    #[must_use]
    pub(super) fn accounting(&self) -> Accounting {
        let counted = &self.counted;
        let (counts, delivered) = (&counted.counts, &counted.delivered);
        let of = |all: &[u64], op: u8| all.get(usize::from(op)).copied().unwrap_or(0);
        let of_op = |counts: &CallCounters, op: u8| {
            account(counts, of(&delivered.ops, op), of(&self.unwanted, op))
        };
        Accounting {
            total: account(&counts.total(), delivered.calls(), self.unwanted.iter().sum()),
            missed: counts.missed,
            by_op: counts
                .ops
                .iter()
                .filter(|(_, counts)| counts.seen > 0 || counts.not_made > 0)
                .map(|(op, counts)| (OpName(*op), of_op(counts, *op as u8)))
                .collect(),
            control: ControlAccounting {
                emitted: counts.control.emitted,
                delivered: delivered.control,
                dropped: counts.control.dropped,
                withheld: counts.control.withheld,
            },
            resyncs: self.resync.accounting(),
            diagnostics: counted.diagnostics.clone(),
            findings: self.detect.findings.accounting(self.detect.undetermined()),
            reader_max_ns: counted.reader_max_ns,
            sinks: BTreeMap::new(),
        }
    }
}

/// The calls that haven't returned, the longest-running first.
#[must_use]
pub(super) fn pending(
    namespace_list: &NamespaceList,
    tracker: &Tracker,
    now: u64,
) -> Vec<PendingCall> {
    let mut pending: Vec<_> = namespace_list
        .pending
        .iter()
        // Calls that entered the kernel after the list was made are left out.
        .filter(|(record, ..)| record.enter_boot_ns <= now)
        .map(|(record, op, abi)| {
            let task_info = tracker.contexts.get(record.tid, record.context);
            // Identifiers and descriptors are ints; the register's upper half is undefined.
            let first = record.arg0 as i32;
            let by_descriptor = op.takes_descriptor();
            PendingCall {
                op: OpName(*op),
                abi: AbiName(*abi),
                pid: record.pid,
                tid: record.tid,
                comm: OsBytes::until_nul(&record.comm).into_owned(),
                exe: task_info.and_then(|f| f.exe.clone()),
                ipc_ns: tracker.namespaces.show(record.ns),
                kind: KindName(op.object_kind()),
                id: (!by_descriptor).then_some(first),
                mqdes: by_descriptor.then_some(first),
                name: queue_name(record, tracker),
                since: tracker.clock.time(record.enter_boot_ns),
                for_ns: now.saturating_sub(record.enter_boot_ns),
            }
        })
        .collect();
    pending.sort_by_key(|p| (std::cmp::Reverse(p.for_ns), p.tid));
    pending
}

fn queue_name(record: &PendingRecord, tracker: &Tracker) -> Option<OsBytes<'static>> {
    if record.queue.flags & queue_flag::KNOWN == 0 {
        return None;
    }
    tracker.queues.name(&record.queue).map(|(name, _)| name.into_owned())
}
