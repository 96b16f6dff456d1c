//! The input of detectors: actors, calls, accesses and namespace switches; and the drafts that they make of
//! it.

use std::{borrow::Cow, rc::Rc, sync::Arc};

use ipc_trace_common::{
    op::{ObjectKind, Op},
    record::{AccessRecord, BatchHead, CallRecord, NsRef, NsSwitchRecord, QueueRef},
};
use minicbor::{Decode, Encode};

use crate::event::shared::SharedState;
use crate::{
    engine::track::containers::{ContainerHandle, Containers},
    engine::track::{
        ObjectLocation, Tracker,
        contexts::{CallTask, TaskInfo},
        objects::tracked::ObjectId,
    },
    event::{
        Process, ReadFrom,
        finding::{Class, Reason, Severity},
        value::{CallError, OsBytes},
    },
    input::Call,
    input::batch::BatchGroup,
    input::process::{MoveContext, ProcessId},
};

/// The actor of an observation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FindingActor<'a> {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
    /// The thread's name, NUL-padded
    pub comm: &'a [u8; 16],
    /// The thread's IPC namespace
    pub ns: NsRef,
    /// The task, if known.
    pub task_info: Option<&'a Rc<TaskInfo>>,
}

impl<'a> FindingActor<'a> {
    /// The actor for a task in a namespace.
    #[must_use]
    pub(crate) fn from_task_info(
        (pid, tid): (u32, u32),
        ns: NsRef,
        comm: &'a [u8; 16],
        task_info: Option<&'a Rc<TaskInfo>>,
    ) -> Self {
        let (uid, gid) = task_info.map_or((0, 0), |task_info| (task_info.uid, task_info.gid));
        Self { pid, tid, uid, gid, comm, ns, task_info }
    }

    /// The process, unique for this boot.
    #[must_use]
    pub(crate) fn key(&self) -> ProcessId {
        (self.pid, self.task_info.map_or(0, |task_info| task_info.start_boot_ns))
    }

    /// The process as it is shown.
    #[must_use]
    pub(crate) fn process(&self) -> Process<'static> {
        let Self { pid, tid, uid, gid, .. } = *self;
        let comm = OsBytes::until_nul(self.comm);
        CallTask { pid, tid, uid, gid, comm }.process(self.task_info.map(Rc::as_ref)).into_owned()
    }
}

/// Returned calls: one, or a group of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ObservedCalls<'a> {
    /// One call.
    One(&'a Call<'a>),
    /// Equal calls on one object, from a batch.
    Group(&'a BatchHead, &'a BatchGroup<'a>),
}

/// Calls with their actor, as detectors see them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallObservation<'a> {
    /// The operation.
    pub op: Op,
    /// When, boot time in nanoseconds.
    pub boot_ns: u64,
    /// Number of calls.
    pub count: u64,
    /// The actor.
    pub who: FindingActor<'a>,
    /// The queue behind the descriptor, for operations that take one.
    pub queue: Option<&'a QueueRef>,
    /// The number of its line; `None`: it has none.
    pub seq: Option<u64>,
    /// The calls themselves
    pub calls: ObservedCalls<'a>,
    /// The tracked state.
    pub tracker: &'a Tracker,
}

impl<'a> CallObservation<'a> {
    /// One call.
    #[inline]
    #[must_use]
    pub(crate) fn one(call: &'a Call<'a>, seq: Option<u64>, tracker: &'a Tracker) -> Self {
        let record: &CallRecord = call.record;
        Self {
            op: call.op,
            boot_ns: record.boot_ns,
            count: 1,
            who: FindingActor {
                pid: record.pid,
                tid: record.tid,
                uid: record.euid,
                gid: record.egid,
                comm: &record.comm,
                ns: record.ns,
                task_info: tracker.contexts.get(record.tid, record.context),
            },
            queue: call.queue(),
            seq,
            calls: ObservedCalls::One(call),
            tracker,
        }
    }

    /// A group of batched calls.
    #[inline]
    #[must_use]
    pub(crate) fn group(
        head: &'a BatchHead,
        group: &'a BatchGroup<'a>,
        tracker: &'a Tracker,
    ) -> Self {
        Self {
            op: group.op,
            boot_ns: group.last_ns,
            count: group.count,
            who: FindingActor {
                pid: head.pid,
                tid: head.tid,
                uid: head.euid,
                gid: head.egid,
                comm: &head.comm,
                ns: head.ns,
                task_info: tracker.contexts.get(head.tid, head.context),
            },
            queue: group.queue,
            seq: None,
            calls: ObservedCalls::Group(head, group),
            tracker,
        }
    }

    /// The location of the object.
    #[must_use]
    pub(crate) fn place(&self) -> ObjectLocation {
        match self.calls {
            ObservedCalls::One(call) => self.tracker.place(call),
            ObservedCalls::Group(head, group) => self.tracker.place_of_group(head, group),
        }
    }

    /// The result of a single call.
    #[must_use]
    pub(crate) fn ret(&self) -> Option<i64> {
        match self.calls {
            ObservedCalls::One(call) => Some(call.record.ret),
            ObservedCalls::Group(..) => None,
        }
    }

    /// The observation as evidence.
    #[must_use]
    pub(crate) fn trace(&self) -> EvidenceEvent {
        let ret = self.ret();
        EvidenceEvent {
            boot_ns: self.boot_ns,
            seq: self.seq,
            what: self.op.name().into(),
            ret,
            error: ret.and_then(CallError::from_ret),
            count: self.count,
        }
    }
}

/// A thread used an access path that is no IPC operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessObservation<'a> {
    /// The record.
    pub record: &'a AccessRecord,
    /// The access path.
    pub channel: ipc_trace_common::record::AccessPath,
    /// The actor.
    pub who: FindingActor<'a>,
    /// The object's namespace, if the record or the known queues determine it.
    pub ns: Option<NsRef>,
    /// Whether that differs from the thread's namespace; `None`: unknown.
    pub foreign: Option<bool>,
    /// Whether the namespace was dead.
    pub dead: bool,
    /// The tracked state.
    pub tracker: &'a Tracker,
}

impl AccessObservation<'_> {
    /// The name of the file, if known.
    #[must_use]
    pub(crate) fn name(&self) -> Option<&[u8]> {
        let record = self.record;
        let known = record.header.flags & ipc_trace_common::record::flag::DETAIL != 0;
        record.name.get(..record.name_len as usize).filter(|_| known)
    }

    /// The observation as evidence.
    #[must_use]
    pub(crate) fn trace(&self, what: impl Into<Cow<'static, str>>) -> EvidenceEvent {
        EvidenceEvent {
            boot_ns: self.record.boot_ns,
            seq: None,
            what: what.into(),
            ret: None,
            error: None,
            count: u64::from(self.record.count.max(1)),
        }
    }
}

/// A thread switched to another namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NamespaceMove<'a> {
    /// The record.
    pub record: &'a NsSwitchRecord,
    /// The thread that made the call.
    pub mover: Option<&'a Rc<TaskInfo>>,
    /// The new thread, for [`ipc_trace_common::record::NsSwitchKind::Clone`].
    pub child: Option<&'a Rc<TaskInfo>>,
    /// The number of its line; `None`: it has none.
    pub seq: Option<u64>,
    /// What procfs showed when the record was read.
    pub beside: &'a MoveContext,
    /// The tracked state.
    pub tracker: &'a Tracker,
}

impl NamespaceMove<'_> {
    /// The observation as evidence.
    #[must_use]
    pub(crate) fn trace(&self, how: &'static str) -> EvidenceEvent {
        EvidenceEvent {
            boot_ns: self.record.boot_ns,
            seq: self.seq,
            what: how.into(),
            ret: Some(0),
            error: None,
            count: 1,
        }
    }
}

/// The object of a finding. Observations with equal class, owner and target are one finding.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub(crate) enum FindingTarget {
    /// A namespace itself.
    #[n(0)]
    Namespace(#[n(0)] NsRef),
    /// A System V object.
    #[n(1)]
    Sysv(#[n(0)] NsRef, #[n(1)] ObjectKind, #[n(2)] i32),
    /// A key, name or id that a failed lookup asked for: it exists in one other namespace, or in several.
    #[n(2)]
    Sought(#[n(0)] ObjectKind, #[n(1)] Option<NsRef>),
    /// A queue: device number of its file system and inode number. They determine the namespace.
    #[n(3)]
    Queue(#[n(0)] u32, #[n(1)] u64),
    /// A queue's name in a namespace.
    #[n(4)]
    Name(#[n(0)] Option<NsRef>, #[n(1)] Box<[u8]>),
    /// A file that shows a namespace, by its name.
    #[n(5)]
    View(#[n(0)] Option<NsRef>, #[n(1)] Box<[u8]>),
}

/// The owner of a finding.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub(crate) enum FindingOwner {
    /// A process.
    #[n(0)]
    Process(#[n(0)] ProcessId),
    /// A container, by its id.
    #[n(1)]
    Container(#[n(0)] Box<[u8]>),
    /// Several users; no single owner.
    #[n(2)]
    Shared,
}

/// The identity of a finding: observations with equal keys are merged.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub(crate) struct FindingKey {
    /// The class.
    #[n(0)]
    pub class: Class,
    /// The owner.
    #[n(1)]
    pub whose: FindingOwner,
    /// The object.
    #[n(2)]
    pub target: FindingTarget,
}

/// An event that supports a finding.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct EvidenceEvent {
    /// When, boot time in nanoseconds.
    #[n(0)]
    pub boot_ns: u64,
    /// The number of its line; `None`: it has none.
    #[n(1)]
    pub seq: Option<u64>,
    /// The operation, or another description.
    #[n(2)]
    pub what: Cow<'static, str>,
    /// The result
    #[n(3)]
    pub ret: Option<i64>,
    /// The error
    #[n(4)]
    pub error: Option<CallError>,
    /// Number of equal events merged into this one.
    #[n(5)]
    pub count: u64,
}

/// Further lookups, besides the one in the title.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct MoreLookups {
    /// Number of distinct keys, names or ids.
    #[n(0)]
    pub count: usize,
    /// Whether there may be more that weren't distinguished.
    #[n(1)]
    pub or_more: bool,
}

/// The extent of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub(crate) enum Extent {
    /// An object of another namespace is held: a descriptor, a mapping.
    #[n(0)]
    Held,
    /// The object is used.
    #[n(1)]
    Used,
}

/// The description of a finding, built at its first observation.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct FindingDraft {
    /// The extent of the access.
    #[n(0)]
    pub extent: Extent,
    /// The severity.
    #[n(1)]
    pub severity: Severity,
    /// What happened, in one sentence with hostile names escaped. It is never parsed: parts that may change
    /// later have a field of their own.
    #[n(2)]
    pub title: String,
    /// Lookups beyond the one in the title.
    #[n(3)]
    pub more: MoreLookups,
    /// The process; `None`: the finding is about the container in `container`.
    #[cbor(n(4), with = "crate::event::optional_process")]
    pub process: Option<Process<'static>>,
    /// The container's handle, so that a late name is shown.
    #[n(5)]
    pub container: Option<ContainerHandle>,
    /// The path of the process's cgroup.
    #[cbor(n(6), with = "ipc_trace_common::cbor")]
    pub cgroup: Option<Arc<OsBytes<'static>>>,
    /// The process's IPC namespace.
    #[n(7)]
    pub ns: Option<NsRef>,
    /// The object's namespace, if there is an object.
    #[n(8)]
    pub object_ns: Option<NsRef>,
    /// The object's id in that namespace, if the target doesn't have it.
    #[n(9)]
    pub local: Option<ObjectId>,
    /// The owner of the object, if its creator doesn't determine it.
    #[n(10)]
    pub owner: Option<ContainerHandle>,
    /// Whether the object's namespace differs from the process's.
    #[n(11)]
    pub foreign: Option<bool>,
    /// Whether the namespace was dead.
    #[n(12)]
    pub dead: bool,
    /// The object's name and its source, if the target has none or the object may be evicted.
    #[n(13)]
    pub name: Option<(OsBytes<'static>, ReadFrom)>,
    /// The object's key, likewise.
    #[n(14)]
    pub key: Option<u32>,
    /// The reasons for the confidence.
    #[n(15)]
    pub reasons: Vec<Reason>,
    /// A benign explanation.
    #[n(16)]
    pub benign_explanation: Cow<'static, str>,
    /// The runtime configuration that allows it.
    #[n(17)]
    pub declared_by: Option<String>,
}

impl FindingDraft {
    /// A draft about an actor, with the other fields empty.
    #[must_use]
    pub(crate) fn by(who: &FindingActor<'_>, severity: Severity, title: String) -> Self {
        Self {
            extent: Extent::Used,
            severity,
            title,
            more: MoreLookups::default(),
            process: Some(who.process()),
            container: who.task_info.and_then(|task_info| task_info.container.clone()),
            cgroup: who.task_info.and_then(|task_info| task_info.cgroup.clone()),
            ns: Some(who.ns),
            object_ns: None,
            local: None,
            owner: None,
            foreign: None,
            dead: false,
            name: None,
            key: None,
            reasons: Vec::new(),
            benign_explanation: Cow::Borrowed(""),
            declared_by: None,
        }
    }

    /// Whether its container, or its owner's, has no name yet.
    #[must_use]
    pub(crate) fn is_nameless(&self, containers: &Containers) -> bool {
        let mut all = self.container.iter().chain(&self.owner);
        all.any(|handle| containers.container(handle).name.is_none())
    }

    /// Adds a reason.
    pub(crate) fn add(&mut self, weight: i32, text: impl Into<Cow<'static, str>>) {
        self.reasons.push(Reason { text: text.into(), weight });
    }

    /// Returns the draft with another reason.
    #[must_use]
    pub(crate) fn because(mut self, weight: i32, text: impl Into<Cow<'static, str>>) -> Self {
        self.add(weight, text);
        self
    }

    /// Returns the draft with the namespace of its object.
    #[must_use]
    pub(crate) fn about(mut self, ns: Option<NsRef>, foreign: Option<bool>, dead: bool) -> Self {
        (self.object_ns, self.foreign, self.dead) = (ns, foreign, dead);
        self
    }

    /// The title as it is shown.
    #[must_use]
    pub(crate) fn full_title(&self) -> String {
        let MoreLookups { count, or_more } = self.more;
        match count {
            0 => self.title.clone(),
            _ => {
                let least = if or_more { " at least" } else { "" };
                format!("{}, and for{least} {count} more that exist there", self.title)
            }
        }
    }

    /// The confidence, from 0 to 100.
    #[must_use]
    pub(crate) fn confidence(&self) -> u8 {
        let sum = self.reasons.iter().fold(0_i32, |sum, one| sum.saturating_add(one.weight));
        u8::try_from(sum.clamp(0, 100)).unwrap_or(100)
    }
}

/// A thread's name, NUL-padded.
#[must_use]
pub(crate) fn comm_of(task_info: Option<&Rc<TaskInfo>>) -> [u8; 16] {
    let mut comm = [0; 16];
    if let Some(task_info) = task_info {
        for (to, from) in comm.iter_mut().take(15).zip(task_info.comm.0.iter()) {
            *to = *from;
        }
    }
    comm
}
