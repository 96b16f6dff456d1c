//! `carried-mapping`: shared memory of one namespace that is still mapped or was touched by a thread in
//! another namespace; a segment opened through `/proc/PID/map_files`.
//!
//! A mapping belongs to the process, a namespace to the thread: setns, unshare and clone leave mappings in
//! place. The eBPF programs observe that a mapping is *touched* where they can hook page faults. That it is
//! *held* follows from shmat and shmdt, and from the mappings of a thread that switches.
//!
//! A segment that the process attached itself and keeps is reported at once. An inherited one, or one from
//! before the start of tracing, is reported when it is touched or still mapped a second after the switch: a
//! process cloned into a new namespace loses it by exec.
//!
//! A process without mappings has none until it attaches a segment, which is observed: a process that
//! switches a thousand times a second is inspected once a second.
//!
//! Invariant: state is bounded: attachments of [`MAX_PROCESSES`] processes, at most
//! [`MAX_ATTACHMENTS_PER_PROCESS`] each, as many processes without mappings, and [`MAX_PENDING_MOVES`]
//! pending switches.

use std::{collections::VecDeque, rc::Rc};

use ipc_trace_common::{
    op::{ObjectKind, Op},
    record::{AccessPath, ExitRecord, NsRef, NsSwitchKind, queue_flag},
};
use minicbor::{Decode, Encode};

use super::{
    access_paths::{self, AccessPathRow},
    detector::{DetectCx, Detector, keeps_state},
    observation::{
        AccessObservation, CallObservation, EvidenceEvent, Extent, FindingActor, FindingDraft,
        FindingKey, FindingTarget, NamespaceMove, ObservedCalls, comm_of,
    },
    phrases::{namespace_phrase, thread},
};
use crate::event::shared::SharedState;
use crate::{
    engine::track::{OrderedMap, Tracker, contexts::TaskInfo},
    event::finding::{Class, Severity},
    event::tag::{NsTag, SysvKey as KeyTag},
    input::effect::CallEffect,
    input::process::{InspectorRequest, Mapped, ProcessId},
};

/// Number of processes whose attachments are kept.
const MAX_PROCESSES: usize = 1 << 14;
/// Number of attachments kept per process.
const MAX_ATTACHMENTS_PER_PROCESS: usize = 64;
/// Number of namespace switches awaiting a decision.
const MAX_PENDING_MOVES: usize = 4096;
/// Number of segment files whose namespace is kept.
const MAX_FILES: usize = 4096;
/// How long an inherited mapping must persist to be reported, nanoseconds.
const INHERITED_AFTER_NS: u64 = 1_000_000_000;
/// How long a process without mappings isn't inspected again, nanoseconds.
const UNMAPPED_NS: u64 = 1_000_000_000;

const BENIGN: &str = "a service that sandboxes itself, or a helper of it, and keeps shared memory that it \
                        had before on purpose; a supervisor that goes from namespace to namespace";

/// An attached segment.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
struct HeldSegment {
    #[n(0)]
    at: u64,
    #[n(1)]
    ns: NsRef,
    #[n(2)]
    id: i32,
    /// The task when it attached the segment.
    #[cbor(n(3), with = "crate::event::shared::optional")]
    task_info: Option<Rc<TaskInfo>>,
}

impl HeldSegment {
    /// Whether the process has executed another program since, which drops its mappings.
    fn is_lost(&self, now: Option<&Rc<TaskInfo>>) -> bool {
        let exe = |task_info: &Rc<TaskInfo>| task_info.exe.clone();
        self.task_info.as_ref().zip(now).is_some_and(|(then, now)| exe(then) != exe(now))
    }
}

/// A process that switched or was created in another namespace, with mappings that are decided later.
#[derive(Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
struct PendingMove {
    #[n(0)]
    process: ProcessId,
    #[n(1)]
    due: u64,
    #[n(2)]
    from: NsRef,
    #[n(3)]
    to: NsRef,
    /// The mappings at the switch; `None`: all mappings found at the inspection count.
    #[n(4)]
    mapped: Option<Vec<Mapped>>,
    #[cbor(n(5), with = "crate::event::shared::optional")]
    task_info: Option<Rc<TaskInfo>>,
    #[n(6)]
    tid: u32,
    #[n(7)]
    trace: EvidenceEvent,
}

/// The detector and its state.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(super) struct CarriedMapping {
    #[n(0)]
    attached: OrderedMap<ProcessId, Vec<HeldSegment>>,
    #[n(1)]
    order: VecDeque<ProcessId>,
    #[n(2)]
    pending: VecDeque<PendingMove>,
    /// Switches whose current mappings were requested.
    #[n(3)]
    asked: VecDeque<PendingMove>,
    #[n(4)]
    files: OrderedMap<u64, NsRef>,
    /// Processes without mappings, and when that was observed.
    #[n(5)]
    unmapped: OrderedMap<ProcessId, u64>,
}

impl Detector for CarriedMapping {
    keeps_state!();

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
            self.moved_with_segments(moved, to);
        }
    }

    fn wants_mapped(&self, process: ProcessId, now: u64) -> bool {
        // A process that recently had no mappings, and hasn't attached any since, isn't inspected.
        let is_bare =
            self.unmapped.get(&process).is_some_and(|then| now.saturating_sub(*then) < UNMAPPED_NS);
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
        if let Some(task_info) = tracker.contexts.get(record.tid, record.context) {
            let process = (record.pid, task_info.start_boot_ns);
            self.attached.remove(&process);
            self.unmapped.remove(&process);
        }
    }

    fn access(&mut self, access: &AccessObservation<'_>, to: &mut DetectCx<'_>) -> bool {
        let AccessPathRow { class, reached: _, extent, did, what, weight, reason } =
            access_paths::row(access.channel);
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
        if access.channel == AccessPath::MappingHeld {
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
            draft.benign_explanation = BENIGN.into();
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
                if held.len() >= MAX_ATTACHMENTS_PER_PROCESS {
                    held.remove(0);
                }
                held.push(HeldSegment {
                    at,
                    ns: seen.who.ns,
                    id,
                    task_info: seen.who.task_info.cloned(),
                });
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
        while self.attached.len() >= MAX_PROCESSES {
            let Some(oldest) = self.order.pop_front() else { break };
            self.attached.remove(&oldest);
        }
        if self.order.len() > 2 * MAX_PROCESSES {
            let attached = &self.attached;
            self.order.retain(|process| attached.contains_key(process));
        }
    }

    fn cloned(&mut self, moved: &NamespaceMove<'_>) {
        let record = moved.record;
        let start = moved.child.map_or(0, |task_info| task_info.start_boot_ns);
        self.wait(PendingMove {
            process: (record.child_pid, start),
            due: record.boot_ns + INHERITED_AFTER_NS,
            from: record.from,
            to: record.to,
            mapped: None,
            task_info: moved.child.cloned(),
            tid: record.child_tid,
            trace: moved.trace("clone"),
        });
    }

    fn wait(&mut self, pending: PendingMove) {
        if self.pending.len() >= MAX_PENDING_MOVES {
            self.pending.pop_front();
        }
        self.pending.push_back(pending);
    }

    fn moved_with_segments(&mut self, moved: &NamespaceMove<'_>, to: &mut DetectCx<'_>) {
        const UNSHARE: u32 = NsSwitchKind::Unshare as u32;
        let record = moved.record;
        let task_info = moved.mover;
        let process = (record.pid, task_info.map_or(0, |task_info| task_info.start_boot_ns));
        let how = if record.way == UNSHARE { "unshare" } else { "setns" };
        let held = self.attached.get(&process).cloned().unwrap_or_default();
        let mapped = moved.beside.mapped.clone();
        if mapped.as_ref().is_some_and(Vec::is_empty) {
            self.note_unmapped(process, record.boot_ns);
        }
        let comm = comm_of(task_info);
        let who =
            FindingActor::from_task_info((record.pid, record.tid), record.to, &comm, task_info);
        for one in held.iter().filter(|one| one.ns != record.to && !one.is_lost(task_info)) {
            let there = mapped.as_ref().map(|all| all.iter().any(|seen| seen.start == one.at));
            let (weight, reason) = match there {
                Some(true) => {
                    (90, "it attached the segment there, and it was mapped after the move")
                }
                // The process has exited, called exec or detached the segment since.
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
                due: record.boot_ns + INHERITED_AFTER_NS,
                from: record.from,
                to: record.to,
                mapped: Some(rest),
                task_info: task_info.cloned(),
                tid: record.tid,
                trace: moved.trace(how),
            });
        }
    }

    fn note_unmapped(&mut self, process: ProcessId, now: u64) {
        // Without a start time the number may belong to another process next time.
        if process.1 != 0 {
            if self.unmapped.len() >= MAX_PROCESSES {
                self.unmapped.clear();
            }
            self.unmapped.insert(process, now);
        }
    }

    /// Reports inherited segments that are still mapped.
    fn decide(
        &self,
        pending: &PendingMove,
        now: &[Mapped],
        tracker: &Tracker,
        to: &mut DetectCx<'_>,
    ) {
        let task_info = pending.task_info.as_ref();
        // Segments attached since the switch belong to the process's own namespace.
        let own = self.attached.get(&pending.process).map(Vec::as_slice).unwrap_or_default();
        let comm = comm_of(task_info);
        let who = FindingActor::from_task_info(
            (pending.process.0, pending.tid),
            pending.to,
            &comm,
            task_info,
        );
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

    /// A fork copied a mapping of another namespace; the process may be about to call exec.
    fn inherited(&mut self, access: &AccessObservation<'_>, ns: NsRef, id: i32) {
        let record = access.record;
        self.wait(PendingMove {
            process: access.who.key(),
            due: record.boot_ns + INHERITED_AFTER_NS,
            from: ns,
            to: access.who.ns,
            mapped: None,
            task_info: access.who.task_info.cloned(),
            tid: record.tid,
            trace: access.trace(format!("shm {id} held")),
        });
    }

    /// The namespace of a segment, with a penalty if it was inferred. `None`: unknown.
    fn namespace(
        &mut self,
        access: &AccessObservation<'_>,
        id: i32,
    ) -> Option<(NsRef, Option<(i32, &'static str)>)> {
        let record = access.record;
        if record.object.flags & queue_flag::KNOWN != 0 && record.object.ns.inum != 0 {
            if record.file != 0 {
                if self.files.len() >= MAX_FILES {
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
            [alone] => Some((
                *alone,
                Some((-10, "its namespace is inferred from the segment's id and key")),
            )),
            [one, ..] => Some((
                *one,
                Some((-50, "segments of this id and key exist in several other namespaces")),
            )),
        }
    }
}

fn held_draft(who: &FindingActor<'_>, ns: NsRef, id: i32, tracker: &Tracker) -> FindingDraft {
    let local = crate::engine::track::objects::tracked::ObjectId::Sysv(ObjectKind::Shm, id);
    let known = tracker.objects.get(ns, local).and_then(|one| one.key);
    let title = format!(
        "{} lives in namespace {} and still has mapped shared memory of {}: {}",
        thread(who),
        NsTag::new(who.ns.inum, who.ns.generation),
        namespace_phrase(Some(ns), false),
        segment(id, known),
    );
    let mut draft = FindingDraft::by(who, Severity::High, title).about(Some(ns), Some(true), false);
    draft.benign_explanation = BENIGN.into();
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
        FindingTarget::Sysv(ns, ObjectKind::Shm, id),
    )
}
