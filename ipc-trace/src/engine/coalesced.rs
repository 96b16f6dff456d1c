//! Accesses that the eBPF programs count instead of sending a record for each. They are attributed to the
//! last equal access that was sent.

use std::rc::Rc;

use ipc_trace_common::{
    record::AccessRecord,
    state::{COALESCE_NS, Coalesced, CoalescedKey, MAX_COALESCED},
};
use minicbor::{Decode, Encode};

use super::Engine;
use crate::engine::track::{OrderedMap, Tracker, contexts::TaskInfo};
use crate::event::shared::SharedState;

/// The last access that was sent for each coalescing key.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(super) struct ReportedAccesses(#[n(0)] OrderedMap<CoalescedKey, LastReport>);

/// The last access, and the task that made it. The task may have ended when later accesses are counted.
#[derive(Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
struct LastReport {
    #[cbor(n(0), with = "ipc_trace_common::cbor")]
    record: Box<AccessRecord>,
    #[cbor(n(1), with = "crate::event::shared::optional")]
    task_info: Option<Rc<TaskInfo>>,
}

/// How long a record is kept, nanoseconds: longer than the eBPF programs coalesce accesses under one key.
const MAX_AGE_NS: u64 = 60 * COALESCE_NS;

impl ReportedAccesses {
    pub(super) fn note(&mut self, record: &AccessRecord, tracker: &Tracker) {
        // The table has more entries than the eBPF programs' own, so every counted access has its record
        // here.
        if self.0.len() >= 2 * MAX_COALESCED as usize {
            let old = record.boot_ns.saturating_sub(MAX_AGE_NS);
            self.0.retain(|_, one| one.record.boot_ns >= old);
            if self.0.len() >= 2 * MAX_COALESCED as usize {
                self.0.clear();
            }
        }
        let task_info = tracker.contexts.get(record.tid, record.context).cloned();
        self.0.insert(key(record), LastReport { record: Box::new(*record), task_info });
    }
}

fn key(record: &AccessRecord) -> CoalescedKey {
    CoalescedKey {
        pid_tgid: u64::from(record.pid) << 32 | u64::from(record.tid),
        file: record.file,
        ns: record.object.ns,
        channel: u32::from(record.header.code),
        reserved: 0,
    }
}

impl Engine {
    /// Applies the counts of coalesced accesses. The rings have been drained before.
    pub(super) fn coalesced_accesses(&mut self, coalesced_accesses: &[(CoalescedKey, Coalesced)]) {
        for (key, Coalesced { sent_ns, count }) in coalesced_accesses {
            let count = u32::try_from(*count).unwrap_or(u32::MAX);
            match self.reported_accesses.0.get(key) {
                Some(LastReport { record, task_info }) => {
                    let record = AccessRecord { boot_ns: *sent_ns, count, ..**record };
                    self.detect.access_by(&record, task_info.as_ref(), &self.tracker);
                }
                None => self.detect.count_undetermined(count.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ipc_trace_common::record::{AccessPath, NsRef, queue_flag};
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::{
        engine::{detect::finding_store::FindingSelection, policy::engine::PolicyEngine},
        input::Begin,
    };

    #[test]
    fn coalesced_accesses_are_added_to_the_reported_one() {
        let mut record = AccessRecord::new_zeroed();
        record.header.code = AccessPath::SysvipcRead as u8;
        (record.pid, record.tid, record.count, record.file) = (5, 6, 1, 7);
        record.ns = NsRef { inum: 1, generation: 1 };
        record.object.ns = NsRef { inum: 2, generation: 1 };
        record.object.flags = queue_flag::KNOWN | queue_flag::FOREIGN;
        let mut engine = Engine::new(Begin::default(), PolicyEngine::default());
        engine.reported_accesses.note(&record, &engine.tracker);
        engine.detect.access(&record, &engine.tracker);
        let unknown = CoalescedKey { file: 8, ..key(&record) };
        let coalesced = |count| Coalesced { sent_ns: 10, count };
        engine.coalesced_accesses(&[
            (key(&record), coalesced(41)),
            (unknown, coalesced(3)),
            (key(&record), coalesced(8)),
        ]);
        let found = engine.detect.findings.show(
            FindingSelection::Updated,
            &mut engine.tracker,
            std::time::UNIX_EPOCH,
        );
        let counts: Vec<_> = found.iter().map(|shown| shown.finding.count).collect();
        assert_eq!((counts, engine.detect.undetermined()), (vec![50], 3));
    }
}
