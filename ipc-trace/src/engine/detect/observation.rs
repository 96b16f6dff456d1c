//! What classes work with: who did something, what to, and what they make of it.

use std::{borrow::Cow, rc::Rc, sync::Arc};

use ipc_trace_common::{
    op::{Family, Op},
    record::{AccessRecord, BatchHead, CallRecord, MoveRecord, NsRef, QueueRef},
};

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

/// Who did something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FindingActor<'a> {
    /// The process
    pub pid: u32,
    /// The thread
    pub tid: u32,
    /// Effective user
    pub uid: u32,
    /// Effective group
    pub gid: u32,
    /// The thread's name, NUL-padded
    pub comm: &'a [u8; 16],
    /// The thread's IPC namespace
    pub ns: NsRef,
    /// What else is known
    pub facts: Option<&'a Rc<TaskInfo>>,
}

impl<'a> FindingActor<'a> {
    /// A process and its thread in a namespace, by what is known of it.
    #[must_use]
    pub(crate) fn of_facts(
        (pid, tid): (u32, u32),
        ns: NsRef,
        comm: &'a [u8; 16],
        facts: Option<&'a Rc<TaskInfo>>,
    ) -> Self {
        let (uid, gid) = facts.map_or((0, 0), |facts| (facts.uid, facts.gid));
        Self { pid, tid, uid, gid, comm, ns, facts }
    }

    /// The process for good.
    #[must_use]
    pub(crate) fn key(&self) -> ProcessId {
        (self.pid, self.facts.map_or(0, |facts| facts.start_boot_ns))
    }

    /// As it is shown.
    #[must_use]
    pub(crate) fn process(&self) -> Process<'static> {
        let Self { pid, tid, uid, gid, .. } = *self;
        let comm = OsBytes::until_nul(self.comm);
        CallTask { pid, tid, uid, gid, comm }.process(self.facts.map(Rc::as_ref)).into_owned()
    }
}

/// Calls that returned: one, or several that came together.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ObservedCalls<'a> {
    /// One
    One(&'a Call<'a>),
    /// The same call on the same object
    Group(&'a BatchHead, &'a BatchGroup<'a>),
}

/// Calls, with who made them: what classes see of the calls of a host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallObservation<'a> {
    /// What was called
    pub op: Op,
    /// When the last of them returned
    pub boot_ns: u64,
    /// How many
    pub count: u64,
    /// Who
    pub who: FindingActor<'a>,
    /// What the descriptor led to, of operations that take one
    pub queue: Option<&'a QueueRef>,
    /// The number of the line that told of it
    pub seq: Option<u64>,
    /// The calls themselves
    pub calls: ObservedCalls<'a>,
    /// What is known
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
                facts: tracker.contexts.get(record.tid, record.context),
            },
            queue: call.queue(),
            seq,
            calls: ObservedCalls::One(call),
            tracker,
        }
    }

    /// Calls that came together.
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
            count: group.count(),
            who: FindingActor {
                pid: head.pid,
                tid: head.tid,
                uid: head.euid,
                gid: head.egid,
                comm: &head.comm,
                ns: head.ns,
                facts: tracker.contexts.get(head.tid, head.context),
            },
            queue: group.queue,
            seq: None,
            calls: ObservedCalls::Group(head, group),
            tracker,
        }
    }

    /// Where the object is.
    #[must_use]
    pub(crate) fn place(&self) -> ObjectLocation {
        match self.calls {
            ObservedCalls::One(call) => self.tracker.place(call),
            ObservedCalls::Group(head, group) => self.tracker.place_of_group(head, group),
        }
    }

    /// The result, of one call.
    #[must_use]
    pub(crate) fn ret(&self) -> Option<i64> {
        match self.calls {
            ObservedCalls::One(call) => Some(call.record.ret),
            ObservedCalls::Group(..) => None,
        }
    }

    /// As evidence.
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

/// A thread reached something by a way that is no operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessObservation<'a> {
    /// What the eBPF programs say
    pub record: &'a AccessRecord,
    /// By which way
    pub channel: ipc_trace_common::record::Channel,
    /// Who
    pub who: FindingActor<'a>,
    /// The namespace of what was reached, as far as the record or queues known tell
    pub ns: Option<NsRef>,
    /// Whether that is another one than the thread's; `None`: not known
    pub foreign: Option<bool>,
    /// Whether it had died
    pub dead: bool,
    /// What is known
    pub tracker: &'a Tracker,
}

impl AccessObservation<'_> {
    /// The name of the file, where it is known.
    #[must_use]
    pub(crate) fn name(&self) -> Option<&[u8]> {
        let record = self.record;
        let known = record.header.flags & ipc_trace_common::record::flag::DETAIL != 0;
        record.name.get(..record.name_len as usize).filter(|_| known)
    }

    /// As evidence.
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

/// A thread got into another namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NamespaceMove<'a> {
    /// What the eBPF programs say
    pub record: &'a MoveRecord,
    /// The thread that made the call
    pub mover: Option<&'a Rc<TaskInfo>>,
    /// The new thread, of `Way::Clone`
    pub child: Option<&'a Rc<TaskInfo>>,
    /// The number of the line that told of it
    pub seq: Option<u64>,
    /// What was to be seen of it then
    pub beside: &'a MoveContext,
    /// What is known
    pub tracker: &'a Tracker,
}

impl NamespaceMove<'_> {
    /// As evidence.
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

/// What a finding is about. What is equal is one finding, if class and subject are, too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FindingTarget {
    /// A namespace itself
    Namespace(NsRef),
    /// A System V object
    Sysv(NsRef, Family, i32),
    /// A key, name or id that was looked for and is not here: in one namespace, or in several
    Sought(Family, Option<NsRef>),
    /// A queue: its file system's device number and its inode number. The namespace is found by them
    Queue(u32, u64),
    /// A queue's name in a namespace
    Name(Option<NsRef>, Box<[u8]>),
    /// A file that shows a namespace, by its name
    View(Option<NsRef>, Box<[u8]>),
}

/// Whose finding it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FindingOwner {
    /// A process's
    Process(ProcessId),
    /// A container's, by its id
    Container(Box<[u8]>),
    /// Nobody's alone
    Shared,
}

/// What folds observations into one finding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FindingKey {
    /// What happened
    pub class: Class,
    /// Who did it
    pub whose: FindingOwner,
    /// What to
    pub target: FindingTarget,
}

/// An event that a finding rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EvidenceEvent {
    /// When
    pub boot_ns: u64,
    /// The number of the line that told of it
    pub seq: Option<u64>,
    /// The operation, or what else happened
    pub what: Cow<'static, str>,
    /// The result
    pub ret: Option<i64>,
    /// The error
    pub error: Option<CallError>,
    /// How many such came together
    pub count: u64,
}

/// What else was looked for, beside what a title names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MoreLookups {
    /// How many different things
    pub count: usize,
    /// There may be more that were not told apart
    pub or_more: bool,
}

/// How much of an access was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Extent {
    /// Something of another namespace is held: a descriptor, a mapping
    Held,
    /// It is used
    Used,
}

/// What a class says when it sees something for the first time.
#[derive(Clone, Debug)]
pub(crate) struct FindingDraft {
    /// How much was seen
    pub extent: Extent,
    /// How much it matters
    pub severity: Severity,
    /// What happened, in one sentence. Names that others chose are escaped in it. It is never read again:
    /// what may have to be said otherwise later has a field of its own
    pub title: String,
    /// How many more than the title names were looked for
    pub more: MoreLookups,
    /// Who did it; `None`: the finding is about the container in `container`
    pub process: Option<Process<'static>>,
    /// The container, kept so that a name which comes late is shown
    pub container: Option<ContainerHandle>,
    /// The path of the process's cgroup
    pub cgroup: Option<Arc<OsBytes<'static>>>,
    /// The namespace that it was in
    pub ns: Option<NsRef>,
    /// Where the object is, if there is one
    pub object_ns: Option<NsRef>,
    /// Which one of that namespace, where the target does not say so
    pub local: Option<ObjectId>,
    /// Whose it is, where that is not told by who made it
    pub owner: Option<ContainerHandle>,
    /// Whether that is another one than the subject's
    pub foreign: Option<bool>,
    /// Whether it had died
    pub dead: bool,
    /// A name, where the target has none or what is known may be forgotten, and where it comes from
    pub name: Option<(OsBytes<'static>, ReadFrom)>,
    /// A key, likewise
    pub key: Option<u32>,
    /// Why it is as sure as it is
    pub reasons: Vec<Reason>,
    /// What else would explain it
    pub benign_explanation: &'static str,
    /// The runtime's word by which it is deliberate
    pub declared_by: Option<String>,
}

impl FindingDraft {
    /// By a process. The rest is to be filled in.
    #[must_use]
    pub(crate) fn by(who: &FindingActor<'_>, severity: Severity, title: String) -> Self {
        Self {
            extent: Extent::Used,
            severity,
            title,
            more: MoreLookups::default(),
            process: Some(who.process()),
            container: who.facts.and_then(|facts| facts.container.clone()),
            cgroup: who.facts.and_then(|facts| facts.cgroup.clone()),
            ns: Some(who.ns),
            object_ns: None,
            local: None,
            owner: None,
            foreign: None,
            dead: false,
            name: None,
            key: None,
            reasons: Vec::new(),
            benign_explanation: "",
            declared_by: None,
        }
    }

    /// Whether a container has to do with it that has no name yet.
    #[must_use]
    pub(crate) fn is_nameless(&self, containers: &Containers) -> bool {
        let mut all = self.container.iter().chain(&self.owner);
        all.any(|handle| containers.container(handle).name.is_none())
    }

    /// One more reason.
    pub(crate) fn add(&mut self, weight: i32, text: impl Into<Cow<'static, str>>) {
        self.reasons.push(Reason { text: text.into(), weight });
    }

    /// The same, with one more reason.
    #[must_use]
    pub(crate) fn because(mut self, weight: i32, text: impl Into<Cow<'static, str>>) -> Self {
        self.add(weight, text);
        self
    }

    /// The same, about something in a namespace.
    #[must_use]
    pub(crate) fn about(mut self, ns: Option<NsRef>, foreign: Option<bool>, dead: bool) -> Self {
        (self.object_ns, self.foreign, self.dead) = (ns, foreign, dead);
        self
    }

    /// What happened, as it is shown.
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

    /// From 0 to 100.
    #[must_use]
    pub(crate) fn confidence(&self) -> u8 {
        let sum = self.reasons.iter().fold(0_i32, |sum, one| sum.saturating_add(one.weight));
        u8::try_from(sum.clamp(0, 100)).unwrap_or(100)
    }
}

/// A thread's name, as records have it.
#[must_use]
pub(crate) fn comm_of(facts: Option<&Rc<TaskInfo>>) -> [u8; 16] {
    let mut comm = [0; 16];
    if let Some(facts) = facts {
        for (to, from) in comm.iter_mut().take(15).zip(facts.comm.0.iter()) {
            *to = *from;
        }
    }
    comm
}
