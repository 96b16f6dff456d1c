//! The objects of one namespace, and what calls do to them.

use ipc_trace_common::{op::Family, record::NsRef};

use super::{
    AppliedCall, HostObjects, ObjectChange,
    index::NamespaceIndex,
    tracked::{LATE_NS, ObjectId, ObjectOrigin, TrackedObject},
    unlinked::PendingRemovals,
};
use crate::{
    engine::track::HashMap,
    event::{args::IpcSet, objects::ObjectLife},
    input::effect::{Creation, NewObjectAttrs},
    steps::step,
};

/// The objects of one namespace.
#[derive(Debug)]
pub(crate) struct NamespaceObjects {
    pub(super) ns: NsRef,
    /// Those that keys and names lead to
    pub(super) live: HashMap<ObjectId, Box<TrackedObject>>,
    /// Those that are removed, and may be in use
    pub(super) removed: HashMap<ObjectId, Box<TrackedObject>>,
    pub(super) ways: NamespaceIndex,
    /// Names that were unlinked before the call that made the queue has returned: what is to be told of
    /// the removal
    unlinked: PendingRemovals,
    /// All that existed at the start is known, and everything since
    whole: bool,
    /// From when to when the look went through it that has found what was there
    pub(super) listed: (u64, u64),
    /// When removed segments are looked for next, and how long after that again
    pub(super) ask_at: u64,
    pub(super) ask_after: u64,
}

/// Queues of a namespace that are remembered after a loss.
const QUEUES: usize = 1 << 14;
/// How long after its removal a segment is looked for.
const ASK_NS: u64 = 1_000_000_000;

impl NamespaceObjects {
    /// Nobody has said yet what was in it.
    pub(super) fn new(ns: NsRef) -> Self {
        Self {
            ns,
            live: HashMap::default(),
            removed: HashMap::default(),
            unlinked: PendingRemovals::default(),
            ways: NamespaceIndex::new(ns),
            whole: false,
            listed: (0, 0),
            ask_at: 0,
            ask_after: ASK_NS,
        }
    }

    pub(super) fn get(&self, local: ObjectId) -> Option<&TrackedObject> {
        self.live.get(&local).or_else(|| self.removed.get(&local)).map(Box::as_ref)
    }

    pub(super) fn lacks(&self, local: ObjectId) -> bool {
        self.whole && self.get(local).is_none()
    }

    pub(super) fn get_mut(&mut self, local: ObjectId) -> Option<&mut TrackedObject> {
        let known = self.live.get_mut(&local).or_else(|| self.removed.get_mut(&local));
        known.map(Box::as_mut)
    }

    pub(super) fn of_key(&self, kind: Family, key: u32) -> Option<i32> {
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

    /// All that existed is known or not, and all that happens.
    pub(super) const fn is_whole(&mut self, whole: bool) {
        self.whole = whole;
    }

    pub(super) fn lost(&mut self) {
        self.whole = false;
        for one in self.live.values_mut().chain(self.removed.values_mut()) {
            one.attached = None;
        }
    }

    /// Segments are attached so often.
    pub(super) fn attached(&mut self, count: &dyn Fn(ObjectId, &TrackedObject) -> Option<u64>) {
        for (local, one) in self.live.iter_mut().chain(&mut self.removed) {
            if local.kind() == Family::Shm {
                one.attached = count(*local, one);
            }
        }
    }

    /// An object that a look found.
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

    /// A call came back with the object, by key or name.
    #[expect(clippy::too_many_arguments, reason = "what a call of get or open says")]
    pub(super) fn opened(
        &mut self,
        act: &AppliedCall<'_>,
        local: ObjectId,
        key: Option<u32>,
        name: Option<&[u8]>,
        (made, like): (Creation, NewObjectAttrs),
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let birth = match made {
            Creation::Yes => Some(ObjectOrigin::Seen(act.boot_ns)),
            // What was there before may have gone when the look came to it.
            Creation::Maybe if self.whole && act.boot_ns >= self.listed.0 => {
                Some(ObjectOrigin::Inferred(act.boot_ns))
            }
            Creation::Maybe | Creation::No => None,
        };
        let ns = self.ns;
        if name.is_some() {
            self.unlinked_another(act, local, changes);
        }
        // What is known already, and may be what this call began.
        let known = match self.live.get_mut(&local).or_else(|| self.removed.get_mut(&local)) {
            Some(one) => Some(one.as_mut()),
            None => host.gone.get_mut(ns, local),
        };
        match (known, birth) {
            (Some(one), _) if is_another(act, one, like) => {
                if one.destroyed.is_none() {
                    self.ended_unseen(act, local, host, changes);
                }
                self.begin(act, local, birth, (key, name, like), host, changes);
            }
            (Some(one), Some(ObjectOrigin::Seen(at))) if one.birth.may_be_by(at) => {
                born_late(
                    act,
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
            (Some(one), Some(birth)) if is_shown(one) && one.birth.may_be_by(act.boot_ns) => {
                born_late(act, (ns, local), one, birth, (key, name, like), changes);
                let live = !one.is_removed() && one.destroyed.is_none();
                if live {
                    self.ways.add(&mut host.index, local, key, name);
                }
            }
            (Some(one), Some(ObjectOrigin::Seen(_))) => {
                // What had this identity has ended, unseen.
                if one.destroyed.is_none() {
                    self.ended_unseen(act, local, host, changes);
                }
                self.begin(act, local, birth, (key, name, like), host, changes);
            }
            (Some(one), _) if one.destroyed.is_none() || is_late(act, one) => {
                if one.used(act) {
                    host.index.meets(self.ns, local);
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
                self.begin(act, local, birth, (key, name, like), host, changes)
            }
        }
    }

    /// An object that was not known.
    fn begin(
        &mut self,
        act: &AppliedCall<'_>,
        local: ObjectId,
        birth: Option<ObjectOrigin>,
        (key, name, like): (Option<u32>, Option<&[u8]>, NewObjectAttrs),
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let mut one =
            Box::new(TrackedObject::new(birth.unwrap_or(ObjectOrigin::Used(act.boot_ns))));
        one.key = key;
        one.name = name.map(Into::into);
        if let Some(birth) = birth {
            one.made(birth, act.who(), like);
            // Nobody can have attached it before, if nobody was seen to.
            let fresh = matches!(birth, ObjectOrigin::Seen(_)) && local.kind() == Family::Shm;
            one.attached = (fresh && self.whole).then_some(0);
        }
        if one.used(act) {
            host.index.meets(self.ns, local);
        }
        let ns = self.ns;
        let at = act.boot_ns;
        if birth.is_some() {
            changes.push(ObjectChange::new(ObjectLife::Created, at, ns, local, &mut one).by(act));
        } else if !self.whole {
            changes.push(ObjectChange::new(ObjectLife::Present, at, ns, local, &mut one));
        }
        let unlinked =
            birth.and(name).and_then(|name| self.unlinked.remove(name, &mut host.unlinked));
        match unlinked {
            Some(removal) if act.boot_ns <= removal.boot_ns.saturating_add(LATE_NS) => {
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
        act: &AppliedCall<'_>,
        local: ObjectId,
        uses: u64,
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let ns = self.ns;
        let late = |one: &&mut TrackedObject| is_late(act, one);
        let known = self.get_mut(local);
        if let Some(one) = known.or_else(|| host.gone.get_mut(ns, local).filter(late)) {
            if one.used_often(act, uses) {
                host.index.meets(self.ns, local);
            }
            return;
        }
        self.begin(act, local, None, (None, None, NewObjectAttrs::default()), host, changes);
        if let Some(one) = self.get_mut(local) {
            // The first is counted.
            one.uses += uses - 1;
        }
    }

    /// `IPC_SET`.
    pub(super) fn set(
        &mut self,
        act: &AppliedCall<'_>,
        local: ObjectId,
        set: Option<IpcSet>,
        changes: &mut Vec<ObjectChange>,
    ) {
        let ns = self.ns;
        let Some(one) = self.get_mut(local) else { return };
        tell_present(ns, local, one, changes);
        match set {
            Some(set) => {
                (one.uid, one.gid) = (Some(set.uid), Some(set.gid));
                one.mode = Some(set.mode.0);
                one.size = set.msg_qbytes.or(one.size);
            }
            None => (one.uid, one.gid, one.mode) = (None, None, None),
        }
        changes.push(ObjectChange::new(ObjectLife::Changed, act.boot_ns, ns, local, one).by(act));
    }

    /// `IPC_RMID`.
    pub(super) fn removed(
        &mut self,
        act: &AppliedCall<'_>,
        local: ObjectId,
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let ns = self.ns;
        if let Some(one) = self.removed.get_mut(&local) {
            // A look saw it removed, or it is removed again, which does nothing.
            if one.removed.is_none() {
                (one.removed, one.removed_by) = (Some(act.boot_ns), Some(act.tid));
                changes.push(
                    ObjectChange::new(ObjectLife::Removed, act.boot_ns, ns, local, one).by(act),
                );
            }
            return;
        }
        let known = self.take(local, host);
        if known.is_none() && host.gone.get(ns, local).is_some_and(|one| is_late(act, one)) {
            return;
        }
        let mut one = known
            .unwrap_or_else(|| Box::new(TrackedObject::new(ObjectOrigin::Removed(act.boot_ns))));
        self.remove(act, local, &mut one, host, changes);
        // Semaphores and queues are gone at once, a segment when nobody has it attached.
        if local.kind() == Family::Shm && one.attached != Some(0) {
            self.keep_removed(local, one, host);
        } else {
            one.destroyed = Some(act.boot_ns);
            let gone_now = ObjectLife::Destroyed;
            changes.push(ObjectChange::new(gone_now, act.boot_ns, ns, local, &mut one).by(act));
            host.gone.insert(ns, local, one);
        }
    }

    /// Takes out an object to which its key or name leads no more.
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
        act: &AppliedCall<'_>,
        local: ObjectId,
        one: &mut TrackedObject,
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let ns = self.ns;
        tell_present(ns, local, one, changes);
        if one.used(act) {
            host.index.meets(self.ns, local);
        }
        (one.removed, one.removed_by) = (Some(act.boot_ns), Some(act.tid));
        changes.push(ObjectChange::new(ObjectLife::Removed, act.boot_ns, ns, local, one).by(act));
    }

    /// A call came back with a queue, by name, after one of that name was unlinked. Where a look has
    /// found the queue, with its name, since then, it was another that was unlinked: while the look was
    /// taken, the one was followed by the other.
    fn unlinked_another(
        &mut self,
        act: &AppliedCall<'_>,
        local: ObjectId,
        changes: &mut Vec<ObjectChange>,
    ) {
        let late = |at: u64| at < act.boot_ns && act.boot_ns <= at.saturating_add(LATE_NS);
        let another = |one: &TrackedObject| {
            matches!(one.birth, ObjectOrigin::Found(_))
                && !one.seen_removed
                && one.removed.is_some_and(late)
        };
        if self.removed.get(&local).is_some_and(|one| another(one))
            && let Some(mut one) = self.removed.remove(&local)
        {
            one.removed = None;
            // The line of the removal named this one.
            let ns = self.ns;
            changes.push(ObjectChange::new(ObjectLife::Changed, act.boot_ns, ns, local, &mut one));
            self.live.insert(local, one);
        }
    }

    /// Whether a look that began later has found it.
    fn found_later(&self, act: &AppliedCall<'_>, local: ObjectId) -> bool {
        let known = self.live.get(&local);
        act.boot_ns < self.listed.0
            && known.is_some_and(|one| matches!(one.birth, ObjectOrigin::Found(_)))
    }

    /// mq_unlink: the queue lives on while it is open.
    pub(super) fn unlinked(
        &mut self,
        act: &AppliedCall<'_>,
        name: &[u8],
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let known = self.ways.of_name(name);
        let known = known.filter(|local| !self.found_later(act, *local));
        if let Some((local, mut one)) =
            known.and_then(|local| Some((local, self.take(local, host)?)))
        {
            self.remove(act, local, &mut one, host, changes);
            self.keep_removed(local, one, host);
            return;
        }
        // Not even its inode is known.
        let local = ObjectId::Queue(0, 0);
        let mut one = Box::new(TrackedObject::new(ObjectOrigin::Removed(act.boot_ns)));
        one.name = Some(name.into());
        let mut removal = Vec::new();
        self.remove(act, local, &mut one, host, &mut removal);
        // What was there before the look, and was not when it came to it, is not known at all.
        if !self.whole || act.boot_ns < self.listed.1 {
            changes.extend(removal);
            return;
        }
        for change in removal {
            self.unlinked.insert(name, change, &mut host.unlinked, changes);
        }
    }

    fn keep_removed(&mut self, local: ObjectId, one: Box<TrackedObject>, host: &mut HostObjects) {
        if let (Family::Shm, Some(at)) = (local.kind(), one.removed) {
            (self.ask_at, self.ask_after) = (at.saturating_add(ASK_NS), ASK_NS);
        }
        self.removed.insert(local, one);
        host.index.removed.push_back((self.ns, local));
    }

    /// Its end was not seen, but it has ended.
    fn ended_unseen(
        &mut self,
        act: &AppliedCall<'_>,
        local: ObjectId,
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let removed = self.removed.remove(&local);
        if let Some(mut one) = removed.or_else(|| self.take(local, host)) {
            one.destroyed = Some(act.boot_ns);
            let (life, at) = (ObjectLife::Destroyed, act.boot_ns);
            changes.push(ObjectChange::new(life, at, self.ns, local, &mut one));
            host.gone.insert(self.ns, local, one);
        }
    }

    /// Ends what has ended unseen: of two objects of a kind with the same index, of `bits` bits, the older one is gone.
    /// Queues have none, and the oldest of many are forgotten: those that are in use will be met again.
    pub(super) fn end_replaced(
        &mut self,
        act: &AppliedCall<'_>,
        bits: u32,
        host: &mut HostObjects,
        changes: &mut Vec<ObjectChange>,
    ) {
        let mut newest: HashMap<(Family, i32), (u64, ObjectId)> = HashMap::default();
        let mut ended = Vec::new();
        let mut queues = Vec::new();
        for (local, one) in &self.live {
            step();
            let known = one.birth.known_since();
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
            self.ended_unseen(act, local, host, changes);
        }
        if !self.whole && queues.len() > QUEUES {
            queues.sort_unstable();
            for (_, local) in queues.iter().take(queues.len() - QUEUES) {
                self.take(*local, host);
            }
        }
    }

    /// Objects that no line has told of; `all`: also those that a call used, and whose birth may yet
    /// be told.
    pub(super) fn untold(
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
            if all && matches!(one.birth, ObjectOrigin::Used(_)) && !one.told {
                let ObjectOrigin::Used(at) = one.birth else { continue };
                changes.push(ObjectChange::new(ObjectLife::Present, at, ns, *local, one));
            }
            tell_present(ns, *local, one, changes);
        }
    }
}

/// Whether it became known by a use or a removal alone.
const fn is_shown(one: &TrackedObject) -> bool {
    matches!(one.birth, ObjectOrigin::Used(_) | ObjectOrigin::Removed(_))
}

/// Whether a call came back, by key or name, with another object than the one of this identity that was
/// removed: an id can be given again at once where a process says which is to be next (`msg_next_id` and its
/// like in proc(5)). No key or name led to the one any more when the call began, or it is too small for what
/// the call asked for (`ipc_check_perms` and the sizes' checks behind it, ipc/util.c, 6.12).
fn is_another(act: &AppliedCall<'_>, one: &TrackedObject, like: NewObjectAttrs) -> bool {
    let larger = || like.size.zip(one.size).is_some_and(|(asked, has)| asked > has);
    one.ended().is_some_and(|ended| {
        act.boot_ns > ended && (act.began_after(ended, one.removed_by) || larger())
    })
}

/// Whether a call on an object that is gone returned so soon after its end that it may have been made
/// before.
fn is_late(act: &AppliedCall<'_>, one: &TrackedObject) -> bool {
    one.destroyed.is_some_and(|at| act.boot_ns <= at.saturating_add(LATE_NS))
}

/// The call that made an object comes after others on it.
fn born_late(
    act: &AppliedCall<'_>,
    (ns, local): (NsRef, ObjectId),
    one: &mut TrackedObject,
    birth: ObjectOrigin,
    (key, name, like): (Option<u32>, Option<&[u8]>, NewObjectAttrs),
    changes: &mut Vec<ObjectChange>,
) {
    let inferred = matches!(one.birth, ObjectOrigin::Inferred(_));
    let life = match inferred || one.announced {
        true => ObjectLife::Changed,
        false => ObjectLife::Created,
    };
    let (mode, uid, gid) = (one.mode, one.uid, one.gid);
    one.made(birth, act.who(), like);
    if !inferred {
        // What the object is like now is what a look found, or what was set since.
        (one.mode, one.uid, one.gid) = (mode.or(one.mode), uid.or(one.uid), gid.or(one.gid));
    }
    one.key = key.or(one.key);
    if one.name.is_none() {
        one.name = name.map(Into::into);
    }
    one.uses += 1;
    changes.push(ObjectChange::new(life, act.boot_ns, ns, local, one).by(act));
}

fn tell_present(
    ns: NsRef,
    local: ObjectId,
    one: &mut TrackedObject,
    changes: &mut Vec<ObjectChange>,
) {
    if let (ObjectOrigin::Found(at), false) = (one.birth, one.told) {
        changes.push(ObjectChange::new(ObjectLife::Present, at, ns, local, one));
        // It was so then.
        one.attached = one.attached.filter(|count| *count == 0);
    }
}
