//! The tracked state beyond single records: processes, namespaces, queues, objects, time. Pure state machines
//! fed by records: no kernel, no output.
//!
//! | module | its job |
//! | --- | --- |
//! | [`clock`] | converts boot time to the time of day |
//! | [`contexts`] | tasks by thread and context |
//! | [`identity`] | further identity of processes: arguments, uid map, ancestors |
//! | [`namespaces`] | IPC namespaces: creation and death |
//! | [`queues`] | queues' names, and the namespaces of dead file systems |
//! | [`objects`] | objects, from creation to destruction |
//! | [`losses`] | losses since the last update |
//! | [`stats`] | counts by namespace, for the report |
//! | [`counts_by_second`] | counts by second, for recordings |
//! | [`last_hit`] | a map that caches the index of its last hit |
//! | `ordered_map` | a hash map with an order that a checkpoint can keep |
//! | [`processes`] | the processes in one namespace |
//!
//! Invariant: state is bounded by what exists plus a fixed remainder, and evictions are counted.

pub(crate) mod clock;
pub(crate) mod containers;
pub(crate) mod contexts;
pub(crate) mod counts_by_second;
pub(crate) mod identity;
pub(crate) mod last_hit;
pub(crate) mod losses;
pub(crate) mod namespaces;
pub(crate) mod objects;
mod ordered_map;
pub(crate) mod processes;
pub(crate) mod queues;
pub(crate) mod stats;
pub(crate) mod two_gen;

use std::sync::Arc;

use ipc_trace_common::{
    op::Op,
    record::{BatchHead, CallRecord, NsRef, QueueRef, queue_flag},
};
use minicbor::{Decode, Encode};

use crate::event::shared::SharedState;
use crate::{
    engine::track::containers::Containers,
    event::{
        CallObject, Container, Ipc, IpcNsRef, ReadFrom,
        value::{AbiName, CallError, Hex32, KindName, OpName, OsBytes},
    },
    input::Call,
    input::batch::BatchGroup,
    input::effect::{CallEffect, Creation},
    input::process::Context,
};
use clock::Clock;
use contexts::TaskCache;
use namespaces::NamespaceTracker;
use objects::{AppliedCall, ObjectTracker, tracked::ObjectId};
pub(crate) use ordered_map::OrderedMap;
use queues::Queues;

/// The tracked state.
#[derive(Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct Tracker {
    /// Time
    #[n(0)]
    pub clock: Clock,
    /// Threads
    #[n(1)]
    pub contexts: TaskCache,
    /// Namespaces
    #[n(2)]
    pub namespaces: NamespaceTracker,
    /// Queues
    #[n(3)]
    pub queues: Queues,
    /// Objects
    #[n(4)]
    pub objects: ObjectTracker,
    /// Containers
    #[n(5)]
    pub containers: Containers,
}

/// The location of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectLocation {
    /// Its namespace; `None`: unknown.
    pub ns: Option<NsRef>,
    /// Whether that differs from the caller's namespace; `None`: unknown.
    pub foreign: Option<bool>,
    /// Whether that namespace had died before the call.
    pub dead: bool,
}

impl Tracker {
    /// An empty state.
    #[must_use]
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            contexts: TaskCache::default(),
            namespaces: NamespaceTracker::default(),
            queues: Queues::default(),
            objects: ObjectTracker::default(),
            containers: Containers::default(),
        }
    }

    /// Takes over what no checkpoint has from the state before.
    pub(crate) fn restored(&mut self, before: Self) {
        self.contexts.with_ancestry = before.contexts.with_ancestry;
        self.containers.restored(before.containers);
        self.objects.index_names();
    }

    /// The location of a call's object. System V ids and keys are always looked up in the caller's namespace.
    /// A queue is located by its descriptor, or for a name in the caller's namespace.
    #[must_use]
    pub(crate) fn place(&self, call: &Call<'_>) -> ObjectLocation {
        let own = ObjectLocation { ns: Some(call.record.ns), foreign: Some(false), dead: false };
        match call.queue() {
            None => own,
            Some(queue) if queue.flags & queue_flag::KNOWN != 0 => self.place_of_queue(queue),
            // A name without a queue was looked up in the caller's namespace.
            Some(_) if !call.op.takes_descriptor() => own,
            Some(_) => ObjectLocation { ns: None, foreign: None, dead: false },
        }
    }

    /// As [`Self::place`], for a group of batched calls.
    #[must_use]
    pub(crate) fn place_of_group(
        &self,
        head: &BatchHead,
        group: &BatchGroup<'_>,
    ) -> ObjectLocation {
        match group.queue {
            None => ObjectLocation { ns: Some(head.ns), foreign: Some(false), dead: false },
            Some(queue) if queue.flags & queue_flag::KNOWN != 0 => self.place_of_queue(queue),
            Some(_) => ObjectLocation { ns: None, foreign: None, dead: false },
        }
    }

    fn place_of_queue(&self, queue: &QueueRef) -> ObjectLocation {
        let dead = queue.flags & queue_flag::DEAD != 0;
        let ns = if dead { self.queues.namespace_of(queue.dev) } else { Some(queue.ns) };
        ObjectLocation { ns, foreign: Some(queue.flags & queue_flag::FOREIGN != 0), dead }
    }

    /// Applies a call to the objects. Returns their changes.
    pub(crate) fn apply(&mut self, call: &Call<'_>) -> Vec<objects::ObjectChange> {
        let Some(mut effect) = call.effect() else { return Vec::new() };
        if let CallEffect::Opened { name, .. } = &mut effect {
            // Prefer the queue's own name over the one that the caller passed.
            *name = self.queue_name(call).map(|(name, _)| name.into_owned());
        }
        let record = call.record;
        let (queue_ns, makes) = match &effect {
            CallEffect::Opened { queue, made, .. } => (self.whose(queue), *made != Creation::No),
            CallEffect::QueueUsed(queue) => (self.whose(queue), false),
            CallEffect::Got { made, .. } => (None, *made != Creation::No),
            CallEffect::Used(..)
            | CallEffect::Removed(..)
            | CallEffect::Set(..)
            | CallEffect::Attached { .. }
            | CallEffect::Detached { .. }
            | CallEffect::Unlinked(_) => (None, false),
        };
        let ns = queue_ns.unwrap_or(record.ns);
        let death = self.namespaces.get(ns).and_then(|info| info.death);
        // A late record of a dead namespace: its objects are gone.
        if death.is_some() && !makes {
            return Vec::new();
        }
        let applied = AppliedCall {
            boot_ns: record.boot_ns,
            ns: record.ns,
            tid: record.tid,
            pid: record.pid,
            uid: record.euid,
            gid: record.egid,
            comm: record.comm,
            context: record.context,
            task_info: self.contexts.get(record.tid, record.context),
            effect,
        };
        let mut changes = self.objects.apply(&applied, queue_ns);
        if let Some(death) = death {
            changes.extend(self.objects.ended(ns, death));
        }
        changes
    }

    /// Applies a group of batched calls: all are uses, which cause no changes.
    pub(crate) fn apply_group(&mut self, head: &BatchHead, group: &BatchGroup<'_>) {
        let (effect, ns) = match group.queue {
            None => (CallEffect::Used(group.op.object_kind(), group.id), Some(head.ns)),
            Some(queue) => (CallEffect::QueueUsed(*queue), self.whose(queue)),
        };
        let Some(ns) = ns else { return };
        if self.namespaces.get(ns).is_some_and(|info| info.death.is_some()) {
            return;
        }
        if group.error.is_some() {
            return;
        }
        let applied = AppliedCall {
            boot_ns: group.last_ns,
            ns: head.ns,
            tid: head.tid,
            pid: head.pid,
            uid: head.euid,
            gid: head.egid,
            comm: head.comm,
            context: head.context,
            task_info: self.contexts.get(head.tid, head.context),
            effect,
        };
        self.objects.apply_repeated(&applied, ns, group.count);
    }

    /// The namespace of a queue.
    fn whose(&self, queue: &QueueRef) -> Option<NsRef> {
        objects::namespace_of(queue, |dev| self.queues.namespace_of(dev))
    }

    /// The id and key of a call's System V object, as far as known.
    fn identity(&self, call: &Call<'_>, ns: Option<NsRef>) -> (Option<i32>, Option<Hex32>) {
        let named = call.named();
        let record = call.record;
        let mut id = named.id;
        let mut ns = ns;
        if call.op == Op::Shmdt {
            let task_info = self.contexts.get(record.tid, record.context);
            let [at, ..] = record.args;
            let known = match CallError::from_ret(record.ret) {
                None => self.objects.attachment(record.pid, task_info, at, record.boot_ns),
                Some(_) => None,
            };
            (ns, id) = known.unzip();
        }
        let kind = call.op.object_kind();
        // The object exists; the call failed for another reason.
        const ENOENT: CallError = CallError(2);
        let refused = CallError::from_ret(record.ret).is_some_and(|error| error != ENOENT);
        if let (Some(ns), None, Some(Hex32(key)), true) = (ns, id, named.key, refused) {
            id = self.objects.of_key(ns, kind, key);
        }
        let known = ns.zip(id).and_then(|(ns, id)| self.objects.get(ns, ObjectId::Sysv(kind, id)));
        (id, named.key.or_else(|| known.and_then(|one| one.key).map(Hex32)))
    }

    /// The container of a call's thread, for a line.
    pub(crate) fn show_container(&mut self, record: &CallRecord) -> Option<Arc<Container>> {
        let task_info = self.contexts.get(record.tid, record.context)?;
        task_info.show_container(&mut self.containers)
    }

    /// Adds a thread's context.
    pub(crate) fn context(&mut self, context: &Context) {
        self.contexts.insert(context, &mut self.containers);
    }

    /// Builds the event of a call.
    #[must_use]
    pub(crate) fn ipc<'a>(
        &'a self,
        call: &Call<'a>,
        container: Option<Arc<Container>>,
        seq: u64,
    ) -> Ipc<'a> {
        let record = call.record;
        let place = self.place(call);
        let (name, name_from) = self.queue_name(call).unzip();
        let duration = record.duration_ns;
        let (id, key) = self.identity(call, place.ns);
        Ipc {
            seq,
            time: self.clock.time(record.boot_ns),
            boot_ns: record.boot_ns,
            op: OpName(call.op),
            abi: AbiName(call.abi),
            ret: call.ret(),
            error: call.ret().and_then(CallError::from_ret),
            made: call.made(),
            duration_ns: (duration != ipc_trace_common::record::NO_DURATION).then_some(duration),
            process: self.contexts.caller(record),
            container,
            ipc_ns: self.namespaces.show(record.ns),
            object: CallObject {
                kind: KindName(call.op.object_kind()),
                id,
                key,
                name,
                name_from,
                ipc_ns: place.ns.map(|ns| IpcNsRef { inum: ns.inum, r#gen: ns.generation }),
                foreign: place.foreign,
                ipc_ns_dead: place.dead,
            },
            args: call.args(),
            args_from: call.args_from(),
        }
    }

    /// The name of a call's queue: its own if known, otherwise the one that the caller passed.
    #[must_use]
    pub(crate) fn queue_name<'a>(&'a self, call: &Call<'a>) -> Option<(OsBytes<'a>, ReadFrom)> {
        let own = call.queue().and_then(|queue| self.queues.name(queue));
        own.or_else(|| Some((call.named().name?, call.args_from())))
    }
}
