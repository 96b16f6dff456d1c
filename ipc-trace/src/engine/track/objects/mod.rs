//! Objects and their lives: who made them, who used them last, whose they are, what became of them.
//!
//! | module | its job |
//! | --- | --- |
//! | [`tracked`] | one object |
//! | [`namespace_objects`] | the objects of one namespace: what calls do to them |
//! | `reaper` | ends that no call tells |
//! | [`tombstones`] | objects that are no more, of which some are remembered |
//! | [`index`] | keys and names, and in which namespaces these and ids lead to something |
//! | [`users`] | who has used an object |
//! | `unlinked` | names that were unlinked before it was known what they led to |
//! | [`looks`] | what a look at what exists adds |
//!
//! Calls are told in the order of their returns, which need not be that of what they did: an object
//! can be used and removed before the call that made it returns. So what a use or a removal shows is
//! kept, and the birth that comes after it is put together with it.
//!
//! Invariant: what exists takes room, and beyond that a fixed number of objects that are gone or
//! removed; what falls out is counted.

pub(crate) mod index;
pub(crate) mod looks;
pub(crate) mod namespace_objects;
mod reaper;
#[cfg(test)]
mod tests;
pub(crate) mod tombstones;
pub(crate) mod tracked;
mod unlinked;
pub(crate) mod users;

use std::{collections::HashSet, rc::Rc};

use ipc_trace_common::{
    op::Family,
    record::{NsRef, QueueRef, queue_flag},
};

use super::{
    HashMap,
    contexts::{CallTask, TaskInfo},
    namespaces::Death,
    two_gen::TwoGenCache,
};
use crate::{
    event::{Process, objects::ObjectLife, value::OsBytes},
    input::effect::CallEffect,
    steps::step,
};
use index::{GlobalIndex, LookupKey};
use namespace_objects::NamespaceObjects;
use tombstones::Gone;
use tracked::{ObjectActor, ObjectId, TrackedObject};
use unlinked::PendingOnHost;

/// Who did what, and when.
#[derive(Clone, Debug)]
pub(crate) struct AppliedCall<'a> {
    /// When the call returned
    pub boot_ns: u64,
    /// The caller's namespace
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
    /// The number of its context: when that was made
    pub context: u64,
    /// What else is known of it
    pub facts: Option<&'a Rc<TaskInfo>>,
    /// What it did
    pub effect: CallEffect<'a>,
}

impl AppliedCall<'_> {
    fn who(&self) -> ObjectActor {
        ObjectActor {
            pid: Some(self.pid),
            uid: self.uid,
            gid: self.gid,
            comm: self.another_comm(),
            facts: self.facts.cloned(),
        }
    }

    fn caller(&self) -> CallerSnapshot {
        let Self { tid, pid, uid, gid, comm, .. } = *self;
        CallerSnapshot { tid, pid, uid, gid, comm, facts: self.facts.cloned() }
    }

    /// The thread's name, where it was another one when its facts were read.
    fn another_comm(&self) -> Option<Box<[u8; 16]>> {
        let known = self.facts.map(|facts| facts.comm.0.as_ref());
        (known != Some(OsBytes::until_nul(&self.comm).0.as_ref())).then(|| Box::new(self.comm))
    }

    /// Whether the call began after that moment, as far as that can be told. Calls of a thread follow one
    /// another, and its context was made at the end of one, or before.
    fn began_after(&self, boot_ns: u64, last_by: Option<u32>) -> bool {
        let started = self.facts.is_some_and(|facts| facts.start_boot_ns > boot_ns);
        let later = self.context > boot_ns && self.boot_ns > self.context;
        let same = last_by == Some(self.tid) && self.boot_ns > boot_ns;
        started || later || same
    }
}

/// Who made a call, as it was then.
#[derive(Clone, Debug)]
pub(crate) struct CallerSnapshot {
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
    /// What else is known of it
    pub facts: Option<Rc<TaskInfo>>,
}

impl CallerSnapshot {
    /// As it is shown.
    #[must_use]
    pub(crate) fn process(&self) -> Process<'static> {
        let Self { pid, tid, uid, gid, .. } = *self;
        let comm = OsBytes::until_nul(&self.comm);
        CallTask { pid, tid, uid, gid, comm }.process(self.facts.as_deref()).into_owned()
    }
}

/// Something happened to an object.
#[derive(Clone, Debug)]
pub(crate) struct ObjectChange {
    /// When
    pub boot_ns: u64,
    /// What
    pub life: ObjectLife,
    /// The object's namespace
    pub ns: NsRef,
    /// Which object of it
    pub local: ObjectId,
    /// The object, as it was then
    pub one: Box<TrackedObject>,
    /// Who did it
    pub by: Option<CallerSnapshot>,
    /// Of `destroyed` that was noticed later
    pub death: Option<Death>,
}

impl ObjectChange {
    fn new(
        life: ObjectLife,
        boot_ns: u64,
        ns: NsRef,
        local: ObjectId,
        one: &mut TrackedObject,
    ) -> Self {
        one.told = true;
        one.announced |= matches!(life, ObjectLife::Created | ObjectLife::Present);
        Self { boot_ns, life, ns, local, one: Box::new(one.clone()), by: None, death: None }
    }

    fn by(mut self, act: &AppliedCall<'_>) -> Self {
        self.by = Some(act.caller());
        self
    }
}

/// Where a process attached a segment: its number, its start, the address.
type AttachmentKey = (u32, u64, u64);

/// An attached segment.
#[derive(Clone, Copy, Debug)]
struct SegmentAttachment {
    ns: NsRef,
    id: i32,
    /// When it was detached: another may be there since that nobody was seen to attach
    detached: Option<u64>,
}

/// What the objects of all namespaces of the host have in common.
#[derive(Debug, Default)]
struct HostObjects {
    /// Where keys, ids and names lead to something
    index: GlobalIndex,
    /// Objects that are no more
    gone: Gone,
    /// Removals of queues that wait for the calls that made them
    unlinked: PendingOnHost,
}

/// All objects that are known.
#[derive(Debug, Default)]
pub(crate) struct ObjectTracker {
    spaces: HashMap<NsRef, NamespaceObjects>,
    host: HostObjects,
    attachments: TwoGenCache<AttachmentKey, SegmentAttachment>,
    /// Records were lost, and what exists was not listed since: not all that happens in a new namespace can be
    /// known
    blind: bool,
    /// Removed objects that had to make room
    forgotten: u64,
    /// Objects that began since those that ended unseen were looked for, and with how many that is done again
    begun: usize,
    look_at: usize,
    /// Whether ids have indices of 24 bits
    extended: bool,
}

/// Removed objects of all namespaces of which it is not known whether they are still in use, and that are
/// remembered.
const MAX_REMOVED: usize = 1 << 14;

/// Objects that begin, at least, before those are looked for that have ended unseen: after a loss, the ends of any
/// number may have been lost.
const BEGUN: usize = 1 << 17;
/// Bits of an id that are its index; the others are a sequence number (`IPCMNI_SHIFT` and, with the boot parameter
/// `ipcmni_extend`, `IPCMNI_EXTEND_SHIFT`, ipc/util.h, 6.12).
const INDEX_BITS: u32 = 15;
const EXTENDED_INDEX_BITS: u32 = 24;

impl ObjectTracker {
    /// Ids have larger indices: the kernel was booted with `ipcmni_extend`.
    pub(crate) const fn ids_are_extended(&mut self) {
        self.extended = true;
    }

    /// A call did something. `queue_ns`: the namespace of the queue that it was done to.
    pub(crate) fn act(
        &mut self,
        act: &AppliedCall<'_>,
        queue_ns: Option<NsRef>,
    ) -> Vec<ObjectChange> {
        let mut changes = Vec::new();
        let queue = |queue: &QueueRef| ObjectId::Queue(queue.dev, queue.ino);
        match &act.effect {
            CallEffect::Got { kind, id, key, made, like } => {
                let (space, host) = self.space(act.ns);
                let local = ObjectId::Sysv(*kind, *id);
                space.opened(act, local, Some(*key), None, (*made, *like), host, &mut changes);
            }
            CallEffect::Used(kind, id) => {
                self.used(act, act.ns, ObjectId::Sysv(*kind, *id), 1, &mut changes)
            }
            CallEffect::Removed(kind, id) => {
                let (space, host) = self.space(act.ns);
                space.removed(act, ObjectId::Sysv(*kind, *id), host, &mut changes);
            }
            CallEffect::Set(kind, id, set) => {
                let local = ObjectId::Sysv(*kind, *id);
                self.used(act, act.ns, local, 1, &mut changes);
                let (space, _) = self.space(act.ns);
                space.set(act, local, *set, &mut changes);
            }
            CallEffect::Attached { id, at } => {
                self.attached(act, act.ns, *id, &mut changes);
                if let (Some(at), Some(facts)) = (at, act.facts) {
                    let place = (act.pid, facts.start_boot_ns, *at);
                    let new = SegmentAttachment { ns: act.ns, id: *id, detached: None };
                    self.attachments.insert(place, new);
                }
            }
            CallEffect::Detached { at } => {
                let detached = act.boot_ns;
                if let Some((ns, id)) = self.attachment(act.pid, act.facts, *at, detached)
                    && let Some(facts) = act.facts
                {
                    let place = (act.pid, facts.start_boot_ns, *at);
                    let known = SegmentAttachment { ns, id, detached: Some(detached) };
                    self.attachments.insert(place, known);
                    self.attached(act, ns, id, &mut changes);
                }
            }
            CallEffect::Opened { queue: opened, name, made, like } => {
                if let Some(ns) = queue_ns {
                    let (space, host) = self.space(ns);
                    let name = name.as_ref().map(|name| &*name.0);
                    let local = queue(opened);
                    space.opened(act, local, None, name, (*made, *like), host, &mut changes);
                }
            }
            CallEffect::QueueUsed(used) => {
                if let Some(ns) = queue_ns {
                    self.used(act, ns, queue(used), 1, &mut changes);
                }
            }
            CallEffect::Unlinked(name) => {
                let (space, host) = self.space(act.ns);
                space.unlinked(act, &name.0, host, &mut changes);
            }
        }
        self.limit_removed();
        if changes.iter().any(|change| change.life == ObjectLife::Created) {
            self.begun += 1;
            if self.begun > self.look_at.max(BEGUN) {
                self.end_replaced(act, &mut changes);
            }
        }
        changes
    }

    /// Ends the objects that have ended unseen, as far as others have their places.
    fn end_replaced(&mut self, act: &AppliedCall<'_>, changes: &mut Vec<ObjectChange>) {
        let bits = if self.extended { EXTENDED_INDEX_BITS } else { INDEX_BITS };
        for space in self.spaces.values_mut() {
            space.end_replaced(act, bits, &mut self.host, changes);
        }
        (self.begun, self.look_at) = (0, self.living());
    }

    /// So many calls used an object of a namespace; no other effect is done often.
    pub(crate) fn act_often(&mut self, act: &AppliedCall<'_>, ns: NsRef, uses: u64) {
        if let CallEffect::Used(kind, id) = act.effect {
            self.used(act, ns, ObjectId::Sysv(kind, id), uses, &mut Vec::new());
        } else if let CallEffect::QueueUsed(QueueRef { dev, ino, .. }) = act.effect {
            self.used(act, ns, ObjectId::Queue(dev, ino), uses, &mut Vec::new());
        }
    }

    /// A namespace was made: all that happens in it is told.
    pub(crate) fn born(&mut self, ns: NsRef) {
        let whole = !self.blind;
        self.space(ns).0.is_whole(whole);
    }

    /// Keeps the number of removed objects within its bound. Those that are gone since are passed over; half as
    /// many again come before that is done, so that each is looked at a few times at most.
    fn limit_removed(&mut self) {
        let order = &mut self.host.index.removed;
        if order.len() <= MAX_REMOVED + MAX_REMOVED / 2 {
            return;
        }
        let mut met = HashSet::new();
        order.retain(|(ns, local)| {
            step();
            let space = self.spaces.get(ns);
            space.is_some_and(|space| space.removed.contains_key(local))
                && met.insert((*ns, *local))
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
        act: &AppliedCall<'_>,
        ns: NsRef,
        local: ObjectId,
        uses: u64,
        changes: &mut Vec<ObjectChange>,
    ) {
        let (space, host) = self.space(ns);
        space.used(act, local, uses, host, changes);
    }

    /// A segment was attached or detached: from then on, how often it is can't be counted, since
    /// processes inherit attachments and lose them by ending.
    fn attached(
        &mut self,
        act: &AppliedCall<'_>,
        ns: NsRef,
        id: i32,
        changes: &mut Vec<ObjectChange>,
    ) {
        let local = ObjectId::Sysv(Family::Shm, id);
        self.used(act, ns, local, 1, changes);
        if let Some(one) = self.space(ns).0.get_mut(local) {
            one.attached = None;
        }
    }

    /// The segment that a process had attached at an address, which it detached at `boot_ns`.
    #[must_use]
    pub(crate) fn attachment(
        &self,
        pid: u32,
        facts: Option<&Rc<TaskInfo>>,
        at: u64,
        boot_ns: u64,
    ) -> Option<(NsRef, i32)> {
        let known = self.attachments.get(&(pid, facts?.start_boot_ns, at))?;
        let holds = known.detached.is_none_or(|detached| detached == boot_ns);
        holds.then_some((known.ns, known.id))
    }

    /// A namespace died, and all of its objects with it.
    pub(crate) fn ended(&mut self, ns: NsRef, death: Death) -> Vec<ObjectChange> {
        let Some(mut space) = self.spaces.remove(&ns) else { return Vec::new() };
        let mut changes = Vec::new();
        space.untold(true, &mut self.host, &mut changes);
        let ended = space.into_all(&mut self.host).map(|(local, mut one)| {
            one.destroyed = Some(death.before);
            // A call on it tells more than the namespace itself.
            let seen = one.last_seen().max(one.removed).filter(|at| *at <= death.before);
            let death = Death { after: death.after.max(seen), ..death };
            let life = ObjectLife::Destroyed;
            let change = ObjectChange::new(life, death.before, ns, local, &mut one);
            self.host.gone.insert(ns, local, one);
            ObjectChange { death: Some(death), ..change }
        });
        changes.extend(ended);
        // What was there before what is gone.
        changes.sort_by_key(|change| (change.life == ObjectLife::Destroyed, change.local));
        changes
    }

    /// From now on nothing is lost, as far as is known: of a namespace that is made, all is told. What was
    /// there before is listed anew ([`Self::reconcile`]).
    pub(crate) fn sees_again(&mut self) {
        self.blind = false;
    }

    /// How many objects exist.
    #[must_use]
    pub(crate) fn living(&self) -> usize {
        self.spaces.values().map(NamespaceObjects::living).sum()
    }

    /// Records were lost: nothing that rests on having seen all holds any more, until what exists has been listed
    /// anew.
    pub(crate) fn lost(&mut self) {
        self.blind = true;
        for space in self.spaces.values_mut() {
            space.lost();
        }
    }

    /// An object that exists, is removed, or is remembered.
    #[must_use]
    pub(crate) fn get(&self, ns: NsRef, local: ObjectId) -> Option<&TrackedObject> {
        let space = self.spaces.get(&ns);
        space.and_then(|space| space.get(local)).or_else(|| self.host.gone.get(ns, local))
    }

    /// Whether a namespace is known not to have an object, since all of its objects are known.
    #[must_use]
    pub(crate) fn lacks(&self, ns: NsRef, local: ObjectId) -> bool {
        self.spaces.get(&ns).is_some_and(|space| space.lacks(local))
    }

    /// The id of the object that has a key.
    #[must_use]
    pub(crate) fn of_key(&self, ns: NsRef, kind: Family, key: u32) -> Option<i32> {
        self.spaces.get(&ns)?.of_key(kind, key)
    }

    /// The queue that has a name.
    #[must_use]
    pub(crate) fn of_name(&self, ns: NsRef, name: &[u8]) -> Option<ObjectId> {
        self.spaces.get(&ns)?.ways.of_name(name)
    }

    /// What such a key, id or name leads to in other namespaces than one; at most [`index::MANY`].
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

    /// Objects that were used by somebody of a container or user that had not used them, since this was asked last.
    #[inline]
    #[must_use]
    pub(crate) fn take_met(&mut self) -> Vec<(NsRef, ObjectId)> {
        self.host.index.take_met()
    }

    /// The namespaces that have a segment of this id and key, by their number. A removed one has its key no
    /// more, but the name of its mapping has.
    #[must_use]
    pub(crate) fn segments(&self, id: i32, key: u32) -> Vec<NsRef> {
        let local = ObjectId::Sysv(Family::Shm, id);
        let has = |space: &NamespaceObjects| {
            let one = space.get(local);
            one.is_some_and(|one| one.key.is_none_or(|known| known == key))
        };
        let mut all: Vec<_> =
            self.spaces.iter().filter(|(_, space)| has(space)).map(|(ns, _)| *ns).collect();
        all.sort_unstable();
        all
    }

    /// All that are remembered, by namespace: those that exist by kind, id and name, then those that
    /// existed.
    #[must_use]
    pub(crate) fn all(&self) -> HashMap<NsRef, Vec<(ObjectId, &TrackedObject)>> {
        let mut all: HashMap<NsRef, Vec<_>> =
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

    /// Objects that had to make room.
    #[must_use]
    pub(crate) fn forgotten(&self) -> u64 {
        self.host.gone.forgotten() + self.forgotten
    }
}

/// The namespace of a queue that a call was done to, where `dead` says whose a dead one's was.
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
