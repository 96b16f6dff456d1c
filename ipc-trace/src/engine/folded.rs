//! Accesses that the eBPF programs counted, and did not tell of each: they are as the last one like them that it
//! told of.

use std::rc::Rc;

use ipc_trace_common::{
    record::AccessRecord,
    state::{FOLD_NS, FOLDS, Fold, FoldKey},
};

use super::Engine;
use crate::engine::track::{HashMap, Tracker, contexts::TaskInfo};

/// What was told of, to be found again by what such accesses have in common.
#[derive(Debug, Default)]
pub(super) struct ReportedAccesses(HashMap<FoldKey, LastReport>);

/// The last one, and who did it, who may have ended when others like it are counted.
#[derive(Debug)]
struct LastReport {
    record: Box<AccessRecord>,
    facts: Option<Rc<TaskInfo>>,
}

/// Records are kept for as long as the eBPF programs may count more like them, and longer.
const KEPT_NS: u64 = 60 * FOLD_NS;

impl ReportedAccesses {
    pub(super) fn note(&mut self, record: &AccessRecord, tracker: &Tracker) {
        // More than the eBPF programs have room for: then those that are told of each are among them.
        if self.0.len() >= 2 * FOLDS as usize {
            let old = record.boot_ns.saturating_sub(KEPT_NS);
            self.0.retain(|_, one| one.record.boot_ns >= old);
            if self.0.len() >= 2 * FOLDS as usize {
                self.0.clear();
            }
        }
        let facts = tracker.contexts.get(record.tid, record.context).cloned();
        self.0.insert(key(record), LastReport { record: Box::new(*record), facts });
    }
}

fn key(record: &AccessRecord) -> FoldKey {
    FoldKey {
        pid_tgid: u64::from(record.pid) << 32 | u64::from(record.tid),
        file: record.file,
        ns: record.object.ns,
        channel: u32::from(record.header.code),
        reserved: 0,
    }
}

impl Engine {
    /// Accesses that were counted, by what they have in common. The rings have been drained since.
    pub(super) fn folded(&mut self, folded: &[(FoldKey, Fold)]) {
        for (key, Fold { sent_ns, count }) in folded {
            let count = u32::try_from(*count).unwrap_or(u32::MAX);
            match self.told.0.get(key) {
                Some(LastReport { record, facts }) => {
                    let record = AccessRecord { boot_ns: *sent_ns, count, ..**record };
                    self.detect.access_by(&record, facts.as_ref(), &self.tracker);
                }
                None => self.detect.count_undetermined(count.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ipc_trace_common::record::{Channel, NsRef, queue_flag};
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::{
        engine::{detect::store::FindingSelection, policy::judge::PolicyEngine},
        input::Begin,
    };

    #[test]
    fn what_was_counted_is_added_to_what_was_told() {
        let mut record = AccessRecord::new_zeroed();
        record.header.code = Channel::SysvipcRead as u8;
        (record.pid, record.tid, record.count, record.file) = (5, 6, 1, 7);
        record.ns = NsRef { inum: 1, generation: 1 };
        record.object.ns = NsRef { inum: 2, generation: 1 };
        record.object.flags = queue_flag::KNOWN | queue_flag::FOREIGN;
        let mut engine = Engine::new(Begin::default(), PolicyEngine::default());
        engine.told.note(&record, &engine.tracker);
        engine.detect.access(&record, &engine.tracker);
        let unknown = FoldKey { file: 8, ..key(&record) };
        let fold = |count| Fold { sent_ns: 10, count };
        engine.folded(&[(key(&record), fold(41)), (unknown, fold(3)), (key(&record), fold(8))]);
        let found = engine.detect.findings.show(
            FindingSelection::Grown,
            &mut engine.tracker,
            std::time::UNIX_EPOCH,
        );
        let counts: Vec<_> = found.iter().map(|shown| shown.finding.count).collect();
        assert_eq!((counts, engine.detect.undetermined()), (vec![50], 3));
    }
}
