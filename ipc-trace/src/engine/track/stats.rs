//! Counts by namespace and operation, for the report.
//!
//! Invariant: `calls` and `errors` are exact for every listed namespace: delivered calls plus those that the
//! kernel counted because it couldn't deliver them.

use std::collections::{BTreeMap, VecDeque};

use ipc_trace_common::{
    op::{self, Op},
    record::{BatchHead, NO_DURATION, NsRef},
};
use minicbor::{Decode, Encode};

use super::{
    ObjectLocation, Tracker,
    last_hit::LastHitMap,
    namespaces::is_host,
    objects::snapshots::Holders,
    processes::{CallCounts, CallingProcess, NamespaceProcesses},
};
use crate::event::shared::SharedState;
use crate::{
    engine::track::containers::ContainerHandle,
    engine::track::containers::sharing,
    event::{
        LossBy,
        histogram::DurationHistogram,
        objects::ObjectReport,
        report::{
            CallTotals, Created, Destroyed, Durations, EvictedCounts, NamespaceReport, OpReport,
        },
        value::{CallError, OpName},
    },
    input::Call,
    input::batch::BatchGroup,
};

/// Number of dead namespaces listed one by one. Earlier dead ones are evicted, and counted together.
const MAX_DEAD: usize = 1 << 13;

/// One operation in one namespace.
#[derive(Clone, Debug, Encode, Decode)]
struct OpStats {
    #[n(0)]
    calls: u64,
    /// There are few kinds: a list is faster than a map.
    #[n(1)]
    errors: Vec<(CallError, u64)>,
    #[n(2)]
    bytes: u64,
    #[n(3)]
    durations: Option<DurationHistogram>,
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
        let mut durations_ns = durations_ns.into_iter().peekable();
        if durations_ns.peek().is_some() {
            let histogram = self.durations.get_or_insert_default();
            durations_ns.for_each(|duration_ns| histogram.add(duration_ns));
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
            bytes: op.carries_message().then_some(self.bytes),
            duration_ns: self.durations.as_ref().map(|h| Durations {
                p50: h.quantile(0.5),
                p90: h.quantile(0.9),
                p99: h.quantile(0.99),
                max: h.max(),
            }),
        }
    }
}

/// One namespace.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
struct NsStats {
    #[n(0)]
    ops: [Option<Box<OpStats>>; op::COUNT],
    #[n(1)]
    processes: NamespaceProcesses,
    #[n(2)]
    foreign_calls: u64,
    #[n(3)]
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
#[derive(Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct Stats {
    #[n(0)]
    namespaces: LastHitMap<NsRef, NsStats>,
    #[n(1)]
    dead: VecDeque<NsRef>,
    #[n(2)]
    unattributed: BTreeMap<OpName, CallTotals>,
    #[n(3)]
    evicted: EvictedCounts,
}

impl Stats {
    fn namespace_entry(&mut self, ns: NsRef) -> &mut NsStats {
        self.namespaces.get_or_insert(ns, |_| NsStats::new(NamespaceProcesses::default()))
    }

    /// Counts a delivered call.
    pub(crate) fn call(&mut self, call: &Call<'_>, tracker: &Tracker) {
        let record = call.record;
        let error = CallError::from_ret(record.ret);
        let task_info = tracker.contexts.get(record.tid, record.context);
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
        own.processes.count(&caller, task_info, counts);
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
            other.processes.count(&caller, task_info, counts);
        }
    }

    /// Counts a group of batched calls.
    pub(crate) fn group(&mut self, head: &BatchHead, group: &BatchGroup<'_>, tracker: &Tracker) {
        let task_info = tracker.contexts.get(head.tid, head.context);
        let own = self.namespace_entry(head.ns);
        let stats = own.op(group.op);
        if group.op.blocks() {
            stats.took(group.durations());
        }
        stats.add(group.error, group.count);
        stats.bytes += message_bytes(group.op, group.sent, group.results.cast_signed());
        let caller = CallingProcess {
            pid: head.pid,
            comm: head.comm,
            uid: head.euid,
            gid: head.egid,
            boot_ns: group.last_ns,
        };
        let calls = group.count;
        let place = tracker.place_of_group(head, group);
        let foreign = if place.foreign == Some(true) { calls } else { 0 };
        let failed = calls - group.succeeded();
        let counts = CallCounts { calls, failed, foreign };
        own.processes.count(&caller, task_info, counts);
        if let (1.., Some(ns)) = (foreign, place.ns) {
            let other = self.namespace_entry(ns);
            other.foreign_calls += calls;
            other.processes.count(&caller, task_info, counts);
        }
    }

    /// Adds a container with a process in a namespace, whether or not that makes calls.
    pub(crate) fn lives(&mut self, ns: NsRef, container: &ContainerHandle) {
        self.namespace_entry(ns).processes.lives(container);
    }

    /// Counts lost calls.
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

    /// A namespace died; the oldest dead ones may be evicted.
    pub(crate) fn died(&mut self, ns: NsRef) {
        self.dead.push_back(ns);
        while self.dead.len() > MAX_DEAD {
            if let Some(ns) = self.dead.pop_front() {
                self.evict_namespace(ns);
            }
        }
    }

    fn evict_namespace(&mut self, ns: NsRef) {
        self.evicted.namespaces += 1;
        let Some(stats) = self.namespaces.remove(&ns) else {
            return;
        };
        for (op, stats) in stats.ops() {
            let sum = self.evicted.ops.entry(OpName(op)).or_default();
            let counts = stats.counts();
            sum.calls += counts.calls;
            sum.failed += counts.failed;
            sum.restarts += counts.restarts;
            for (error, count) in counts.errors {
                *sum.errors.entry(error).or_default() += count;
            }
        }
    }

    /// Lost calls whose namespace is unknown.
    #[must_use]
    pub(crate) const fn unattributed(&self) -> &BTreeMap<OpName, CallTotals> {
        &self.unattributed
    }

    /// The counts of evicted namespaces; `None`: there are none.
    #[must_use]
    pub(crate) fn evicted(&self) -> Option<EvictedCounts> {
        (self.evicted.namespaces > 0).then(|| self.evicted.clone())
    }

    /// All namespaces: the host's first, then by number. `end`: the holders at the end, if known.
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
        // Evicted namespaces aren't listed again.
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

/// Bytes of messages that successful calls sent or received; `size`: the sum of their third arguments, `ret`:
/// the sum of their results.
#[expect(clippy::wildcard_enum_match_arm, reason = "no other operation carries a message")]
pub(super) fn message_bytes(op: Op, size: u64, ret: i64) -> u64 {
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
        created: info.and_then(|i| i.creation.as_ref()).map(|creation| Created {
            time: time(creation.boot_ns),
            process: creation
                .by
                .as_ref()
                .map(|task_info| task_info.process(creation.tid).into_owned()),
        }),
        destroyed: info
            .and_then(|i| i.death)
            .map(|death| Destroyed { after: death.after.map(time), before: time(death.before) }),
        sharing: sharing::classify_sharing(&containers, shown.host),
        containers,
        containers_folded,
        processes: stats.processes.report(&tracker.containers),
        processes_folded: stats.processes.evicted(),
        ops: stats.ops().map(|(op, stats)| (OpName(op), stats.report(op))).collect(),
        foreign_calls: stats.foreign_calls,
        dropped: stats.dropped,
        objects,
    }
}
