//! `namespace-mismatch`: a thread entered a namespace that is neither of its own making nor its home, and
//! kept its mount and pid namespaces.
//!
//! Who goes over as a whole (a shell in a container, a runtime that sets one up) changes its mount
//! namespace as well, before or after: so what a thread did is judged by the first IPC call that it or a
//! child of it makes there, when it leaves, or a second later.
//!
//! Invariant: what is remembered is bounded: threads that are where they entered, at most `THREADS`.

use std::{collections::VecDeque, rc::Rc};

use ipc_trace_common::{
    op::{Effect, Op},
    record::{ExitRecord, NsRef, NsSwitchKind, flag},
    state::HOST_INUM,
};

use super::{
    detector::{DetectCx, Detector},
    observation::{
        CallObservation, EvidenceEvent, FindingActor, FindingDraft, FindingKey, FindingTarget,
        NamespaceMove, ObservedCalls, comm_of,
    },
    say::thread,
};
use crate::{
    engine::track::{HashMap, Tracker, containers::ContainerHandle, contexts::TaskInfo},
    event::OtherNs,
    event::finding::{Class, Severity},
    event::tag::NsTag,
    input::effect::CallEffect,
    input::process::InspectorRequest,
};
/// From one question about a thread to the next.
const AGAIN_NS: u64 = 10_000_000;

/// Threads that are remembered.
const THREADS: usize = 4096;
/// A thread that has not gone over as a whole by then has not.
const WHOLE_NS: u64 = 1_000_000_000;
/// After so long, a runtime that goes from one namespace to the next is through with all of them.
const SOON_NS: u64 = 20_000_000;
/// `O_CREAT` (include/uapi/asm-generic/fcntl.h)
const O_CREAT: u64 = 0o100;

const EXPLAINS: &str = "an administrator's tool (nsenter --ipc), an agent that inspects containers, or a \
                        supervisor that reaches into the namespace of what it runs";

/// How far a thread has been judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MoveState {
    /// It may yet go over as a whole
    Waiting,
    /// It has kept its mount namespace for a while
    Kept,
    /// It was told of
    Told,
}

/// A thread that entered a namespace.
#[derive(Debug)]
struct EnteredThread {
    key: FindingKey,
    /// What there is to say whatever it does
    draft: FindingDraft,
    pid: u32,
    to: NsRef,
    trace: EvidenceEvent,
    /// The mount namespace that it had before
    mnt: Option<u32>,
    /// Whether that is known, and not inferred from what it had after it entered
    sure: bool,
    facts: Option<Rc<TaskInfo>>,
    state: MoveState,
    /// Why it was told of
    by: Option<MismatchEvidence>,
    /// It is not asked of again before then
    ask_at: u64,
    /// It is another ipc-trace, and has done nothing but look
    tracer: bool,
}

/// The class, with what is remembered.
#[derive(Debug, Default)]
pub(super) struct NamespaceMismatch {
    inside: HashMap<u32, EnteredThread>,
    /// By process: one of its threads that is inside
    processes: HashMap<u32, u32>,
    order: VecDeque<u32>,
    /// Where threads that have moved began
    origins: HashMap<u32, (u64, NsRef)>,
    waiting: usize,
    homes: Homes,
}

/// In which IPC namespace the processes of containers live, where that is another one than the first that a
/// thread was seen in; and the context that told so, if it was one.
#[derive(Debug, Default)]
struct Homes(HashMap<ContainerHandle, (NsRef, u64)>);

/// Containers whose homes are remembered. When there are more, all are learnt anew.
const HOMES: usize = 1 << 13;

impl Homes {
    /// The processes of a thread's container live in that namespace: one went over there as a whole.
    fn lives_in(&mut self, facts: Option<&Rc<TaskInfo>>, ns: NsRef) {
        if let Some(container) = facts.and_then(|facts| facts.container.as_ref()) {
            if self.0.len() >= HOMES && !self.0.contains_key(container) {
                self.0.clear();
            }
            self.0.insert(container.clone(), (ns, 0));
        }
    }

    /// Whether a thread's home is the namespace that it went to. Its context may have been made after it moved.
    fn is_home(&mut self, moved: &NamespaceMove<'_>) -> bool {
        let NamespaceMove { record, mover, tracker, .. } = *moved;
        let Some(container) = mover.and_then(|facts| facts.container.as_ref()) else {
            return record.to.inum == HOST_INUM;
        };
        let home =
            self.0.get(container).copied().or_else(|| tracker.containers.first_ns(container));
        match home {
            Some((_, told_by)) if told_by == record.context && told_by != 0 => {
                self.lives_in(mover, record.from);
                record.from == record.to
            }
            home => home.map(|(ns, _)| ns) == Some(record.to),
        }
    }
}

/// Why a thread is believed to have kept its other namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MismatchEvidence {
    /// It made a call there
    Call,
    /// It left
    Leaving,
    /// It was looked at after a while
    Look,
    /// It ended, and was looked at before
    EndAfterLook,
    /// It ended before it could be looked at
    End,
}

impl Detector for NamespaceMismatch {
    #[inline]
    fn waits(&self) -> bool {
        self.waiting > 0
    }

    fn moved(&mut self, moved: &NamespaceMove<'_>, to: &mut DetectCx<'_>) {
        const SETNS: u32 = NsSwitchKind::Setns as u32;
        let record = moved.record;
        let facts = moved.mover;
        let start = facts.map_or(0, |facts| facts.start_boot_ns);
        const CLONE: u32 = NsSwitchKind::Clone as u32;
        if record.way == CLONE {
            return;
        }
        self.leave(record.tid, facts, to);
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
        let (mnt, sure) = match whole(moved) {
            Whole::Yes => {
                self.homes.lives_in(facts, record.to);
                return;
            }
            Whole::NotYet { mnt, sure } => (mnt, sure),
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
                MoveState::Told => false,
                MoveState::Waiting => since >= SOON_NS,
                MoveState::Kept => since >= WHOLE_NS,
            };
            if due && now >= entered.ask_at {
                entered.ask_at = now.saturating_add(AGAIN_NS);
                to.requests.push(InspectorRequest::Namespaces(*tid));
            }
        }
    }

    fn namespaces_seen(
        &mut self,
        tid: u32,
        found: Option<(u32, OtherNs)>,
        (at, ended): (u64, bool),
        to: &mut DetectCx<'_>,
    ) {
        let Some(entered) = self.inside.get_mut(&tid) else { return };
        if entered.state == MoveState::Told {
            return;
        }
        let since = at.saturating_sub(entered.trace.boot_ns);
        let found = found.filter(|seen| seen.0 == entered.to.inum);
        match found.map(|(_, ns)| changed(entered.mnt, ns.mnt)) {
            Some(Some(false)) if ended => {
                self.report_thread(tid, MismatchEvidence::EndAfterLook, to)
            }
            _ if ended => {}
            Some(Some(true)) => drop(self.forget(tid)),
            Some(Some(false) | None) if since >= WHOLE_NS => {
                self.report_thread(tid, MismatchEvidence::Look, to)
            }
            Some(Some(false)) => entered.state = MoveState::Kept,
            // It has ended or moved on, which is told of yet; or there is nobody to ask.
            None if since >= 2 * WHOLE_NS => {
                let by = if entered.state == MoveState::Kept {
                    MismatchEvidence::EndAfterLook
                } else {
                    MismatchEvidence::End
                };
                self.report_thread(tid, by, to);
            }
            Some(None) | None => {}
        }
    }

    fn ending(&mut self, to: &mut DetectCx<'_>) {
        let undecided = self.inside.iter().filter(|(_, entered)| entered.state != MoveState::Told);
        to.requests.extend(undecided.map(|(tid, _)| InspectorRequest::Namespaces(*tid)));
    }

    fn finish(&mut self, to: &mut DetectCx<'_>) {
        for entered in self.inside.values_mut() {
            if entered.state == MoveState::Kept {
                entered.report(MismatchEvidence::EndAfterLook, to);
                self.waiting = self.waiting.saturating_sub(1);
            }
        }
    }

    fn ended(&mut self, record: &ExitRecord, _: &Tracker, to: &mut DetectCx<'_>) {
        self.origins.remove(&record.tid);
        if let Some(mut entered) = self.forget(record.tid) {
            match entered.state {
                MoveState::Told => {}
                MoveState::Kept => entered.report(MismatchEvidence::EndAfterLook, to),
                MoveState::Waiting => entered.report(MismatchEvidence::End, to),
            }
        }
    }
}

impl NamespaceMismatch {
    fn remember_origin(&mut self, tid: u32, start: u64, ns: NsRef) {
        if self.origins.len() >= 2 * THREADS {
            let inside = &self.inside;
            self.origins.retain(|tid, _| inside.contains_key(tid));
        }
        self.origins.insert(tid, (start, ns));
    }

    fn enter(&mut self, moved: &NamespaceMove<'_>, mnt: Option<u32>, sure: bool) {
        let record = moved.record;
        let facts = moved.mover;
        let comm = comm_of(facts);
        let who = FindingActor::of_facts((record.pid, record.tid), record.from, &comm, facts);
        let tracer = record.header.flags & flag::TRACER != 0;
        // All that another ipc-trace looks into is one finding.
        let target = FindingTarget::Namespace(if tracer { NsRef::default() } else { record.to });
        while self.inside.len() >= THREADS {
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
                facts: facts.cloned(),
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
        if entered.state != MoveState::Told {
            self.waiting = self.waiting.saturating_sub(1);
        }
        if self.order.len() > 2 * THREADS {
            let inside = &self.inside;
            self.order.retain(|tid| inside.contains_key(tid));
        }
        Some(entered)
    }

    /// A thread leaves where it may have entered.
    fn leave(&mut self, tid: u32, facts: Option<&Rc<TaskInfo>>, to: &mut DetectCx<'_>) {
        let Some(mut entered) = self.forget(tid) else { return };
        if entered.state == MoveState::Told {
            return;
        }
        let now = facts.and_then(|facts| facts.ns.mnt);
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
            // Another thread of it, or a child.
            false => by_process(who.pid)
                .or_else(|| by_process(who.facts?.ppid))
                .filter(|tid| self.inside.get(tid).is_some_and(|one| one.to == who.ns)),
        };
        let Some(tid) = tid else { return };
        let Some(entered) = self.inside.get_mut(&tid).filter(|one| one.to == who.ns) else {
            return;
        };
        if entered.state != MoveState::Told {
            let now = who.facts.and_then(|facts| facts.ns.mnt);
            if changed(entered.mnt, now) == Some(true) {
                let entered = self.forget(tid);
                let facts = entered.as_ref().and_then(|one| one.facts.as_ref());
                self.homes.lives_in(facts, who.ns);
                return;
            }
            entered.report(MismatchEvidence::Call, to);
            self.waiting = self.waiting.saturating_sub(1);
        }
        if entered.tracer && !looks(seen) {
            entered.tracer = false;
            let said = entered.said();
            to.findings.amend(&entered.key, |known| *known = said);
        }
        to.saw(entered.key.clone(), seen.trace(), || entered.said());
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
        (self.state, self.by) = (MoveState::Told, Some(by));
        to.saw(self.key.clone(), self.trace.clone(), || self.said());
    }

    /// What there is to say of it.
    fn said(&self) -> FindingDraft {
        let mut draft = self.draft.clone();
        match self.by {
            Some(MismatchEvidence::Call) => {
                draft.add(30, "its mount namespace was still the same when IPC was called there");
            }
            Some(MismatchEvidence::Leaving) => {
                draft.add(15, "its mount namespace was the same until it left")
            }
            Some(MismatchEvidence::Look) => {
                draft.add(25, "its mount namespace was still the same a second later");
            }
            Some(MismatchEvidence::EndAfterLook) => {
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
    let birth = tracker.namespaces.get(ns).is_some_and(|info| info.birth.is_some());
    let mut draft = FindingDraft::by(who, Severity::High, title)
        .about(Some(ns), Some(true), false)
        .because(50, "the eBPF programs saw it enter");
    draft = match birth {
        true => draft.because(15, "it is known who made the namespace: somebody else"),
        false => draft.because(0, "who made the namespace is not known: it was there before"),
    };
    draft.benign_explanation = EXPLAINS;
    draft
}

/// Whether a mount namespace is another one; `None`: not known.
fn changed(before: Option<u32>, now: Option<u32>) -> Option<bool> {
    Some(before? != now?)
}

/// Whether the thread's process or one that it comes from, in the same container, made the namespace.
fn made_by_own(ns: NsRef, moved: &NamespaceMove<'_>) -> bool {
    let info = moved.tracker.namespaces.get(ns);
    let maker = info.and_then(|info| info.birth.as_ref()).and_then(|birth| birth.by.as_ref());
    let (Some(maker), Some(own)) = (maker, moved.mover) else { return false };
    let is_maker = |pid: u32, start: u64| (maker.pid, maker.start_boot_ns) == (pid, start);
    if is_maker(own.pid, own.start_boot_ns) {
        return true;
    }
    let mut ancestry = own.identity.ancestry.iter().flat_map(|all| all.iter());
    maker.container == own.container && ancestry.any(|one| is_maker(one.pid, one.start_boot_ns))
}

enum Whole {
    Yes,
    /// This was its mount namespace before, surely or perhaps
    NotYet {
        mnt: Option<u32>,
        sure: bool,
    },
}

/// Whether a thread has changed its mount namespace already. Its own is known from before, or it is its
/// parent's, as long as it is not that of those who live where it went.
fn whole(moved: &NamespaceMove<'_>) -> Whole {
    let not_yet = |mnt, sure| Whole::NotYet { mnt, sure };
    let Some(now) = moved.mover.and_then(|facts| facts.ns.mnt) else {
        return not_yet(None, false);
    };
    match moved.beside.parent_mnt {
        Some(parent) if parent == now => not_yet(Some(now), true),
        Some(_) => match moved.beside.lives_with {
            // It has a mount namespace of its own, and another than those who live there.
            Some(false) => not_yet(Some(now), true),
            Some(true) | None => Whole::Yes,
        },
        None => not_yet(Some(now), false),
    }
}

/// Whether a call changes and takes nothing.
fn looks(seen: &CallObservation<'_>) -> bool {
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
