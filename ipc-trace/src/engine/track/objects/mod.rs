//! Objects: their creation, users, owners and removal.
//!
//! | module | its job |
//! | --- | --- |
//! | [`tracked`] | one object |
//! | [`namespace_objects`] | the objects of one namespace, and the effects of calls on them |
//! | `reaper` | destruction of objects without a call |
//! | [`tombstones`] | destroyed objects, a bounded number |
//! | [`index`] | objects by key, name and id, also over all namespaces |
//! | [`users`] | the users of an object |
//! | `unlinked` | names that were unlinked before their queue was known |
//! | [`snapshots`] | applies snapshots |
//!
//! Calls arrive in the order of their returns, which need not be the order of their effects: an object can be
//! used and removed before the call that created it returns. So the effect of an early use or removal is
//! kept, and the creation that arrives later is merged with it.
//!
//! Invariant: state is bounded by the existing objects plus a fixed number of removed or destroyed ones;
//! evictions are counted.

pub(crate) mod index;
pub(crate) mod namespace_objects;
mod reaper;
pub(crate) mod snapshots;
#[cfg(test)]
mod tests;
pub(crate) mod tombstones;
pub(crate) mod tracked;
mod unlinked;
pub(crate) mod users;

use std::{collections::HashSet, rc::Rc};

use ipc_trace_common::{
    op::ObjectKind,
    record::{NsRef, QueueRef, queue_flag},
};
use minicbor::{Decode, Encode};

use super::{
    OrderedMap,
    contexts::{CallTask, TaskInfo},
    namespaces::Death,
    two_gen::TwoGenCache,
};
use crate::event::shared::SharedState;
use crate::{
    event::{Process, objects::ObjectEventKind, value::OsBytes},
    input::effect::CallEffect,
    steps::step,
};
use index::{GlobalIndex, LookupKey};
use namespace_objects::NamespaceObjects;
use tombstones::Tombstones;
use tracked::{ObjectActor, ObjectId, TrackedObject};
use unlinked::PendingOnHost;

/// A successful call with its caller.
#[derive(Clone, Debug)]
pub(crate) struct AppliedCall<'a> {
    /// When the call returned or the change occurred, boot time in nanoseconds.
    pub boot_ns: u64,
    /// The caller's namespace.
    pub ns: NsRef,
    /// The thread
    pub tid: u32,
    /// Its process
    pub pid: u32,
    /// Effective user
    pub uid: u32,
    /// Effective group
    pub gid: u32,
    /// The thread's name, NUL-padded
    pub comm: [u8; 16],
    /// The number of its context: the boot time when that was created.
    pub context: u64,
    /// The task, if known.
    pub task_info: Option<&'a Rc<TaskInfo>>,
    /// The effect.
    pub effect: CallEffect<'a>,
}

impl AppliedCall<'_> {
    fn who(&self) -> ObjectActor {
        ObjectActor {
            pid: Some(self.pid),
            uid: self.uid,
            gid: self.gid,
            comm: self.another_comm(),
            task_info: self.task_info.cloned(),
        }
    }

    fn caller(&self) -> CallerSnapshot {
        let Self { tid, pid, uid, gid, comm, .. } = *self;
        CallerSnapshot { tid, pid, uid, gid, comm, task_info: self.task_info.cloned() }
    }

    /// The thread's name, if it differs from the task's.
    fn another_comm(&self) -> Option<Box<[u8; 16]>> {
        let known = self.task_info.map(|task_info| task_info.comm.0.as_ref());
        (known != Some(OsBytes::until_nul(&self.comm).0.as_ref())).then(|| Box::new(self.comm))
    }

    /// Whether the call certainly began after that time. A thread's calls don't overlap, and its context was
    /// created at the end of a call or before.
    fn began_after(&self, boot_ns: u64, last_by: Option<u32>) -> bool {
        let started = self.task_info.is_some_and(|task_info| task_info.start_boot_ns > boot_ns);
        let later = self.context > boot_ns && self.boot_ns > self.context;
        let same = last_by == Some(self.tid) && self.boot_ns > boot_ns;
        started || later || same
    }
}

/// The caller at the time of the call.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct CallerSnapshot {
    /// The thread
    #[n(0)]
    pub tid: u32,
    /// Its process
    #[n(1)]
    pub pid: u32,
    /// Effective user
    #[n(2)]
    pub uid: u32,
    /// Effective group
    #[n(3)]
    pub gid: u32,
    /// The thread's name, NUL-padded
    #[cbor(n(4), with = "ipc_trace_common::cbor")]
    pub comm: [u8; 16],
    /// The task, if known.
    #[cbor(n(5), with = "crate::event::shared::optional")]
    pub task_info: Option<Rc<TaskInfo>>,
}

impl CallerSnapshot {
    /// The caller as it is shown.
    #[must_use]
    pub(crate) fn process(&self) -> Process<'static> {
        let Self { pid, tid, uid, gid, .. } = *self;
        let comm = OsBytes::until_nul(&self.comm);
        CallTask { pid, tid, uid, gid, comm }.process(self.task_info.as_deref()).into_owned()
    }
}

/// A change of an object.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct ObjectChange {
    /// When the call returned or the change occurred, boot time in nanoseconds.
    #[n(0)]
    pub boot_ns: u64,
    /// What happened.
    #[n(1)]
    pub life: ObjectEventKind,
    /// The object's namespace.
    #[n(2)]
    pub ns: NsRef,
    /// The object's id in it.
    #[n(3)]
    pub local: ObjectId,
    /// The object after the change.
    #[n(4)]
    pub one: Box<TrackedObject>,
    /// The caller, if known.
    #[n(5)]
    pub by: Option<CallerSnapshot>,
    /// For a destruction that was noticed later: the time span.
    #[n(6)]
    pub death: Option<Death>,
}

impl ObjectChange {
    fn new(
        life: ObjectEventKind,
        boot_ns: u64,
        ns: NsRef,
        local: ObjectId,
        one: &mut TrackedObject,
    ) -> Self {
        one.reported = true;
        one.announced |= matches!(life, ObjectEventKind::Created | ObjectEventKind::Present);
        Self { boot_ns, life, ns, local, one: Box::new(one.clone()), by: None, death: None }
    }

    fn by(mut self, applied: &AppliedCall<'_>) -> Self {
        self.by = Some(applied.caller());
        self
    }
}

/// An attachment: process number, its start time, the address.
type AttachmentKey = (u32, u64, u64);

/// An attached segment.
#[derive(Clone, Copy, Debug, Encode, Decode)]
struct SegmentAttachment {
    #[n(0)]
    ns: NsRef,
    #[n(1)]
    id: i32,
    /// When it was detached: another, unobserved attachment may be at the address since.
    #[n(2)]
    detached: Option<u64>,
}

/// State shared by the objects of all namespaces.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
struct HostObjects {
    /// The index over all namespaces.
    #[n(0)]
    index: GlobalIndex,
    /// Destroyed objects.
    #[n(1)]
    gone: Tombstones,
    /// Removals of queues that wait for the call that created them.
    #[n(2)]
    unlinked: PendingOnHost,
}

/// All tracked objects.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct ObjectTracker {
    #[n(0)]
    spaces: OrderedMap<NsRef, NamespaceObjects>,
    #[n(1)]
    host: HostObjects,
    #[n(2)]
    attachments: TwoGenCache<AttachmentKey, SegmentAttachment>,
    /// Whether records were lost since the last snapshot: the objects of a new namespace may then be
    /// incomplete.
    #[n(3)]
    incomplete: bool,
    /// Number of evicted removed objects.
    #[n(4)]
    forgotten: u64,
    /// Objects created since the last sweep for unobserved destructions, and the number of objects at that
    /// sweep.
    #[n(5)]
    begun: usize,
    #[n(6)]
    sweep_at: usize,
    /// Whether ids have indices of 24 bits.
    #[n(7)]
    extended: bool,
}

/// Number of removed objects kept that may still be in use, over all namespaces.
const MAX_REMOVED: usize = 1 << 14;

/// Minimal number of new objects before the next sweep for unobserved destructions: after a loss, any number
/// of destructions may have been missed.
const MIN_SWEEP: usize = 1 << 17;
/// Bits of an id that are its index; the others are a sequence number (`IPCMNI_SHIFT` and, with the boot
/// parameter `ipcmni_extend`, `IPCMNI_EXTEND_SHIFT`, ipc/util.h, 6.12).
const INDEX_BITS: u32 = 15;
const EXTENDED_INDEX_BITS: u32 = 24;

impl ObjectTracker {
    /// Enters all names in the index over all namespaces, which no checkpoint has.
    pub(crate) fn index_names(&mut self) {
        for space in self.spaces.values() {
            space.ways.index_names(&mut self.host.index);
        }
    }

    /// Uses larger indices: the kernel was booted with `ipcmni_extend`.
    pub(crate) const fn ids_are_extended(&mut self) {
        self.extended = true;
    }

    /// Applies a call. `queue_ns`: the namespace of its queue.
    pub(crate) fn apply(
        &mut self,
        applied: &AppliedCall<'_>,
        queue_ns: Option<NsRef>,
    ) -> Vec<ObjectChange> {
        let mut changes = Vec::new();
        let queue = |queue: &QueueRef| ObjectId::Queue(queue.dev, queue.ino);
        match &applied.effect {
            CallEffect::Got { kind, id, key, made, like } => {
                let (space, host) = self.space(applied.ns);
                let local = ObjectId::Sysv(*kind, *id);
                space.opened(applied, local, Some(*key), None, (*made, *like), host, &mut changes);
            }
            CallEffect::Used(kind, id) => {
                self.used(applied, applied.ns, ObjectId::Sysv(*kind, *id), 1, &mut changes)
            }
            CallEffect::Removed(kind, id) => {
                let (space, host) = self.space(applied.ns);
                space.removed(applied, ObjectId::Sysv(*kind, *id), host, &mut changes);
            }
            CallEffect::Set(kind, id, set) => {
                let local = ObjectId::Sysv(*kind, *id);
                self.used(applied, applied.ns, local, 1, &mut changes);
                let (space, _) = self.space(applied.ns);
                space.set(applied, local, *set, &mut changes);
            }
            CallEffect::Attached { id, at } => {
                self.attached(applied, applied.ns, *id, &mut changes);
                if let (Some(at), Some(task_info)) = (at, applied.task_info) {
                    let place = (applied.pid, task_info.start_boot_ns, *at);
                    let new = SegmentAttachment { ns: applied.ns, id: *id, detached: None };
                    self.attachments.insert(place, new);
                }
            }
            CallEffect::Detached { at } => {
                let detached = applied.boot_ns;
                if let Some((ns, id)) =
                    self.attachment(applied.pid, applied.task_info, *at, detached)
                    && let Some(task_info) = applied.task_info
                {
                    let place = (applied.pid, task_info.start_boot_ns, *at);
                    let known = SegmentAttachment { ns, id, detached: Some(detached) };
                    self.attachments.insert(place, known);
                    self.attached(applied, ns, id, &mut changes);
                }
            }
            CallEffect::Opened { queue: opened, name, made, like } => {
                if let Some(ns) = queue_ns {
                    let (space, host) = self.space(ns);
                    let name = name.as_ref().map(|name| &*name.0);
                    let local = queue(opened);
                    space.opened(applied, local, None, name, (*made, *like), host, &mut changes);
                }
            }
            CallEffect::QueueUsed(used) => {
                if let Some(ns) = queue_ns {
                    self.used(applied, ns, queue(used), 1, &mut changes);
                }
            }
            CallEffect::Unlinked(name) => {
                let (space, host) = self.space(applied.ns);
                space.unlinked(applied, &name.0, host, &mut changes);
            }
        }
        self.limit_removed();
        if changes.iter().any(|change| change.life == ObjectEventKind::Created) {
            self.begun += 1;
            if self.begun > self.sweep_at.max(MIN_SWEEP) {
                self.end_replaced(applied, &mut changes);
            }
        }
        changes
    }

    /// Destroys objects whose destruction wasn't observed and whose index was reused.
    fn end_replaced(&mut self, applied: &AppliedCall<'_>, changes: &mut Vec<ObjectChange>) {
        let bits = if self.extended { EXTENDED_INDEX_BITS } else { INDEX_BITS };
        for space in self.spaces.values_mut() {
            space.end_replaced(applied, bits, &mut self.host, changes);
        }
        (self.begun, self.sweep_at) = (0, self.living());
    }

    /// Applies `uses` equal calls that used an object; no other effect is repeated.
    pub(crate) fn apply_repeated(&mut self, applied: &AppliedCall<'_>, ns: NsRef, uses: u64) {
        if let CallEffect::Used(kind, id) = applied.effect {
            self.used(applied, ns, ObjectId::Sysv(kind, id), uses, &mut Vec::new());
        } else if let CallEffect::QueueUsed(QueueRef { dev, ino, .. }) = applied.effect {
            self.used(applied, ns, ObjectId::Queue(dev, ino), uses, &mut Vec::new());
        }
    }

    /// A namespace was created: records cover all its events.
    pub(crate) fn namespace_created(&mut self, ns: NsRef) {
        let complete = !self.incomplete;
        self.space(ns).0.set_complete(complete);
    }

    /// Bounds the number of removed objects. Objects destroyed since are skipped; this runs when half as many
    /// have been added, so that each is visited a few times at most.
    fn limit_removed(&mut self) {
        let order = &mut self.host.index.removed;
        if order.len() <= MAX_REMOVED + MAX_REMOVED / 2 {
            return;
        }
        let mut new_users = HashSet::new();
        order.retain(|(ns, local)| {
            step();
            let space = self.spaces.get(ns);
            space.is_some_and(|space| space.removed.contains_key(local))
                && new_users.insert((*ns, *local))
        });
        while order.len() > MAX_REMOVED {
            step();
            let Some((ns, local)) = order.pop_front() else { break };
            if let Some(space) = self.spaces.get_mut(&ns)
                && space.removed.remove(&local).is_some()
            {
                self.forgotten += 1;
            }
        }
    }

    fn space(&mut self, ns: NsRef) -> (&mut NamespaceObjects, &mut HostObjects) {
        (self.spaces.entry(ns).or_insert_with(|| NamespaceObjects::new(ns)), &mut self.host)
    }

    fn used(
        &mut self,
        applied: &AppliedCall<'_>,
        ns: NsRef,
        local: ObjectId,
        uses: u64,
        changes: &mut Vec<ObjectChange>,
    ) {
        let (space, host) = self.space(ns);
        space.used(applied, local, uses, host, changes);
    }

    /// A segment was attached or detached. From then on its attachments can't be counted: processes inherit
    /// them, and lose them by exiting.
    fn attached(
        &mut self,
        applied: &AppliedCall<'_>,
        ns: NsRef,
        id: i32,
        changes: &mut Vec<ObjectChange>,
    ) {
        let local = ObjectId::Sysv(ObjectKind::Shm, id);
        self.used(applied, ns, local, 1, changes);
        if let Some(one) = self.space(ns).0.get_mut(local) {
            one.attached = None;
        }
    }

    /// The segment that a process had attached at an address, and detached at `boot_ns`.
    #[must_use]
    pub(crate) fn attachment(
        &self,
        pid: u32,
        task_info: Option<&Rc<TaskInfo>>,
        at: u64,
        boot_ns: u64,
    ) -> Option<(NsRef, i32)> {
        let known = self.attachments.get(&(pid, task_info?.start_boot_ns, at))?;
        let holds = known.detached.is_none_or(|detached| detached == boot_ns);
        holds.then_some((known.ns, known.id))
    }

    /// Destroys all objects of a dead namespace.
    pub(crate) fn ended(&mut self, ns: NsRef, death: Death) -> Vec<ObjectChange> {
        let Some(mut space) = self.spaces.remove(&ns) else { return Vec::new() };
        let mut changes = Vec::new();
        space.unreported(true, &mut self.host, &mut changes);
        let ended = space.into_all(&mut self.host).map(|(local, mut one)| {
            one.destroyed = Some(death.before);
            // A call on the object has a later time than the namespace.
            let seen = one.last_seen().max(one.removed).filter(|at| *at <= death.before);
            let death = Death { after: death.after.max(seen), ..death };
            let life = ObjectEventKind::Destroyed;
            let change = ObjectChange::new(life, death.before, ns, local, &mut one);
            self.host.gone.insert(ns, local, one);
            ObjectChange { death: Some(death), ..change }
        });
        changes.extend(ended);
        // Existing objects first, then destroyed ones.
        changes.sort_by_key(|change| (change.life == ObjectEventKind::Destroyed, change.local));
        changes
    }

    /// A resync begins: no losses are known from now on, so the objects of a new namespace are complete.
    /// Existing ones are listed again ([`Self::reconcile`]).
    pub(crate) fn start_resync(&mut self) {
        self.incomplete = false;
    }

    /// Number of existing objects.
    #[must_use]
    pub(crate) fn living(&self) -> usize {
        self.spaces.values().map(NamespaceObjects::living).sum()
    }

    /// Records were lost: the objects of all namespaces are incomplete until the next snapshot.
    pub(crate) fn lost(&mut self) {
        self.incomplete = true;
        for space in self.spaces.values_mut() {
            space.lost();
        }
    }

    /// An existing, removed or destroyed object that is still kept.
    #[must_use]
    pub(crate) fn get(&self, ns: NsRef, local: ObjectId) -> Option<&TrackedObject> {
        let space = self.spaces.get(&ns);
        space.and_then(|space| space.get(local)).or_else(|| self.host.gone.get(ns, local))
    }

    /// Whether a namespace certainly doesn't have an object, because all of its objects are known.
    #[must_use]
    pub(crate) fn known_absent(&self, ns: NsRef, local: ObjectId) -> bool {
        self.spaces.get(&ns).is_some_and(|space| space.known_absent(local))
    }

    /// The id of the object with a key.
    #[must_use]
    pub(crate) fn of_key(&self, ns: NsRef, kind: ObjectKind, key: u32) -> Option<i32> {
        self.spaces.get(&ns)?.of_key(kind, key)
    }

    /// The queue with a name.
    #[must_use]
    pub(crate) fn of_name(&self, ns: NsRef, name: &[u8]) -> Option<ObjectId> {
        self.spaces.get(&ns)?.ways.of_name(name)
    }

    /// The objects with this key, id or name in namespaces other than `but`; at most
    /// [`index::MAX_CANDIDATES`].
    #[must_use]
    pub(crate) fn elsewhere(&self, but: NsRef, sought: LookupKey<'_>) -> Vec<(NsRef, ObjectId)> {
        let found = |ns: NsRef| {
            let space = self.spaces.get(&ns)?;
            let local = match sought {
                LookupKey::Key(kind, key) => ObjectId::Sysv(kind, space.of_key(kind, key)?),
                LookupKey::Id(kind, id) => ObjectId::Sysv(kind, id),
                LookupKey::Name(name) => space.ways.of_name(name)?,
            };
            space.live.contains_key(&local).then_some((ns, local))
        };
        let candidates = self.host.index.candidates(sought, but);
        candidates.into_iter().filter_map(found).collect()
    }

    /// Removes and returns the objects that got a user of a new container or uid.
    #[inline]
    #[must_use]
    pub(crate) fn take_new_users(&mut self) -> Vec<(NsRef, ObjectId)> {
        self.host.index.take_new_users()
    }

    /// The namespaces that have a segment with this id and key. A removed segment has lost its key, but its
    /// mapping's name still has it.
    #[must_use]
    pub(crate) fn segments(&self, id: i32, key: u32) -> Vec<NsRef> {
        let local = ObjectId::Sysv(ObjectKind::Shm, id);
        let has = |space: &NamespaceObjects| {
            let one = space.get(local);
            one.is_some_and(|one| one.key.is_none_or(|known| known == key))
        };
        let mut all: Vec<_> =
            self.spaces.iter().filter(|(_, space)| has(space)).map(|(ns, _)| *ns).collect();
        all.sort_unstable();
        all
    }

    /// All kept objects by namespace: existing ones by kind, id and name, then destroyed ones.
    #[must_use]
    pub(crate) fn all(&self) -> OrderedMap<NsRef, Vec<(ObjectId, &TrackedObject)>> {
        let mut all: OrderedMap<NsRef, Vec<_>> =
            self.spaces.iter().map(|(ns, space)| (*ns, space.all())).collect();
        for (ns, local, one) in self.host.gone.all() {
            all.entry(ns).or_default().push((local, one));
        }
        for objects in all.values_mut() {
            objects.sort_by(|(a, one), (b, other)| {
                let place =
                    |local: &ObjectId, one: &TrackedObject| (one.destroyed.is_some(), local.kind());
                let named = |local: &ObjectId| matches!(local, ObjectId::Queue(..));
                let by_name = || match named(a) && named(b) {
                    true => one.name.cmp(&other.name),
                    false => std::cmp::Ordering::Equal,
                };
                place(a, one).cmp(&place(b, other)).then_with(by_name).then(a.cmp(b))
            });
        }
        all
    }

    /// Number of evicted objects.
    #[must_use]
    pub(crate) fn forgotten(&self) -> u64 {
        self.host.gone.forgotten() + self.forgotten
    }
}

/// The namespace of a call's queue; `dead` resolves the file system of a dead one.
#[must_use]
pub(crate) fn namespace_of(
    queue: &QueueRef,
    dead: impl FnOnce(u32) -> Option<NsRef>,
) -> Option<NsRef> {
    match queue.flags {
        flags if flags & queue_flag::KNOWN == 0 => None,
        flags if flags & queue_flag::DEAD != 0 => dead(queue.dev),
        _ => Some(queue.ns),
    }
}
