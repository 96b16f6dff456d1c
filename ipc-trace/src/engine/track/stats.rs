//! Counts by namespace and operation, for the report.
//!
//! Invariant: `calls` and `errors` are exact for every namespace that is listed: what was delivered,
//! plus what the kernel counted because it could not deliver it.

use std::collections::{BTreeMap, VecDeque};

use hdrhistogram::Histogram;
use ipc_trace_common::{
    op::{self, Op},
    record::{BatchHead, NO_DURATION, NsRef},
};

use super::{
    ObjectLocation, Tracker,
    last_hit::LastHitMap,
    namespaces::is_host,
    objects::looks::Holders,
    processes::{CallCounts, CallingProcess, NamespaceProcesses},
};
use crate::{
    engine::track::containers::ContainerHandle,
    engine::track::containers::sharing,
    event::{
        LossBy,
        objects::ObjectReport,
        report::{CallTotals, Created, Destroyed, Durations, Folded, NamespaceReport, OpReport},
        value::{CallError, OpName},
    },
    input::Call,
    input::batch::BatchGroup,
};

/// Dead namespaces that are listed one by one. Those that died first make room, and are counted
/// together.
const DEAD: usize = 1 << 13;

/// One operation in one namespace.
#[derive(Clone, Debug)]
struct OpStats {
    calls: u64,
    /// Few kinds: a list is faster than a table.
    errors: Vec<(CallError, u64)>,
    bytes: u64,
    durations: Option<Histogram<u64>>,
}

impl OpStats {
    const fn new() -> Self {
        Self { calls: 0, errors: Vec::new(), bytes: 0, durations: None }
    }

    fn add(&mut self, error: Option<CallError>, count: u64) {
        self.calls += count;
        if let Some(error) = error {
            match self.errors.iter_mut().find(|known| known.0 == error) {
                Some(known) => known.1 += count,
                None => self.errors.push((error, count)),
            }
        }
    }

    fn took(&mut self, durations_ns: impl IntoIterator<Item = u64>) {
        // Two significant digits: within 1 %. Without bounds, it grows to what comes.
        let histogram = match &mut self.durations {
            Some(histogram) => histogram,
            // `new` fails for more than five digits alone.
            none => match Histogram::new(2) {
                Ok(histogram) => none.insert(histogram),
                Err(_) => return,
            },
        };
        for duration_ns in durations_ns {
            // Fails when it can't grow; this one can.
            let _ = histogram.record(duration_ns);
        }
    }

    fn counts(&self) -> CallTotals {
        let errors: BTreeMap<_, _> = self.errors.iter().copied().collect();
        CallTotals {
            calls: self.calls,
            failed: errors.values().sum(),
            restarts: errors.iter().filter(|e| e.0.is_restart()).map(|e| e.1).sum(),
            errors,
        }
    }

    fn report(&self, op: Op) -> OpReport {
        OpReport {
            counts: self.counts(),
            bytes: carries_message(op).then_some(self.bytes),
            duration_ns: self.durations.as_ref().map(|h| Durations {
                p50: h.value_at_quantile(0.5),
                p90: h.value_at_quantile(0.9),
                p99: h.value_at_quantile(0.99),
                max: h.max(),
            }),
        }
    }
}

const fn carries_message(op: Op) -> bool {
    matches!(op, Op::Msgsnd | Op::Msgrcv | Op::MqSend | Op::MqReceive)
}

/// One namespace.
#[derive(Clone, Debug)]
struct NsStats {
    ops: [Option<Box<OpStats>>; op::COUNT],
    processes: NamespaceProcesses,
    foreign_calls: u64,
    dropped: u64,
}

impl NsStats {
    const fn new(processes: NamespaceProcesses) -> Self {
        Self { ops: [const { None }; op::COUNT], processes, foreign_calls: 0, dropped: 0 }
    }

    fn op(&mut self, op: Op) -> &mut OpStats {
        // Numbers of operations start at 1.
        #[expect(clippy::indexing_slicing, reason = "there is a place for every operation")]
        let place = &mut self.ops[op as usize - 1];
        place.get_or_insert_with(|| Box::new(OpStats::new()))
    }

    fn ops(&self) -> impl Iterator<Item = (Op, &OpStats)> {
        Op::ALL.into_iter().zip(&self.ops).filter_map(|(op, stats)| Some((op, stats.as_deref()?)))
    }
}

/// Counts of everything.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    namespaces: LastHitMap<NsRef, NsStats>,
    dead: VecDeque<NsRef>,
    unattributed: BTreeMap<OpName, CallTotals>,
    folded: Folded,
}

impl Stats {
    fn namespace_entry(&mut self, ns: NsRef) -> &mut NsStats {
        self.namespaces.get_or_insert(ns, |_| NsStats::new(NamespaceProcesses::default()))
    }

    /// A call was delivered.
    pub(crate) fn call(&mut self, call: &Call<'_>, tracker: &Tracker) {
        let record = call.record;
        let error = CallError::from_ret(record.ret);
        let facts = tracker.contexts.get(record.tid, record.context);
        let place = tracker.place(call);
        let foreign = place.foreign == Some(true);
        let counts = CallCounts {
            calls: 1,
            failed: u64::from(error.is_some()),
            foreign: u64::from(foreign),
        };
        let caller = CallingProcess {
            pid: record.pid,
            comm: record.comm,
            uid: record.euid,
            gid: record.egid,
            boot_ns: record.boot_ns,
        };

        let own = self.namespace_entry(record.ns);
        own.processes.count(&caller, facts, counts);
        let stats = own.op(call.op);
        stats.add(error, 1);
        if record.duration_ns != NO_DURATION {
            stats.took([record.duration_ns]);
        }
        if error.is_none() {
            let [_, _, size, ..] = record.args;
            stats.bytes += message_bytes(call.op, size, record.ret);
        }
        if let (true, ObjectLocation { ns: Some(ns), .. }) = (foreign, place) {
            let other = self.namespace_entry(ns);
            other.foreign_calls += 1;
            other.processes.count(&caller, facts, counts);
        }
    }

    /// Calls were delivered that came together.
    pub(crate) fn group(&mut self, head: &BatchHead, group: &BatchGroup<'_>, tracker: &Tracker) {
        let facts = tracker.contexts.get(head.tid, head.context);
        let own = self.namespace_entry(head.ns);
        let stats = own.op(group.op);
        if group.op.blocks() {
            stats.took(group.calls().map(|call| call.duration_ns));
        }
        stats.calls += group.succeeded;
        stats.bytes += message_bytes(group.op, group.sent, group.results);
        let failed = group.count() - group.succeeded;
        if failed != 0 {
            for error in group.calls().filter_map(|call| CallError::from_ret(i64::from(call.ret))) {
                stats.add(Some(error), 1);
            }
        }
        let caller = CallingProcess {
            pid: head.pid,
            comm: head.comm,
            uid: head.euid,
            gid: head.egid,
            boot_ns: group.last_ns,
        };
        let calls = group.count();
        let place = tracker.place_of_group(head, group);
        let foreign = if place.foreign == Some(true) { calls } else { 0 };
        let counts = CallCounts { calls, failed, foreign };
        own.processes.count(&caller, facts, counts);
        if let (1.., Some(ns)) = (foreign, place.ns) {
            let other = self.namespace_entry(ns);
            other.foreign_calls += calls;
            other.processes.count(&caller, facts, counts);
        }
    }

    /// A container has a process in a namespace, whether or not that makes calls.
    pub(crate) fn lives(&mut self, ns: NsRef, container: &ContainerHandle) {
        self.namespace_entry(ns).processes.lives(container);
    }

    /// Calls were lost, of which only this is known.
    pub(crate) fn lost(&mut self, loss: &LossBy) {
        match (loss.inum, loss.r#gen) {
            (Some(inum), Some(generation)) => {
                let stats = self.namespace_entry(NsRef { inum, generation });
                stats.dropped += loss.count;
                stats.op(loss.op.0).add(loss.error, loss.count);
            }
            _ => add(self.unattributed.entry(loss.op).or_default(), loss.error, loss.count),
        }
    }

    /// A namespace died.
    pub(crate) fn died(&mut self, ns: NsRef) {
        self.dead.push_back(ns);
        while self.dead.len() > DEAD {
            if let Some(ns) = self.dead.pop_front() {
                self.fold(ns);
            }
        }
    }

    fn fold(&mut self, ns: NsRef) {
        self.folded.namespaces += 1;
        let Some(stats) = self.namespaces.remove(&ns) else {
            return;
        };
        for (op, stats) in stats.ops() {
            let sum = self.folded.ops.entry(OpName(op)).or_default();
            let counts = stats.counts();
            sum.calls += counts.calls;
            sum.failed += counts.failed;
            sum.restarts += counts.restarts;
            for (error, count) in counts.errors {
                *sum.errors.entry(error).or_default() += count;
            }
        }
    }

    /// Lost calls of which not even the namespace is known.
    #[must_use]
    pub(crate) const fn unattributed(&self) -> &BTreeMap<OpName, CallTotals> {
        &self.unattributed
    }

    /// What had to make room, if anything.
    #[must_use]
    pub(crate) fn folded(&self) -> Option<Folded> {
        (self.folded.namespaces > 0).then(|| self.folded.clone())
    }

    /// All namespaces: the host's first, then by number. `end`: who there was at the end, if that is
    /// known.
    #[must_use]
    pub(crate) fn report(&self, tracker: &Tracker, end: Option<&Holders>) -> Vec<NamespaceReport> {
        let known = tracker.namespaces.all();
        let mut all: Vec<NsRef> = known.iter().map(|one| one.0).collect();
        all.extend(
            self.namespaces
                .iter()
                .map(|one| one.0)
                .filter(|ns| tracker.namespaces.get(**ns).is_none()),
        );
        // Those that were folded are not listed again.
        let dead_and_listed: std::collections::BTreeSet<_> = self.dead.iter().copied().collect();
        all.retain(|ns| {
            self.namespaces.get(ns).is_some()
                || dead_and_listed.contains(ns)
                || tracker.namespaces.get(*ns).is_some_and(|info| info.death.is_none())
        });
        all.sort_unstable_by_key(|ns| (!is_host(*ns), *ns));
        let none = NsStats::new(NamespaceProcesses::default());
        let mut objects = tracker.objects.report(&tracker.clock, &tracker.containers, end);
        let report = |ns| {
            let objects = objects.remove(&ns).unwrap_or_default();
            namespace(ns, self.namespaces.get(&ns).unwrap_or(&none), tracker, objects)
        };
        all.into_iter().map(report).collect()
    }
}

fn add(calls: &mut CallTotals, error: Option<CallError>, count: u64) {
    calls.calls += count;
    if let Some(error) = error {
        calls.failed += count;
        *calls.errors.entry(error).or_default() += count;
        if error.is_restart() {
            calls.restarts += count;
        }
    }
}

/// Bytes of messages that successful calls sent or received; `size`: their third arguments, `ret`: their
/// results, together.
#[expect(clippy::wildcard_enum_match_arm, reason = "no others carry a message")]
fn message_bytes(op: Op, size: u64, ret: i64) -> u64 {
    match op {
        Op::Msgsnd | Op::MqSend => size,
        Op::Msgrcv | Op::MqReceive => u64::try_from(ret).unwrap_or(0),
        _ => 0,
    }
}

fn namespace(
    ns: NsRef,
    stats: &NsStats,
    tracker: &Tracker,
    objects: Vec<ObjectReport>,
) -> NamespaceReport {
    let shown = tracker.namespaces.show(ns);
    let info = tracker.namespaces.get(ns);
    let time = |boot_ns| tracker.clock.time(boot_ns);
    let (containers, containers_folded) = stats.processes.containers(&tracker.containers);
    NamespaceReport {
        inum: ns.inum,
        r#gen: ns.generation,
        ns_id: shown.ns_id,
        host: shown.host,
        created: info.and_then(|i| i.birth.as_ref()).map(|birth| Created {
            time: time(birth.boot_ns),
            process: birth.by.as_ref().map(|facts| facts.process(birth.tid).into_owned()),
        }),
        destroyed: info
            .and_then(|i| i.death)
            .map(|death| Destroyed { after: death.after.map(time), before: time(death.before) }),
        sharing: sharing::classify_sharing(&containers, shown.host),
        containers,
        containers_folded,
        processes: stats.processes.report(&tracker.containers),
        processes_folded: stats.processes.folded(),
        ops: stats.ops().map(|(op, stats)| (OpName(op), stats.report(op))).collect(),
        foreign_calls: stats.foreign_calls,
        dropped: stats.dropped,
        objects,
    }
}
