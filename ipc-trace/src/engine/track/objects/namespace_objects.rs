//! The objects of one namespace, and the effects of calls on them.

use ipc_trace_common::{op::ObjectKind, record::NsRef};
use minicbor::{Decode, Encode};

use super::{
    AppliedCall, HostObjects, ObjectChange,
    index::NamespaceIndex,
    tracked::{LATE_NS, ObjectId, ObjectOrigin, TrackedObject, created_late},
    unlinked::PendingRemovals,
};
use crate::event::shared::SharedState;
use crate::{
    engine::track::OrderedMap,
    event::{args::IpcSet, objects::ObjectEventKind},
    input::effect::{Creation, NewObjectAttrs},
    steps::step,
};

/// The objects of one namespace.
#[derive(Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct NamespaceObjects {
    #[n(0)]
    pub(super) ns: NsRef,
    /// Existing objects.
    #[n(1)]
    pub(super) live: OrderedMap<ObjectId, Box<TrackedObject>>,
    /// Removed objects that may still be in use.
    #[n(2)]
    pub(super) removed: OrderedMap<ObjectId, Box<TrackedObject>>,
    #[n(3)]
    pub(super) ways: NamespaceIndex,
    /// Names that were unlinked before the call that created the queue returned: the pending removals.
    #[n(4)]
    unlinked: PendingRemovals,
    /// Whether all existing objects are known.
    #[n(5)]
    complete: bool,
    /// When the latest snapshot listed the namespace: start and end, boot time in nanoseconds.
    #[n(6)]
    pub(super) listed: (u64, u64),
    /// When removed segments are scanned for next, and the interval to the scan after that.
    #[n(7)]
    pub(super) ask_at: u64,
    #[n(8)]
    pub(super) ask_after: u64,
}

/// Number of queues kept per namespace after a loss.
const MAX_QUEUES: usize = 1 << 14;
/// Delay of the first scan after a removal, nanoseconds.
const SCAN_DELAY_NS: u64 = 1_000_000_000;

impl NamespaceObjects {
    /// A namespace whose existing objects are unknown.
    pub(super) fn new(ns: NsRef) -> Self {
        Self {
            ns,
            live: OrderedMap::default(),
            removed: OrderedMap::default(),
            unlinked: PendingRemovals::default(),
            ways: NamespaceIndex::new(ns),
            complete: false,
            listed: (0, 0),
            ask_at: 0,
            ask_after: SCAN_DELAY_NS,
        }
    }

    pub(super) fn get(&self, local: ObjectId) -> Option<&TrackedObject> {
        self.live.get(&local).or_else(|| self.removed.get(&local)).map(Box::as_ref)
    }

    pub(super) fn known_absent(&self, local: ObjectId) -> bool {
        self.complete && self.get(local).is_none()
    }

    pub(super) fn get_mut(&mut self, local: ObjectId) -> Option<&mut TrackedObject> {
        let known = self.live.get_mut(&local).or_else(|| self.removed.get_mut(&local));
        known.map(Box::as_mut)
    }

    pub(super) fn of_key(&self, kind: ObjectKind, key: u32) -> Option<i32> {
        self.ways.of_key(kind, key)
    }

    pub(super) fn all(&self) -> Vec<(ObjectId, &TrackedObject)> {
        self.live.iter().chain(&self.removed).map(|(local, one)| (*local, one.as_ref())).collect()
    }

    pub(super) fn living(&self) -> usize {
        self.live.len() + self.removed.len()
    }

    pub(super) fn into_all(
        mut self,
        host: &mut HostObjects,
    ) -> impl Iterator<Item = (ObjectId, Box<TrackedObject>)> + use<> {
        for (local, one) in &self.live {
            self.ways.remove(&mut host.index, *local, one);
        }
        self.live.into_iter().chain(self.removed)
    }

    /// Sets whether all existing objects are known.
    pub(super) const fn set_complete(&mut self, complete: bool) {
        self.complete = complete;
    }

    pub(super) fn lost(&mut self) {
        self.complete = false;
        for one in self.live.values_mut().chain(self.removed.values_mut()) {
            one.attached = None;
        }
    }

    /// Applies the attachment counts of a snapshot.
    pub(super) fn attached(&mut self, count: &dyn Fn(ObjectId, &TrackedObject) -> Option<u64>) {
        for (local, one) in self.live.iter_mut().chain(&mut self.removed) {
            if local.kind() == ObjectKind::Shm {
                one.attached = count(*local, one);
            }
        }
    }

    /// Adds an object found by a snapshot.
    pub(super) fn found(
        &mut self,
        local: ObjectId,
        one: Box<TrackedObject>,
        host: &mut HostObjects,
    ) {
        if one.is_removed() {
            self.keep_removed(local, one, host);
        } else {
            self.ways.add(&mut host.index, local, one.key, one.name.as_deref());
            self.live.insert(local, one);
        }
    }

    /// A get or open call returned the object.
    #[expect(clippy::too_many_arguments, reason = "the arguments of a get or open call")]
    pub(super) fn opened(
        &mut self,
        applied: &AppliedCall<'_>,
        local: ObjectId,
        key: Option<u32>,
        name: Option<&[u8]>,
        (made, like): (Creation, NewObjectAttrs),
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let origin = match made {
            Creation::Yes => Some(ObjectOrigin::Seen(applied.boot_ns)),
            // An object from before may have been destroyed when the snapshot reached it.
            Creation::Maybe if self.complete && applied.boot_ns >= self.listed.0 => {
                Some(ObjectOrigin::Inferred(applied.boot_ns))
            }
            Creation::Maybe | Creation::No => None,
        };
        let ns = self.ns;
        if name.is_some() {
            self.unlinked_another(applied, local, changes);
        }
        // The object that is known already, and may have been created by this call.
        let known = match self.live.get_mut(&local).or_else(|| self.removed.get_mut(&local)) {
            Some(one) => Some(one.as_mut()),
            None => host.gone.get_mut(ns, local),
        };
        match (known, origin) {
            (Some(one), _) if is_another(applied, one, like) => {
                if one.destroyed.is_none() {
                    self.ended_unseen(applied, local, host, changes);
                }
                self.begin(applied, local, origin, (key, name, like), host, changes);
            }
            (Some(one), Some(ObjectOrigin::Seen(at))) if one.origin.may_be_by(at) => {
                created_late(
                    applied,
                    (ns, local),
                    one,
                    ObjectOrigin::Seen(at),
                    (key, name, like),
                    changes,
                );
                let live = !one.is_removed() && one.destroyed.is_none();
                if live {
                    self.ways.add(&mut host.index, local, key, name);
                }
            }
            (Some(one), Some(origin)) if is_shown(one) && one.origin.may_be_by(applied.boot_ns) => {
                created_late(applied, (ns, local), one, origin, (key, name, like), changes);
                let live = !one.is_removed() && one.destroyed.is_none();
                if live {
                    self.ways.add(&mut host.index, local, key, name);
                }
            }
            (Some(one), Some(ObjectOrigin::Seen(_))) => {
                // The earlier object with this id was destroyed unobserved.
                if one.destroyed.is_none() {
                    self.ended_unseen(applied, local, host, changes);
                }
                self.begin(applied, local, origin, (key, name, like), host, changes);
            }
            (Some(one), _) if one.destroyed.is_none() || is_late(applied, one) => {
                if one.used(applied) {
                    host.index.note_new_user(self.ns, local);
                }
                one.key = one.key.or(key);
                if one.name.is_none() {
                    one.name = name.map(Into::into);
                }
                if one.destroyed.is_none() && !one.is_removed() {
                    self.ways.add(&mut host.index, local, key, name);
                }
            }
            (None, _) | (Some(_), _) => {
                self.begin(applied, local, origin, (key, name, like), host, changes)
            }
        }
    }

    /// Adds an unknown object.
    fn begin(
        &mut self,
        applied: &AppliedCall<'_>,
        local: ObjectId,
        origin: Option<ObjectOrigin>,
        (key, name, like): (Option<u32>, Option<&[u8]>, NewObjectAttrs),
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let mut one =
            Box::new(TrackedObject::new(origin.unwrap_or(ObjectOrigin::Used(applied.boot_ns))));
        one.key = key;
        one.name = name.map(Into::into);
        if let Some(origin) = origin {
            one.made(origin, applied.who(), like);
            // A new segment has no attachments unless one was observed.
            let fresh = matches!(origin, ObjectOrigin::Seen(_)) && local.kind() == ObjectKind::Shm;
            one.attached = (fresh && self.complete).then_some(0);
        }
        if one.used(applied) {
            host.index.note_new_user(self.ns, local);
        }
        let ns = self.ns;
        let at = applied.boot_ns;
        if origin.is_some() {
            changes.push(
                ObjectChange::new(ObjectEventKind::Created, at, ns, local, &mut one).by(applied),
            );
        } else if !self.complete {
            changes.push(ObjectChange::new(ObjectEventKind::Present, at, ns, local, &mut one));
        }
        let unlinked =
            origin.and(name).and_then(|name| self.unlinked.remove(name, &mut host.unlinked));
        match unlinked {
            Some(removal) if applied.boot_ns <= removal.boot_ns.saturating_add(LATE_NS) => {
                one.removed = Some(removal.boot_ns);
                changes.push(ObjectChange { local, one: one.clone(), ..removal });
                self.keep_removed(local, one, host);
            }
            unlinked => {
                changes.extend(unlinked);
                self.ways.add(&mut host.index, local, key, name);
                self.live.insert(local, one);
            }
        }
    }

    /// Calls used the object.
    pub(super) fn used(
        &mut self,
        applied: &AppliedCall<'_>,
        local: ObjectId,
        uses: u64,
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let ns = self.ns;
        let late = |one: &&mut TrackedObject| is_late(applied, one);
        let known = self.get_mut(local);
        if let Some(one) = known.or_else(|| host.gone.get_mut(ns, local).filter(late)) {
            if one.used_often(applied, uses) {
                host.index.note_new_user(self.ns, local);
            }
            return;
        }
        self.begin(applied, local, None, (None, None, NewObjectAttrs::default()), host, changes);
        if let Some(one) = self.get_mut(local) {
            // The first use is already counted.
            one.uses += uses - 1;
        }
    }

    /// `IPC_SET`.
    pub(super) fn set(
        &mut self,
        applied: &AppliedCall<'_>,
        local: ObjectId,
        set: Option<IpcSet>,
        changes: &mut Vec<ObjectChange>,
    ) {
        let ns = self.ns;
        let Some(one) = self.get_mut(local) else { return };
        report_present(ns, local, one, changes);
        match set {
            Some(set) => {
                (one.uid, one.gid) = (Some(set.uid), Some(set.gid));
                one.mode = Some(set.mode.0);
                one.size = set.msg_qbytes.or(one.size);
            }
            None => (one.uid, one.gid, one.mode) = (None, None, None),
        }
        changes.push(
            ObjectChange::new(ObjectEventKind::Changed, applied.boot_ns, ns, local, one)
                .by(applied),
        );
    }

    /// `IPC_RMID`.
    pub(super) fn removed(
        &mut self,
        applied: &AppliedCall<'_>,
        local: ObjectId,
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let ns = self.ns;
        if let Some(one) = self.removed.get_mut(&local) {
            // A snapshot saw it removed, or it is removed again, which has no effect.
            if one.removed.is_none() {
                (one.removed, one.removed_by) = (Some(applied.boot_ns), Some(applied.tid));
                changes.push(
                    ObjectChange::new(ObjectEventKind::Removed, applied.boot_ns, ns, local, one)
                        .by(applied),
                );
            }
            return;
        }
        let known = self.take(local, host);
        if known.is_none() && host.gone.get(ns, local).is_some_and(|one| is_late(applied, one)) {
            return;
        }
        let mut one = known.unwrap_or_else(|| {
            Box::new(TrackedObject::new(ObjectOrigin::Removed(applied.boot_ns)))
        });
        self.remove(applied, local, &mut one, host, changes);
        // Semaphore sets and message queues are destroyed at once, a segment when it has no attachments left.
        if local.kind() == ObjectKind::Shm && one.attached != Some(0) {
            self.keep_removed(local, one, host);
        } else {
            one.destroyed = Some(applied.boot_ns);
            let gone_now = ObjectEventKind::Destroyed;
            changes.push(
                ObjectChange::new(gone_now, applied.boot_ns, ns, local, &mut one).by(applied),
            );
            host.gone.insert(ns, local, one);
        }
    }

    /// Removes an object that its key or name no longer leads to.
    pub(super) fn take(
        &mut self,
        local: ObjectId,
        host: &mut HostObjects,
    ) -> Option<Box<TrackedObject>> {
        let one = self.live.remove(&local)?;
        self.ways.remove(&mut host.index, local, &one);
        Some(one)
    }

    fn remove(
        &mut self,
        applied: &AppliedCall<'_>,
        local: ObjectId,
        one: &mut TrackedObject,
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let ns = self.ns;
        report_present(ns, local, one, changes);
        if one.used(applied) {
            host.index.note_new_user(self.ns, local);
        }
        (one.removed, one.removed_by) = (Some(applied.boot_ns), Some(applied.tid));
        changes.push(
            ObjectChange::new(ObjectEventKind::Removed, applied.boot_ns, ns, local, one)
                .by(applied),
        );
    }

    /// An open call returned a queue after a queue of the same name was unlinked. If a snapshot has found the
    /// returned queue since, the unlinked one was another: it was replaced while the snapshot was taken.
    fn unlinked_another(
        &mut self,
        applied: &AppliedCall<'_>,
        local: ObjectId,
        changes: &mut Vec<ObjectChange>,
    ) {
        let late = |at: u64| at < applied.boot_ns && applied.boot_ns <= at.saturating_add(LATE_NS);
        let another = |one: &TrackedObject| {
            matches!(one.origin, ObjectOrigin::Found(_))
                && !one.seen_removed
                && one.removed.is_some_and(late)
        };
        if self.removed.get(&local).is_some_and(|one| another(one))
            && let Some(mut one) = self.removed.remove(&local)
        {
            one.removed = None;
            // The line of the removal named this queue.
            let ns = self.ns;
            changes.push(ObjectChange::new(
                ObjectEventKind::Changed,
                applied.boot_ns,
                ns,
                local,
                &mut one,
            ));
            self.live.insert(local, one);
        }
    }

    /// Whether a later snapshot has found it.
    fn found_later(&self, applied: &AppliedCall<'_>, local: ObjectId) -> bool {
        let known = self.live.get(&local);
        applied.boot_ns < self.listed.0
            && known.is_some_and(|one| matches!(one.origin, ObjectOrigin::Found(_)))
    }

    /// mq_unlink: the queue exists while it is open.
    pub(super) fn unlinked(
        &mut self,
        applied: &AppliedCall<'_>,
        name: &[u8],
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let known = self.ways.of_name(name);
        let known = known.filter(|local| !self.found_later(applied, *local));
        if let Some((local, mut one)) =
            known.and_then(|local| Some((local, self.take(local, host)?)))
        {
            self.remove(applied, local, &mut one, host, changes);
            self.keep_removed(local, one, host);
            return;
        }
        // Even its inode is unknown.
        let local = ObjectId::Queue(0, 0);
        let mut one = Box::new(TrackedObject::new(ObjectOrigin::Removed(applied.boot_ns)));
        one.name = Some(name.into());
        let mut removal = Vec::new();
        self.remove(applied, local, &mut one, host, &mut removal);
        // A queue from before the snapshot that was gone when the snapshot reached it is unknown.
        if !self.complete || applied.boot_ns < self.listed.1 {
            changes.extend(removal);
            return;
        }
        for change in removal {
            self.unlinked.insert(name, change, &mut host.unlinked, changes);
        }
    }

    fn keep_removed(&mut self, local: ObjectId, one: Box<TrackedObject>, host: &mut HostObjects) {
        if let (ObjectKind::Shm, Some(at)) = (local.kind(), one.removed) {
            (self.ask_at, self.ask_after) = (at.saturating_add(SCAN_DELAY_NS), SCAN_DELAY_NS);
        }
        self.removed.insert(local, one);
        host.index.removed.push_back((self.ns, local));
    }

    /// Destroys an object whose destruction wasn't observed.
    fn ended_unseen(
        &mut self,
        applied: &AppliedCall<'_>,
        local: ObjectId,
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let removed = self.removed.remove(&local);
        if let Some(mut one) = removed.or_else(|| self.take(local, host)) {
            one.destroyed = Some(applied.boot_ns);
            let (life, at) = (ObjectEventKind::Destroyed, applied.boot_ns);
            changes.push(ObjectChange::new(life, at, self.ns, local, &mut one));
            host.gone.insert(self.ns, local, one);
        }
    }

    /// Destroys objects whose destruction wasn't observed: of two objects of a kind with the same index, of
    /// `bits` bits, the older one is gone. Queues have no index: the oldest of many are evicted; those in use
    /// will be seen again.
    pub(super) fn end_replaced(
        &mut self,
        applied: &AppliedCall<'_>,
        bits: u32,
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let mut newest: OrderedMap<(ObjectKind, i32), (u64, ObjectId)> = OrderedMap::default();
        let mut ended = Vec::new();
        let mut queues = Vec::new();
        for (local, one) in &self.live {
            step();
            let known = one.origin.known_since();
            let ObjectId::Sysv(kind, id) = *local else {
                queues.push((known, *local));
                continue;
            };
            let index = id & ((1 << bits) - 1);
            let newer = newest.entry((kind, index)).or_insert((known, *local));
            if newer.1 != *local {
                let older = if newer.0 < known {
                    std::mem::replace(newer, (known, *local))
                } else {
                    (known, *local)
                };
                ended.push(older.1);
            }
        }
        for local in ended {
            self.ended_unseen(applied, local, host, changes);
        }
        if !self.complete && queues.len() > MAX_QUEUES {
            queues.sort_unstable();
            for (_, local) in queues.iter().take(queues.len() - MAX_QUEUES) {
                self.take(*local, host);
            }
        }
    }

    /// Changes for unreported objects; `all`: also for those that a call used and whose creation may still
    /// arrive.
    pub(super) fn unreported(
        &mut self,
        all: bool,
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        if all {
            self.unlinked.expire(None, &mut host.unlinked, changes);
        }
        let ns = self.ns;
        for (local, one) in self.live.iter_mut().chain(&mut self.removed) {
            if all && matches!(one.origin, ObjectOrigin::Used(_)) && !one.reported {
                let ObjectOrigin::Used(at) = one.origin else { continue };
                changes.push(ObjectChange::new(ObjectEventKind::Present, at, ns, *local, one));
            }
            report_present(ns, *local, one, changes);
        }
    }
}

/// Whether only a use or a removal is known of it.
const fn is_shown(one: &TrackedObject) -> bool {
    matches!(one.origin, ObjectOrigin::Used(_) | ObjectOrigin::Removed(_))
}

/// Whether a get or open call returned another object than the removed one with this id: an id can be reused
/// at once if a process chooses the next one (`msg_next_id` and others in proc(5)). It is another object if
/// no key or name led to the removed one when the call began, or if that is too small for what the call
/// requested (`ipc_check_perms` and the size checks behind it, ipc/util.c, 6.12).
fn is_another(applied: &AppliedCall<'_>, one: &TrackedObject, like: NewObjectAttrs) -> bool {
    let larger = || like.size.zip(one.size).is_some_and(|(asked, has)| asked > has);
    one.ended().is_some_and(|ended| {
        applied.boot_ns > ended && (applied.began_after(ended, one.removed_by) || larger())
    })
}

/// Whether a call on a destroyed object returned so soon after its end that it may have taken effect before.
fn is_late(applied: &AppliedCall<'_>, one: &TrackedObject) -> bool {
    one.destroyed.is_some_and(|at| applied.boot_ns <= at.saturating_add(LATE_NS))
}

fn report_present(
    ns: NsRef,
    local: ObjectId,
    one: &mut TrackedObject,
    changes: &mut Vec<ObjectChange>,
) {
    if let (ObjectOrigin::Found(at), false) = (one.origin, one.reported) {
        changes.push(ObjectChange::new(ObjectEventKind::Present, at, ns, local, one));
        // It existed at that time.
        one.attached = one.attached.filter(|count| *count == 0);
    }
}
