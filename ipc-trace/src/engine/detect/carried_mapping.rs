//! `carried-mapping`: shared memory of one namespace that is still mapped, or was touched, by a thread that
//! now lives in another; a segment opened through `/proc/PID/map_files`.
//!
//! A mapping is the process's, a namespace the thread's: neither setns nor unshare nor clone takes a
//! mapping away. That one is *touched* the eBPF programs see where it can hook page faults; that one is
//! *held* is known from shmat and shmdt, and from what is mapped when a thread moves.
//!
//! What a process attached itself and takes along is told at once. What it inherited, or had before
//! tracing began, is told when it is touched, or is still there a second after the move: who is cloned
//! into a new namespace and calls exec loses it before.
//!
//! A process that had nothing mapped when it was looked at has nothing until it attaches something, which
//! is seen: one that moves a thousand times a second is looked at once in it.
//!
//! Invariant: what is remembered is bounded: attachments of `PROCESSES` processes, at most `EACH` of
//! each, as many processes without any, and `PENDING` processes that moved.

use std::{collections::VecDeque, rc::Rc};

use ipc_trace_common::{
    op::{Family, Op},
    record::{Channel, ExitRecord, NsRef, NsSwitchKind, queue_flag},
};

use super::{
    channels::{self, AccessPathRow},
    detector::{DetectCx, Detector},
    observation::{
        AccessObservation, CallObservation, EvidenceEvent, Extent, FindingActor, FindingDraft,
        FindingKey, FindingTarget, NamespaceMove, ObservedCalls, comm_of,
    },
    say::{namespace_phrase, thread},
};
use crate::{
    engine::track::{HashMap, Tracker, contexts::TaskInfo},
    event::finding::{Class, Severity},
    event::tag::{NsTag, SysvKey as KeyTag},
    input::effect::CallEffect,
    input::process::{InspectorRequest, Mapped, ProcessId},
};

/// Processes whose attachments are remembered.
const PROCESSES: usize = 1 << 14;
/// Attachments of one process.
const EACH: usize = 64;
/// Moves that time decides about.
const PENDING: usize = 4096;
/// Files of segments whose namespace is remembered.
const FILES: usize = 4096;
/// What is inherited counts when it is there for so long.
const INHERITED_NS: u64 = 1_000_000_000;
/// For so long a process that had nothing mapped is not looked at again.
const BARE_NS: u64 = 1_000_000_000;

const EXPLAINS: &str = "a service that sandboxes itself, or a helper of it, and keeps shared memory that it \
                        had before on purpose; a supervisor that goes from namespace to namespace";

/// An attached segment.
#[derive(Clone, Debug)]
struct HeldSegment {
    at: u64,
    ns: NsRef,
    id: i32,
    /// Who the process was then
    facts: Option<Rc<TaskInfo>>,
}

impl HeldSegment {
    /// Whether the process is seen to run another program since, which has none of its mappings.
    fn is_lost(&self, now: Option<&Rc<TaskInfo>>) -> bool {
        let exe = |facts: &Rc<TaskInfo>| facts.exe.clone();
        self.facts.as_ref().zip(now).is_some_and(|(then, now)| exe(then) != exe(now))
    }
}

/// A process that moved, or was made in a new namespace, with mappings that time decides about.
#[derive(Debug)]
struct PendingMove {
    process: ProcessId,
    due: u64,
    from: NsRef,
    to: NsRef,
    /// What was mapped when it moved; `None`: all that is mapped when it is looked at
    mapped: Option<Vec<Mapped>>,
    facts: Option<Rc<TaskInfo>>,
    tid: u32,
    trace: EvidenceEvent,
}

/// The class, with what is remembered.
#[derive(Debug, Default)]
pub(super) struct CarriedMapping {
    attached: HashMap<ProcessId, Vec<HeldSegment>>,
    order: VecDeque<ProcessId>,
    pending: VecDeque<PendingMove>,
    /// Those of which it was asked what they have mapped now
    asked: VecDeque<PendingMove>,
    files: HashMap<u64, NsRef>,
    /// Processes that had nothing mapped, and when that was seen
    bare: HashMap<ProcessId, u64>,
}

impl Detector for CarriedMapping {
    #[inline]
    fn calls(&mut self, seen: &CallObservation<'_>, _: &mut DetectCx<'_>) {
        if matches!(seen.op, Op::Shmat | Op::Shmdt)
            && let ObservedCalls::One(call) = seen.calls
        {
            self.attachment(seen, call.effect());
        }
    }

    fn moved(&mut self, moved: &NamespaceMove<'_>, to: &mut DetectCx<'_>) {
        const CLONE: u32 = NsSwitchKind::Clone as u32;
        if moved.record.way == CLONE {
            self.cloned(moved);
        } else {
            self.went(moved, to);
        }
    }

    fn wants_mapped(&self, process: ProcessId, now: u64) -> bool {
        // Not of one that had nothing a short time ago, and has not been seen to attach anything.
        let is_bare =
            self.bare.get(&process).is_some_and(|then| now.saturating_sub(*then) < BARE_NS);
        !is_bare || self.attached.get(&process).is_some_and(|held| !held.is_empty())
    }

    fn tick(&mut self, now: u64, to: &mut DetectCx<'_>) {
        while self.pending.front().is_some_and(|one| one.due <= now) {
            if let Some(pending) = self.pending.pop_front() {
                to.requests.push(InspectorRequest::Mapped(pending.process));
                self.asked.push_back(pending);
            }
        }
    }

    fn mapped_seen(
        &mut self,
        process: ProcessId,
        found: Option<&[Mapped]>,
        tracker: &Tracker,
        to: &mut DetectCx<'_>,
    ) {
        let Some(at) = self.asked.iter().position(|one| one.process == process) else { return };
        let Some(pending) = self.asked.remove(at) else { return };
        if let Some(found) = found {
            self.decide(&pending, found, tracker, to);
        }
    }

    fn ended(&mut self, record: &ExitRecord, tracker: &Tracker, _: &mut DetectCx<'_>) {
        if record.tid != record.pid {
            return;
        }
        self.pending.retain(|one| one.process.0 != record.pid);
        if let Some(facts) = tracker.contexts.get(record.tid, record.context) {
            let process = (record.pid, facts.start_boot_ns);
            self.attached.remove(&process);
            self.bare.remove(&process);
        }
    }

    fn access(&mut self, access: &AccessObservation<'_>, to: &mut DetectCx<'_>) -> bool {
        let AccessPathRow { class, reached: _, extent, did, what, weight, reason } =
            channels::row(access.channel);
        if class != Class::CarriedMapping {
            return true;
        }
        let record = access.record;
        let id = record.object.ino as i32;
        let who = access.who;
        let Some((ns, surely)) = self.namespace(access, id) else { return false };
        if ns == who.ns {
            return true;
        }
        if access.channel == Channel::MappingHeld {
            self.inherited(access, ns, id);
            return true;
        }
        let draft = || {
            let title = format!(
                "{} in namespace {} {did} of {}: {}",
                thread(&who),
                NsTag::new(who.ns.inum, who.ns.generation),
                namespace_phrase(Some(ns), access.dead),
                segment(id, Some(record.key)),
            );
            let mut draft = FindingDraft::by(&who, Severity::High, title)
                .about(Some(ns), Some(true), access.dead)
                .because(weight, reason);
            if let Some((weight, text)) = surely {
                draft = draft.because(weight, text);
            }
            draft.key = Some(record.key);
            draft.benign_explanation = EXPLAINS;
            draft
        };
        let key = key(who.key(), ns, id);
        to.saw_as(extent, key, access.trace(what), draft);
        true
    }
}

impl CarriedMapping {
    #[cold]
    fn attachment(&mut self, seen: &CallObservation<'_>, effect: Option<CallEffect<'_>>) {
        let process = seen.who.key();
        match effect {
            Some(CallEffect::Attached { id, at: Some(at) }) => {
                if !self.attached.contains_key(&process) {
                    self.make_room();
                    self.order.push_back(process);
                }
                let held = self.attached.entry(process).or_default();
                held.retain(|one| one.at != at);
                if held.len() >= EACH {
                    held.remove(0);
                }
                held.push(HeldSegment { at, ns: seen.who.ns, id, facts: seen.who.facts.cloned() });
            }
            Some(CallEffect::Detached { at }) => {
                if let Some(held) = self.attached.get_mut(&process) {
                    held.retain(|one| one.at != at);
                }
            }
            Some(_) | None => {}
        }
    }

    fn make_room(&mut self) {
        while self.attached.len() >= PROCESSES {
            let Some(oldest) = self.order.pop_front() else { break };
            self.attached.remove(&oldest);
        }
        if self.order.len() > 2 * PROCESSES {
            let attached = &self.attached;
            self.order.retain(|process| attached.contains_key(process));
        }
    }

    fn cloned(&mut self, moved: &NamespaceMove<'_>) {
        let record = moved.record;
        let start = moved.child.map_or(0, |facts| facts.start_boot_ns);
        self.wait(PendingMove {
            process: (record.child_pid, start),
            due: record.boot_ns + INHERITED_NS,
            from: record.from,
            to: record.to,
            mapped: None,
            facts: moved.child.cloned(),
            tid: record.child_tid,
            trace: moved.trace("clone"),
        });
    }

    fn wait(&mut self, pending: PendingMove) {
        if self.pending.len() >= PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back(pending);
    }

    fn went(&mut self, moved: &NamespaceMove<'_>, to: &mut DetectCx<'_>) {
        const UNSHARE: u32 = NsSwitchKind::Unshare as u32;
        let record = moved.record;
        let facts = moved.mover;
        let process = (record.pid, facts.map_or(0, |facts| facts.start_boot_ns));
        let how = if record.way == UNSHARE { "unshare" } else { "setns" };
        let held = self.attached.get(&process).cloned().unwrap_or_default();
        let mapped = moved.beside.mapped.clone();
        if mapped.as_ref().is_some_and(Vec::is_empty) {
            self.had_nothing(process, record.boot_ns);
        }
        let comm = comm_of(facts);
        let who = FindingActor::of_facts((record.pid, record.tid), record.to, &comm, facts);
        for one in held.iter().filter(|one| one.ns != record.to && !one.is_lost(facts)) {
            let there = mapped.as_ref().map(|all| all.iter().any(|seen| seen.start == one.at));
            let (weight, reason) = match there {
                Some(true) => {
                    (90, "it attached the segment there, and it was mapped after the move")
                }
                // It has ended, called exec or detached the segment since.
                Some(false) | None => {
                    (80, "it attached the segment there, and did not detach it before it moved")
                }
            };
            let key = key(process, one.ns, one.id);
            let draft = || held_draft(&who, one.ns, one.id, moved.tracker).because(weight, reason);
            to.saw_as(Extent::Held, key, moved.trace(how), draft);
        }
        let rest = |all: Vec<Mapped>| {
            let new = |seen: &Mapped| !held.iter().any(|one| one.at == seen.start);
            all.into_iter().filter(new).collect::<Vec<_>>()
        };
        if let Some(rest) = mapped.map(rest).filter(|rest| !rest.is_empty()) {
            self.wait(PendingMove {
                process,
                due: record.boot_ns + INHERITED_NS,
                from: record.from,
                to: record.to,
                mapped: Some(rest),
                facts: facts.cloned(),
                tid: record.tid,
                trace: moved.trace(how),
            });
        }
    }

    fn had_nothing(&mut self, process: ProcessId, now: u64) {
        // Its number alone may be another process's next time.
        if process.1 != 0 {
            if self.bare.len() >= PROCESSES {
                self.bare.clear();
            }
            self.bare.insert(process, now);
        }
    }

    /// Whether what was inherited is there still.
    fn decide(
        &self,
        pending: &PendingMove,
        now: &[Mapped],
        tracker: &Tracker,
        to: &mut DetectCx<'_>,
    ) {
        let facts = pending.facts.as_ref();
        // What it attached since is its own.
        let own = self.attached.get(&pending.process).map(Vec::as_slice).unwrap_or_default();
        let comm = comm_of(facts);
        let who =
            FindingActor::of_facts((pending.process.0, pending.tid), pending.to, &comm, facts);
        for one in now {
            let before = pending.mapped.as_ref().is_none_or(|all| all.contains(one));
            if !before || own.iter().any(|held| held.at == one.start) {
                continue;
            }
            let known = tracker.objects.segments(one.id, one.key);
            let (ns, weight, reason) = match known.as_slice() {
                all if all.contains(&pending.from) => {
                    (pending.from, 85, "the segment is one of the namespace that it came from")
                }
                [alone] if *alone != pending.to => {
                    (*alone, 70, "a segment of that id and key exists in that namespace alone")
                }
                _ => continue,
            };
            let draft = || {
                held_draft(&who, ns, one.id, tracker)
                    .because(weight, reason)
                    .because(0, "it was inherited, and still mapped a second after the move")
            };
            let key = key(pending.process, ns, one.id);
            to.saw_as(Extent::Held, key, pending.trace.clone(), draft);
        }
    }

    /// A mapping of another namespace was copied: by a process that lives elsewhere, and may be about
    /// to call exec.
    fn inherited(&mut self, access: &AccessObservation<'_>, ns: NsRef, id: i32) {
        let record = access.record;
        self.wait(PendingMove {
            process: access.who.key(),
            due: record.boot_ns + INHERITED_NS,
            from: ns,
            to: access.who.ns,
            mapped: None,
            facts: access.who.facts.cloned(),
            tid: record.tid,
            trace: access.trace(format!("shm {id} held")),
        });
    }

    /// Whose a segment is, and what that takes from being sure. `None`: it can't be told.
    fn namespace(
        &mut self,
        access: &AccessObservation<'_>,
        id: i32,
    ) -> Option<(NsRef, Option<(i32, &'static str)>)> {
        let record = access.record;
        if record.object.flags & queue_flag::KNOWN != 0 && record.object.ns.inum != 0 {
            if record.file != 0 {
                if self.files.len() >= FILES {
                    self.files.clear();
                }
                self.files.insert(record.file, record.object.ns);
            }
            return Some((record.object.ns, None));
        }
        let candidates = access.tracker.objects.segments(id, record.key);
        if let Some(known) = self.files.get(&record.file).filter(|ns| candidates.contains(ns)) {
            return Some((*known, None));
        }
        if candidates.contains(&record.ns) {
            return Some((record.ns, None));
        }
        match candidates.as_slice() {
            [] => None,
            [alone] => {
                Some((*alone, Some((-10, "its namespace is told by the segment's id and key"))))
            }
            [one, ..] => Some((
                *one,
                Some((-50, "segments of this id and key exist in several other namespaces")),
            )),
        }
    }
}

fn held_draft(who: &FindingActor<'_>, ns: NsRef, id: i32, tracker: &Tracker) -> FindingDraft {
    let local = crate::engine::track::objects::tracked::ObjectId::Sysv(Family::Shm, id);
    let known = tracker.objects.get(ns, local).and_then(|one| one.key);
    let title = format!(
        "{} lives in namespace {} and still has mapped shared memory of {}: {}",
        thread(who),
        NsTag::new(who.ns.inum, who.ns.generation),
        namespace_phrase(Some(ns), false),
        segment(id, known),
    );
    let mut draft = FindingDraft::by(who, Severity::High, title).about(Some(ns), Some(true), false);
    draft.benign_explanation = EXPLAINS;
    draft
}

fn segment(id: i32, key: Option<u32>) -> String {
    match key.filter(|key| *key != 0) {
        Some(key) => format!("segment {id}, key {}", KeyTag(crate::event::value::Hex32(key))),
        None => format!("segment {id}"),
    }
}

const fn key(process: ProcessId, ns: NsRef, id: i32) -> FindingKey {
    FindingKey::for_process(
        Class::CarriedMapping,
        process,
        FindingTarget::Sysv(ns, Family::Shm, id),
    )
}
