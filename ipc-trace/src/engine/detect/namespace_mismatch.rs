//! `namespace-mismatch`: a thread entered a namespace that it didn't create and that isn't its home, and kept
//! its mount and pid namespaces.
//!
//! A process that joins all namespaces (a shell in a container, a runtime that sets one up) changes its mount
//! namespace as well, before or after. So the switch is decided at the first IPC call that the thread or a
//! child of it makes there, when it leaves, or a second later.
//!
//! Invariant: state is bounded: at most [`MAX_THREADS`] threads that are in a namespace that they entered.

use std::{collections::VecDeque, rc::Rc};

use ipc_trace_common::{
    op::{Effect, Op},
    record::{ExitRecord, NsRef, NsSwitchKind, flag},
    state::HOST_INUM,
};
use minicbor::{Decode, Encode};

use super::{
    detector::{DetectCx, Detector, keeps_state},
    observation::{
        CallObservation, EvidenceEvent, FindingActor, FindingDraft, FindingKey, FindingTarget,
        NamespaceMove, ObservedCalls, comm_of,
    },
    phrases::thread,
};
use crate::event::shared::SharedState;
use crate::{
    engine::track::{OrderedMap, Tracker, containers::ContainerHandle, contexts::TaskInfo},
    event::NsInodes,
    event::finding::{Class, Severity},
    event::tag::NsTag,
    input::effect::CallEffect,
    input::process::InspectorRequest,
};

/// Interval between requests about one thread, nanoseconds.
const ASK_INTERVAL_NS: u64 = 10_000_000;

/// Number of threads kept.
const MAX_THREADS: usize = 4096;
/// How long a thread may take to join all namespaces, nanoseconds.
const FULL_JOIN_NS: u64 = 1_000_000_000;
/// Delay of the first request about a thread, nanoseconds: by then a runtime that joins several namespaces is
/// done.
const ASK_DELAY_NS: u64 = 20_000_000;
/// `O_CREAT` (include/uapi/asm-generic/fcntl.h)
const O_CREAT: u64 = 0o100;

const BENIGN: &str = "an administrator's tool (nsenter --ipc), an agent that inspects containers, or a \
                        supervisor that reaches into the namespace of what it runs";

/// The state of a thread that entered a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
enum MoveState {
    /// It may still join all namespaces.
    #[n(0)]
    Waiting,
    /// It has kept its mount namespace for a while.
    #[n(1)]
    Kept,
    /// It was reported.
    #[n(2)]
    Reported,
}

/// A thread that entered a namespace.
#[derive(Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
struct EnteredThread {
    #[n(0)]
    key: FindingKey,
    /// The draft, before the evidence is added.
    #[n(1)]
    draft: FindingDraft,
    #[n(2)]
    pid: u32,
    #[n(3)]
    to: NsRef,
    #[n(4)]
    trace: EvidenceEvent,
    /// Its mount namespace before the switch.
    #[n(5)]
    mnt: Option<u32>,
    /// Whether `mnt` was observed before the switch rather than inferred afterwards.
    #[n(6)]
    sure: bool,
    #[cbor(n(7), with = "crate::event::shared::optional")]
    task_info: Option<Rc<TaskInfo>>,
    #[n(8)]
    state: MoveState,
    /// Why it was reported.
    #[n(9)]
    by: Option<MismatchEvidence>,
    /// Earliest time of the next request about it.
    #[n(10)]
    ask_at: u64,
    /// Whether it is another ipc-trace that has only read.
    #[n(11)]
    tracer: bool,
}

/// The detector and its state.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(super) struct NamespaceMismatch {
    #[n(0)]
    inside: OrderedMap<u32, EnteredThread>,
    /// One entered thread of each process.
    #[n(1)]
    processes: OrderedMap<u32, u32>,
    #[n(2)]
    order: VecDeque<u32>,
    /// The first namespace of threads that switched, with their start times.
    #[n(3)]
    origins: OrderedMap<u32, (u64, NsRef)>,
    #[n(4)]
    waiting: usize,
    #[n(5)]
    homes: Homes,
}

/// The home namespace of containers, where it differs from the first one that a thread was seen in; and the
/// context that showed it, or 0.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
struct Homes(#[n(0)] OrderedMap<ContainerHandle, (NsRef, u64)>);

/// Number of containers whose homes are kept. When the table is full it is cleared and homes are learnt anew.
const MAX_HOMES: usize = 1 << 13;

impl Homes {
    /// The thread's container has its home in that namespace: a thread of it joined all namespaces there.
    fn lives_in(&mut self, task_info: Option<&Rc<TaskInfo>>, ns: NsRef) {
        if let Some(container) = task_info.and_then(|task_info| task_info.container.as_ref()) {
            if self.0.len() >= MAX_HOMES && !self.0.contains_key(container) {
                self.0.clear();
            }
            self.0.insert(container.clone(), (ns, 0));
        }
    }

    /// Whether a thread's home is the namespace that it entered. Its context may have been created after the
    /// switch.
    fn is_home(&mut self, moved: &NamespaceMove<'_>) -> bool {
        let NamespaceMove { record, mover, tracker, .. } = *moved;
        let Some(container) = mover.and_then(|task_info| task_info.container.as_ref()) else {
            return record.to.inum == HOST_INUM;
        };
        let home =
            self.0.get(container).copied().or_else(|| tracker.containers.first_ns(container));
        match home {
            Some((_, reported_by)) if reported_by == record.context && reported_by != 0 => {
                self.lives_in(mover, record.from);
                record.from == record.to
            }
            home => home.map(|(ns, _)| ns) == Some(record.to),
        }
    }
}

/// The evidence that a thread kept its other namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
enum MismatchEvidence {
    /// It made a call in the namespace.
    #[n(0)]
    Call,
    /// It left the namespace.
    #[n(1)]
    Leaving,
    /// It was inspected after a while.
    #[n(2)]
    Read,
    /// It exited after an inspection.
    #[n(3)]
    EndAfterSnapshot,
    /// It exited before an inspection.
    #[n(4)]
    End,
}

impl Detector for NamespaceMismatch {
    keeps_state!();

    #[inline]
    fn waits(&self) -> bool {
        self.waiting > 0
    }

    fn moved(&mut self, moved: &NamespaceMove<'_>, to: &mut DetectCx<'_>) {
        const SETNS: u32 = NsSwitchKind::Setns as u32;
        let record = moved.record;
        let task_info = moved.mover;
        let start = task_info.map_or(0, |task_info| task_info.start_boot_ns);
        const CLONE: u32 = NsSwitchKind::Clone as u32;
        if record.way == CLONE {
            return;
        }
        self.leave(record.tid, task_info, to);
        let origin = match self.origins.get(&record.tid) {
            Some((since, ns)) if *since == start => *ns,
            Some(_) | None => {
                self.remember_origin(record.tid, start, record.from);
                record.from
            }
        };
        if record.way != SETNS || record.to == origin {
            return;
        }
        if self.homes.is_home(moved) || made_by_own(record.to, moved) {
            return;
        }
        let (mnt, sure) = match full_join(moved) {
            FullJoin::Yes => {
                self.homes.lives_in(task_info, record.to);
                return;
            }
            FullJoin::NotYet { mnt, sure } => (mnt, sure),
        };
        self.enter(moved, mnt, sure);
    }

    #[inline]
    fn calls(&mut self, seen: &CallObservation<'_>, to: &mut DetectCx<'_>) {
        if !self.inside.is_empty() {
            self.calls_inside(seen, to);
        }
    }

    fn poll(&mut self, now: u64, to: &mut DetectCx<'_>) {
        if self.waiting == 0 {
            return;
        }
        for (tid, entered) in &mut self.inside {
            let since = now.saturating_sub(entered.trace.boot_ns);
            let due = match entered.state {
                MoveState::Reported => false,
                MoveState::Waiting => since >= ASK_DELAY_NS,
                MoveState::Kept => since >= FULL_JOIN_NS,
            };
            if due && now >= entered.ask_at {
                entered.ask_at = now.saturating_add(ASK_INTERVAL_NS);
                to.requests.push(InspectorRequest::Namespaces(*tid));
            }
        }
    }

    fn namespaces_seen(
        &mut self,
        tid: u32,
        found: Option<(u32, NsInodes)>,
        (at, ended): (u64, bool),
        to: &mut DetectCx<'_>,
    ) {
        let Some(entered) = self.inside.get_mut(&tid) else { return };
        if entered.state == MoveState::Reported {
            return;
        }
        let since = at.saturating_sub(entered.trace.boot_ns);
        let found = found.filter(|seen| seen.0 == entered.to.inum);
        match found.map(|(_, ns)| changed(entered.mnt, ns.mnt)) {
            Some(Some(false)) if ended => {
                self.report_thread(tid, MismatchEvidence::EndAfterSnapshot, to)
            }
            _ if ended => {}
            Some(Some(true)) => drop(self.forget(tid)),
            Some(Some(false) | None) if since >= FULL_JOIN_NS => {
                self.report_thread(tid, MismatchEvidence::Read, to)
            }
            Some(Some(false)) => entered.state = MoveState::Kept,
            // It has exited or moved on, which a later record reports; or the request can't be answered.
            None if since >= 2 * FULL_JOIN_NS => {
                let by = if entered.state == MoveState::Kept {
                    MismatchEvidence::EndAfterSnapshot
                } else {
                    MismatchEvidence::End
                };
                self.report_thread(tid, by, to);
            }
            Some(None) | None => {}
        }
    }

    fn ending(&mut self, to: &mut DetectCx<'_>) {
        let undecided =
            self.inside.iter().filter(|(_, entered)| entered.state != MoveState::Reported);
        to.requests.extend(undecided.map(|(tid, _)| InspectorRequest::Namespaces(*tid)));
    }

    fn finish(&mut self, to: &mut DetectCx<'_>) {
        for entered in self.inside.values_mut() {
            if entered.state == MoveState::Kept {
                entered.report(MismatchEvidence::EndAfterSnapshot, to);
                self.waiting = self.waiting.saturating_sub(1);
            }
        }
    }

    fn ended(&mut self, record: &ExitRecord, _: &Tracker, to: &mut DetectCx<'_>) {
        self.origins.remove(&record.tid);
        if let Some(mut entered) = self.forget(record.tid) {
            match entered.state {
                MoveState::Reported => {}
                MoveState::Kept => entered.report(MismatchEvidence::EndAfterSnapshot, to),
                MoveState::Waiting => entered.report(MismatchEvidence::End, to),
            }
        }
    }
}

impl NamespaceMismatch {
    fn remember_origin(&mut self, tid: u32, start: u64, ns: NsRef) {
        if self.origins.len() >= 2 * MAX_THREADS {
            let inside = &self.inside;
            self.origins.retain(|tid, _| inside.contains_key(tid));
        }
        self.origins.insert(tid, (start, ns));
    }

    fn enter(&mut self, moved: &NamespaceMove<'_>, mnt: Option<u32>, sure: bool) {
        let record = moved.record;
        let task_info = moved.mover;
        let comm = comm_of(task_info);
        let who =
            FindingActor::from_task_info((record.pid, record.tid), record.from, &comm, task_info);
        let tracer = record.header.flags & flag::TRACER != 0;
        // All namespaces that another ipc-trace enters are one finding.
        let target = FindingTarget::Namespace(if tracer { NsRef::default() } else { record.to });
        while self.inside.len() >= MAX_THREADS {
            let Some(oldest) = self.order.pop_front() else { break };
            self.forget(oldest);
        }
        self.inside.insert(
            record.tid,
            EnteredThread {
                key: FindingKey::for_process(Class::NamespaceMismatch, who.key(), target),
                draft: draft(&who, record.to, moved.tracker),
                pid: record.pid,
                to: record.to,
                trace: moved.trace("setns"),
                mnt,
                sure,
                task_info: task_info.cloned(),
                state: MoveState::Waiting,
                by: None,
                ask_at: 0,
                tracer,
            },
        );
        self.order.push_back(record.tid);
        self.processes.insert(record.pid, record.tid);
        self.waiting += 1;
    }

    fn forget(&mut self, tid: u32) -> Option<EnteredThread> {
        let entered = self.inside.remove(&tid)?;
        if self.processes.get(&entered.pid) == Some(&tid) {
            self.processes.remove(&entered.pid);
        }
        if entered.state != MoveState::Reported {
            self.waiting = self.waiting.saturating_sub(1);
        }
        if self.order.len() > 2 * MAX_THREADS {
            let inside = &self.inside;
            self.order.retain(|tid| inside.contains_key(tid));
        }
        Some(entered)
    }

    /// A thread leaves a namespace that it may have entered.
    fn leave(&mut self, tid: u32, task_info: Option<&Rc<TaskInfo>>, to: &mut DetectCx<'_>) {
        let Some(mut entered) = self.forget(tid) else { return };
        if entered.state == MoveState::Reported {
            return;
        }
        let now = task_info.and_then(|task_info| task_info.ns.mnt);
        if changed(entered.mnt, now) != Some(true) {
            entered.report(MismatchEvidence::Leaving, to);
        }
    }

    #[cold]
    fn calls_inside(&mut self, seen: &CallObservation<'_>, to: &mut DetectCx<'_>) {
        let who = &seen.who;
        let by_process = |pid: u32| self.processes.get(&pid).copied();
        let tid = match self.inside.contains_key(&who.tid) {
            true => Some(who.tid),
            // Another thread of the process, or a child.
            false => by_process(who.pid)
                .or_else(|| by_process(who.task_info?.ppid))
                .filter(|tid| self.inside.get(tid).is_some_and(|one| one.to == who.ns)),
        };
        let Some(tid) = tid else { return };
        let Some(entered) = self.inside.get_mut(&tid).filter(|one| one.to == who.ns) else {
            return;
        };
        if entered.state != MoveState::Reported {
            let now = who.task_info.and_then(|task_info| task_info.ns.mnt);
            if changed(entered.mnt, now) == Some(true) {
                let entered = self.forget(tid);
                let task_info = entered.as_ref().and_then(|one| one.task_info.as_ref());
                self.homes.lives_in(task_info, who.ns);
                return;
            }
            entered.report(MismatchEvidence::Call, to);
            self.waiting = self.waiting.saturating_sub(1);
        }
        if entered.tracer && !is_read_only(seen) {
            entered.tracer = false;
            let final_draft = entered.final_draft();
            to.findings.amend(&entered.key, |known| *known = final_draft);
        }
        to.saw(entered.key.clone(), seen.trace(), || entered.final_draft());
    }

    fn report_thread(&mut self, tid: u32, by: MismatchEvidence, to: &mut DetectCx<'_>) {
        if let Some(entered) = self.inside.get_mut(&tid) {
            entered.report(by, to);
            self.waiting = self.waiting.saturating_sub(1);
        }
    }
}

impl EnteredThread {
    fn report(&mut self, by: MismatchEvidence, to: &mut DetectCx<'_>) {
        (self.state, self.by) = (MoveState::Reported, Some(by));
        to.saw(self.key.clone(), self.trace.clone(), || self.final_draft());
    }

    /// The draft with the evidence.
    fn final_draft(&self) -> FindingDraft {
        let mut draft = self.draft.clone();
        match self.by {
            Some(MismatchEvidence::Call) => {
                draft.add(30, "its mount namespace was still the same when IPC was called there");
            }
            Some(MismatchEvidence::Leaving) => {
                draft.add(15, "its mount namespace was the same until it left")
            }
            Some(MismatchEvidence::Read) => {
                draft.add(25, "its mount namespace was still the same a second later");
            }
            Some(MismatchEvidence::EndAfterSnapshot) => {
                draft.add(15, "its mount namespace was the same a while later");
            }
            Some(MismatchEvidence::End) => {
                let text = "it ended before it could be known whether it went over as a whole";
                draft.add(-25, text);
                draft.severity = Severity::Low;
            }
            None => {}
        }
        if !self.sure {
            let text = "which mount namespace it had before is not known";
            draft.add(-20, text);
        }
        if self.tracer {
            draft.severity = Severity::Info;
            draft.title.push_str(" It looks around as ipc-trace does.");
            let text = "it runs the same executable as this tracer, and did nothing but look";
            draft.add(0, text);
        }
        draft
    }
}

fn draft(who: &FindingActor<'_>, ns: NsRef, tracker: &Tracker) -> FindingDraft {
    let tag = |ns: NsRef| NsTag::new(ns.inum, ns.generation);
    let title = format!(
        "{} entered namespace {} from {}, which neither it nor a parent of it made, and kept its own \
         mount and pid namespaces.",
        thread(who),
        tag(ns),
        tag(who.ns),
    );
    let creation = tracker.namespaces.get(ns).is_some_and(|info| info.creation.is_some());
    let mut draft = FindingDraft::by(who, Severity::High, title)
        .about(Some(ns), Some(true), false)
        .because(50, "the eBPF programs saw it enter");
    draft = match creation {
        true => draft.because(15, "it is known who made the namespace: somebody else"),
        false => draft.because(0, "who made the namespace is not known: it was there before"),
    };
    draft.benign_explanation = BENIGN.into();
    draft
}

/// Whether the mount namespace differs; `None`: unknown.
fn changed(before: Option<u32>, now: Option<u32>) -> Option<bool> {
    Some(before? != now?)
}

/// Whether the thread's process or an ancestor in the same container created the namespace.
fn made_by_own(ns: NsRef, moved: &NamespaceMove<'_>) -> bool {
    let info = moved.tracker.namespaces.get(ns);
    let maker =
        info.and_then(|info| info.creation.as_ref()).and_then(|creation| creation.by.as_ref());
    let (Some(maker), Some(own)) = (maker, moved.mover) else { return false };
    let is_maker = |pid: u32, start: u64| (maker.pid, maker.start_boot_ns) == (pid, start);
    if is_maker(own.pid, own.start_boot_ns) {
        return true;
    }
    let mut ancestry = own.identity.ancestry.iter().flat_map(|all| all.iter());
    maker.container == own.container && ancestry.any(|one| is_maker(one.pid, one.start_boot_ns))
}

enum FullJoin {
    Yes,
    /// It hasn't joined the mount namespace. `mnt` is its mount namespace before; `sure`: whether that was
    /// observed.
    NotYet {
        mnt: Option<u32>,
        sure: bool,
    },
}

/// Whether a thread has changed its mount namespace already. Its earlier one was observed, or is assumed to
/// be its parent's unless that is the one of the namespace's other processes.
fn full_join(moved: &NamespaceMove<'_>) -> FullJoin {
    let not_yet = |mnt, sure| FullJoin::NotYet { mnt, sure };
    let Some(now) = moved.mover.and_then(|task_info| task_info.ns.mnt) else {
        return not_yet(None, false);
    };
    match moved.beside.parent_mnt {
        Some(parent) if parent == now => not_yet(Some(now), true),
        Some(_) => match moved.beside.lives_with {
            // It has a private mount namespace, different from that of the namespace's other processes.
            Some(false) => not_yet(Some(now), true),
            Some(true) | None => FullJoin::Yes,
        },
        None => not_yet(Some(now), false),
    }
}

/// Whether a call only reads.
fn is_read_only(seen: &CallObservation<'_>) -> bool {
    let harmless = |calls: ObservedCalls<'_>| match calls {
        ObservedCalls::One(call) => {
            !matches!(call.effect(), Some(CallEffect::Removed(..) | CallEffect::Set(..)))
        }
        ObservedCalls::Group(..) => false,
    };
    match seen.op.effect() {
        Effect::Read => true,
        Effect::Create { .. } if seen.op == Op::MqOpen => match seen.calls {
            ObservedCalls::One(call) => call.record.args[1] & O_CREAT == 0,
            ObservedCalls::Group(..) => false,
        },
        Effect::Control { .. } => harmless(seen.calls),
        Effect::Use | Effect::Create { .. } | Effect::Attach | Effect::Detach | Effect::Unlink => {
            false
        }
    }
}
