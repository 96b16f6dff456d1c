//! What a look at what exists adds: what there was at the start, and how it stands at the end.

use std::collections::{BTreeMap, BTreeSet};

use ipc_trace_common::{op::Family, record::NsRef};

use super::{
    ObjectChange, ObjectTracker,
    tracked::{Last, ObjectId, ObjectOrigin, TrackedObject},
    users::ProcessKey,
};
use crate::{
    engine::track::{HashMap, clock::Clock, containers::Containers},
    event::{
        ls::{DescriptorOf, Holder, Ls, NamespaceLook, UnseenWhat},
        objects::{ObjectLife, ObjectLook, ObjectReport},
    },
};

fn local(look: &ObjectLook, dev: Option<u32>) -> Option<ObjectId> {
    match look.kind.0 {
        Family::Mq => Some(ObjectId::Queue(dev?, look.ino?)),
        kind @ (Family::Shm | Family::Sem | Family::Msg) => Some(ObjectId::Sysv(kind, look.id?)),
    }
}

fn is_whole(look: &NamespaceLook) -> bool {
    !look.is_unseen(UnseenWhat::Sysv) && !look.is_unseen(UnseenWhat::Queues)
}

/// Whether an object that a look did not find may be there all the same: an unlinked queue, where the kernel
/// counts more of them than were found.
fn is_hidden(local: ObjectId, one: &TrackedObject, look: &NamespaceLook) -> bool {
    local.kind() == Family::Mq && one.is_removed() && look.is_unseen(UnseenWhat::UnlinkedQueues)
}

impl ObjectTracker {
    /// A look found this in a namespace before any call on it was told of. No line tells of it yet:
    /// what happened meanwhile is told first.
    pub(crate) fn found(&mut self, ns: NsRef, look: &NamespaceLook, boot_ns: u64) {
        let (space, host) = self.space(ns);
        space.listed = look.listed;
        space.is_whole(is_whole(look));
        for object in &look.objects {
            if let Some(local) = local(object, look.mqueue_dev) {
                space.found(local, Box::new(TrackedObject::found(object, boot_ns)), host);
            }
        }
        self.limit_removed();
    }

    /// What was there at the start and no line has told of.
    pub(crate) fn present(&mut self) -> Vec<ObjectChange> {
        self.untold(false)
    }

    pub(super) fn untold(&mut self, all: bool) -> Vec<ObjectChange> {
        let mut changes = Vec::new();
        for space in self.spaces.values_mut() {
            space.untold(all, &mut self.host, &mut changes);
        }
        changes.sort_by_key(|change| (change.ns, change.local));
        changes
    }

    /// Namespaces in which removed segments may have ended since, with processes that may be in them.
    pub(crate) fn pending_removals(&mut self, now: u64) -> Vec<(NsRef, BTreeSet<u32>)> {
        let spaces = self.spaces.iter_mut();
        let mut all: Vec<_> =
            spaces.filter_map(|(ns, space)| Some((*ns, space.pending_removals(now)?))).collect();
        all.sort_unstable_by_key(|one| one.0);
        all
    }

    /// What there was in such a namespace at a moment.
    pub(crate) fn lingered(
        &mut self,
        ns: NsRef,
        found: &[ObjectLook],
        boot_ns: u64,
    ) -> Vec<ObjectChange> {
        let mut changes = Vec::new();
        if let Some(space) = self.spaces.get_mut(&ns) {
            let found: BTreeSet<ObjectId> =
                found.iter().filter_map(|one| local(one, None)).collect();
            let still = |local: ObjectId, _: &TrackedObject| {
                local.kind() != Family::Shm || found.contains(&local)
            };
            space.lingered(&still, boot_ns, &mut self.host, &mut changes);
        }
        changes
    }

    /// A snapshot of a namespace after a loss, taken while records came; all of them until its end have been
    /// applied. What it has and nobody was seen to make is told of, and what has ended unseen. `complete`:
    /// nothing more was lost since before it began.
    pub(crate) fn reconcile(
        &mut self,
        ns: NsRef,
        look: &NamespaceLook,
        complete: bool,
        boot_ns: u64,
    ) -> Vec<ObjectChange> {
        let mut changes = Vec::new();
        let (space, host) = self.space(ns);
        let began = look.listed.0;
        space.listed = look.listed;
        space.is_whole(complete && is_whole(look));
        let objects = look.objects.iter();
        let found: BTreeMap<ObjectId, &ObjectLook> =
            objects.filter_map(|object| Some((local(object, look.mqueue_dev)?, object))).collect();
        if is_whole(look) {
            let still = |local, one: &TrackedObject| {
                found.contains_key(&local) || is_hidden(local, one, look)
            };
            space.not_found(&still, (began, boot_ns), host, &mut changes);
        }
        for (local, object) in found {
            match space.get_mut(local) {
                // What calls have told since is newer.
                Some(one) if one.last_seen() < Some(began) => {
                    one.fill(object);
                    one.attached = one.attached.filter(|count| *count == 0);
                }
                Some(_) => {}
                // It has ended since it was found.
                None if host
                    .gone
                    .get(ns, local)
                    .is_some_and(|one| one.destroyed >= Some(began)) => {}
                None => space.found(local, Box::new(TrackedObject::found(object, began)), host),
            }
        }
        space.untold(false, host, &mut changes);
        self.limit_removed();
        changes.sort_by_key(|change| (change.life != ObjectLife::Destroyed, change.local));
        changes
    }

    /// A look at the end. What it does not find of what was removed has ended; of the rest it tells how
    /// it stands. What nobody was seen to make or use, such as a queue that was made by its path, is told of
    /// now.
    pub(crate) fn settled(
        &mut self,
        looks: &[(NsRef, &NamespaceLook)],
        held: Option<&Holders>,
        boot_ns: u64,
    ) -> Vec<ObjectChange> {
        let mut changes = self.untold(true);
        for (ns, look) in looks {
            let (space, host) = self.space(*ns);
            let found: BTreeMap<ObjectId, &ObjectLook> = look
                .objects
                .iter()
                .filter_map(|object| Some((local(object, look.mqueue_dev)?, object)))
                .collect();
            if is_whole(look) {
                let still = |local, one: &TrackedObject| {
                    found.contains_key(&local) || is_hidden(local, one, look)
                };
                space.looked(&still, boot_ns, host, &mut changes);
            } else if let Some(held) = held.filter(|held| held.exact.contains(&ns.inum)) {
                // There is no way in, but who has its objects open or attached is known.
                let still = |local, one: &TrackedObject| held.in_use(*ns, local, one) != Some(0);
                space.lingered(&still, boot_ns, host, &mut changes);
                space.attached(&|local, one| held.in_use(*ns, local, one));
            }
            for (local, object) in found {
                match space.get_mut(local) {
                    Some(one) => one.fill(object),
                    None => {
                        space.found(local, Box::new(TrackedObject::found(object, boot_ns)), host)
                    }
                }
            }
        }
        changes.append(&mut self.untold(false));
        changes
    }

    /// The objects for a report, by namespace. `end`: who there was at the end, if that is known.
    #[must_use]
    pub(crate) fn report(
        &self,
        clock: &Clock,
        containers: &Containers,
        end: Option<&Holders>,
    ) -> HashMap<NsRef, Vec<ObjectReport>> {
        let report = |ns, (local, one): (ObjectId, &TrackedObject)| ObjectReport {
            look: one.info(local, clock, containers),
            created: one.created(clock),
            removed_at: one.removed.map(|at| clock.time(at)),
            destroyed: one.destroyed.map(|at| clock.time(at)),
            uses: one.uses,
            leaked: match end {
                Some(end) => end.leaked(ns, local, one),
                None => (one.is_removed() || one.destroyed.is_some()).then_some(false),
            },
        };
        let all = self.all().into_iter();
        all.map(|(ns, objects)| (ns, objects.into_iter().map(|one| report(ns, one)).collect()))
            .collect()
    }
}

/// Who there was at the end: whose objects are in use.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    /// Processes, with their starts where these are known
    processes: BTreeMap<u32, Option<u64>>,
    /// Names of queues that are open, by namespace
    open: BTreeSet<(u32, Vec<u8>)>,
    /// How often each segment is attached, by namespace
    attached: BTreeMap<(u32, i32), u64>,
    /// Namespaces whose attached segments are known
    exact: BTreeSet<u32>,
}

/// A tick of the clock that `/proc/PID/stat` tells the start of a process by (USER_HZ,
/// include/asm-generic/param.h).
const TICK_NS: u64 = 10_000_000;

impl Holders {
    /// From a look; `None` where it did not see all processes.
    #[must_use]
    pub(crate) fn new(ls: &Ls) -> Option<Self> {
        if !ls.complete || !ls.unseen.is_empty() {
            return None;
        }
        let mut end = Self::default();
        for namespace in &ls.namespaces {
            let processes = namespace.processes.iter();
            end.processes.extend(processes.map(|one| (one.pid, one.start_boot_ns)));
            let inum = namespace.inum;
            end.exact.insert(inum);
            for holder in &namespace.holders {
                match holder {
                    Holder::Descriptor { of: DescriptorOf::Queue, name: Some(name), .. } => {
                        end.open.insert((inum, name.0.to_vec()));
                    }
                    Holder::Mapping { shmid, mappings, exact, .. } => {
                        *end.attached.entry((inum, *shmid)).or_default() += u64::from(*mappings);
                        if !exact {
                            end.exact.remove(&inum);
                        }
                    }
                    Holder::Descriptor { .. } | Holder::Process { .. } | Holder::Mount { .. } => {}
                }
            }
        }
        Some(end)
    }

    fn lives(&self, (pid, start): ProcessKey) -> bool {
        let known = self.processes.get(&pid);
        known.is_some_and(|known| known.is_none_or(|known| known.abs_diff(start) < TICK_NS))
    }

    /// How often an object is attached, or whether it is open; `None`: that says nothing about it.
    fn in_use(&self, ns: NsRef, local: ObjectId, one: &TrackedObject) -> Option<u64> {
        match local {
            ObjectId::Sysv(Family::Shm, id) => {
                Some(self.attached.get(&(ns.inum, id)).copied().unwrap_or(0))
            }
            ObjectId::Sysv(..) => None,
            ObjectId::Queue(..) => {
                let name = one.name.as_ref()?.to_vec();
                Some(u64::from(self.open.contains(&(ns.inum, name))))
            }
        }
    }

    fn leaked(&self, ns: NsRef, local: ObjectId, one: &TrackedObject) -> Option<bool> {
        let open = match local.kind() {
            Family::Shm => one.attached.map(|count| count > 0),
            Family::Sem | Family::Msg => Some(false),
            Family::Mq => self.in_use(ns, local, one).map(|count| count > 0),
        };
        let lives = |process| self.lives(process);
        let leaked = one.leaked(open, &lives);
        let from_birth = matches!(one.birth, ObjectOrigin::Seen(_) | ObjectOrigin::Inferred(_));
        match leaked {
            // Others may have used it before anybody was seen to.
            Some(true) if !from_birth => self.left(local, one, open),
            None if !from_birth => self.left(local, one, open),
            other => other,
        }
    }

    /// Of an object that was there at the start: whether all who are known to have to do with it have
    /// ended. That are all for a queue, which its users have open, and for a segment that nobody has
    /// attached.
    fn left(&self, local: ObjectId, one: &TrackedObject, open: Option<bool>) -> Option<bool> {
        let ended = |pid: Option<u32>| Some(!self.processes.contains_key(&pid?));
        match local.kind() {
            Family::Mq => open.map(|open| !open),
            Family::Shm if open == Some(false) => {
                let creator = ended(one.creator.as_ref()?.pid)?;
                // The table has neither a last process nor a time of one that was never attached.
                let last = match one.last.as_ref() {
                    Some(Last::Seen { pid, .. }) => Some(*pid),
                    Some(Last::Found(last)) => last.pid,
                    None => None,
                };
                // Never attached: nobody but its creator has to do with it.
                (creator && last.is_none_or(|pid| ended(Some(pid)) == Some(true))).then_some(true)
            }
            Family::Shm | Family::Sem | Family::Msg => None,
        }
    }
}
