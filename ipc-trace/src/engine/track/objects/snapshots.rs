//! Applies snapshots: the objects at the start, after losses, and at the end.

use std::collections::{BTreeMap, BTreeSet};

use ipc_trace_common::{op::ObjectKind, record::NsRef};
use minicbor::{Decode, Encode};

use super::{
    ObjectChange, ObjectTracker,
    tracked::{Last, ObjectId, ObjectOrigin, TrackedObject},
};
use crate::{
    engine::track::{OrderedMap, clock::Clock, containers::Containers},
    event::{
        ls::{DescriptorOf, Holder, Ls, NamespaceSnapshot, UnseenWhat},
        objects::{ObjectEventKind, ObjectInfo, ObjectReport},
    },
    input::process::ProcessId,
};

fn local(info: &ObjectInfo, dev: Option<u32>) -> Option<ObjectId> {
    match info.kind.0 {
        ObjectKind::Mq => Some(ObjectId::Queue(dev?, info.ino?)),
        kind @ (ObjectKind::Shm | ObjectKind::Sem | ObjectKind::Msg) => {
            Some(ObjectId::Sysv(kind, info.id?))
        }
    }
}

fn is_complete(snapshot: &NamespaceSnapshot) -> bool {
    !snapshot.is_unseen(UnseenWhat::Sysv) && !snapshot.is_unseen(UnseenWhat::Queues)
}

/// Whether an object may exist though the snapshot didn't find it: an unlinked queue, if the kernel counts
/// more of them than were found.
fn is_hidden(local: ObjectId, one: &TrackedObject, snapshot: &NamespaceSnapshot) -> bool {
    local.kind() == ObjectKind::Mq
        && one.is_removed()
        && snapshot.is_unseen(UnseenWhat::UnlinkedQueues)
}

impl ObjectTracker {
    /// Adds a namespace of the initial snapshot, before any call on it is applied. No line reports it yet:
    /// records of the time meanwhile are applied first.
    pub(crate) fn found(&mut self, ns: NsRef, snapshot: &NamespaceSnapshot, boot_ns: u64) {
        let (space, host) = self.space(ns);
        space.listed = snapshot.listed;
        space.set_complete(is_complete(snapshot));
        for object in &snapshot.objects {
            if let Some(local) = local(object, snapshot.mqueue_dev) {
                space.found(local, Box::new(TrackedObject::found(object, boot_ns)), host);
            }
        }
        self.limit_removed();
    }

    /// The unreported objects that existed at the start.
    pub(crate) fn present(&mut self) -> Vec<ObjectChange> {
        self.unreported(false)
    }

    pub(super) fn unreported(&mut self, all: bool) -> Vec<ObjectChange> {
        let mut changes = Vec::new();
        for space in self.spaces.values_mut() {
            space.unreported(all, &mut self.host, &mut changes);
        }
        changes.sort_by_key(|change| (change.ns, change.local));
        changes
    }

    /// Namespaces whose removed segments are due for a scan, with processes that may be in them.
    pub(crate) fn pending_removals(&mut self, now: u64) -> Vec<(NsRef, BTreeSet<u32>)> {
        let spaces = self.spaces.iter_mut();
        let mut all: Vec<_> =
            spaces.filter_map(|(ns, space)| Some((*ns, space.pending_removals(now)?))).collect();
        all.sort_unstable_by_key(|one| one.0);
        all
    }

    /// Applies a scan for removed segments.
    pub(crate) fn on_removed_scan(
        &mut self,
        ns: NsRef,
        found: &[ObjectInfo],
        boot_ns: u64,
    ) -> Vec<ObjectChange> {
        let mut changes = Vec::new();
        if let Some(space) = self.spaces.get_mut(&ns) {
            let found: BTreeSet<ObjectId> =
                found.iter().filter_map(|one| local(one, None)).collect();
            let still = |local: ObjectId, _: &TrackedObject| {
                local.kind() != ObjectKind::Shm || found.contains(&local)
            };
            space.on_removed_scan(&still, boot_ns, &mut self.host, &mut changes);
        }
        changes
    }

    /// Applies a snapshot of a namespace taken after a loss while records arrived; all of them until its end
    /// have been applied. Returns changes for objects whose creation or destruction wasn't observed.
    /// `complete`: nothing more was lost since before it began.
    pub(crate) fn reconcile(
        &mut self,
        ns: NsRef,
        snapshot: &NamespaceSnapshot,
        complete: bool,
        boot_ns: u64,
    ) -> Vec<ObjectChange> {
        let mut changes = Vec::new();
        let (space, host) = self.space(ns);
        let began = snapshot.listed.0;
        space.listed = snapshot.listed;
        space.set_complete(complete && is_complete(snapshot));
        let objects = snapshot.objects.iter();
        let found: BTreeMap<ObjectId, &ObjectInfo> = objects
            .filter_map(|object| Some((local(object, snapshot.mqueue_dev)?, object)))
            .collect();
        if is_complete(snapshot) {
            let still = |local, one: &TrackedObject| {
                found.contains_key(&local) || is_hidden(local, one, snapshot)
            };
            space.not_found(&still, (began, boot_ns), host, &mut changes);
        }
        for (local, object) in found {
            match space.get_mut(local) {
                // Effects of later calls are newer.
                Some(one) if one.last_seen() < Some(began) => {
                    one.fill(object);
                    one.attached = one.attached.filter(|count| *count == 0);
                }
                Some(_) => {}
                // It was destroyed since the snapshot found it.
                None if host
                    .gone
                    .get(ns, local)
                    .is_some_and(|one| one.destroyed >= Some(began)) => {}
                None => space.found(local, Box::new(TrackedObject::found(object, began)), host),
            }
        }
        space.unreported(false, host, &mut changes);
        self.limit_removed();
        changes.sort_by_key(|change| (change.life != ObjectEventKind::Destroyed, change.local));
        changes
    }

    /// Applies the final snapshot. Removed objects that it didn't find were destroyed; the others are
    /// updated. Objects without an observed creation or use, such as a queue created by its path, are
    /// reported now.
    pub(crate) fn on_final_snapshot(
        &mut self,
        snapshots: &[(NsRef, &NamespaceSnapshot)],
        held: Option<&Holders>,
        boot_ns: u64,
    ) -> Vec<ObjectChange> {
        let mut changes = self.unreported(true);
        for (ns, snapshot) in snapshots {
            let (space, host) = self.space(*ns);
            let found: BTreeMap<ObjectId, &ObjectInfo> = snapshot
                .objects
                .iter()
                .filter_map(|object| Some((local(object, snapshot.mqueue_dev)?, object)))
                .collect();
            if is_complete(snapshot) {
                let still = |local, one: &TrackedObject| {
                    found.contains_key(&local) || is_hidden(local, one, snapshot)
                };
                space.end_missing(&still, boot_ns, host, &mut changes);
            } else if let Some(held) = held.filter(|held| held.exact.contains(&ns.inum)) {
                // The namespace can't be entered, but the holders of its objects are known.
                let still = |local, one: &TrackedObject| held.in_use(*ns, local, one) != Some(0);
                space.on_removed_scan(&still, boot_ns, host, &mut changes);
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
        changes.append(&mut self.unreported(false));
        changes
    }

    /// The objects for a report, by namespace. `end`: the holders at the end, if known.
    #[must_use]
    pub(crate) fn report(
        &self,
        clock: &Clock,
        containers: &Containers,
        end: Option<&Holders>,
    ) -> OrderedMap<NsRef, Vec<ObjectReport>> {
        let report = |ns, (local, one): (ObjectId, &TrackedObject)| ObjectReport {
            info: one.info(local, clock, containers),
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

/// Processes and references at the end, which say whether objects are in use.
#[derive(Debug, Default, Encode, Decode)]
pub(crate) struct Holders {
    /// Processes with their start times, if known.
    #[n(0)]
    processes: BTreeMap<u32, Option<u64>>,
    /// Names of open queues, by namespace.
    #[n(1)]
    open: BTreeSet<(u32, Vec<u8>)>,
    /// Number of attachments of each segment, by namespace.
    #[n(2)]
    attached: BTreeMap<(u32, i32), u64>,
    /// Namespaces whose attachments are known exactly.
    #[n(3)]
    exact: BTreeSet<u32>,
}

/// Length of a clock tick, the unit of process start times in `/proc/PID/stat`, in nanoseconds (USER_HZ,
/// include/asm-generic/param.h).
const TICK_NS: u64 = 10_000_000;

impl Holders {
    /// The holders of a snapshot; `None` if it didn't see all processes.
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

    fn lives(&self, (pid, start): ProcessId) -> bool {
        let known = self.processes.get(&pid);
        known.is_some_and(|known| known.is_none_or(|known| known.abs_diff(start) < TICK_NS))
    }

    /// Number of attachments, or 1 for an open queue; `None`: unknown.
    fn in_use(&self, ns: NsRef, local: ObjectId, one: &TrackedObject) -> Option<u64> {
        match local {
            ObjectId::Sysv(ObjectKind::Shm, id) => {
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
            ObjectKind::Shm => one.attached.map(|count| count > 0),
            ObjectKind::Sem | ObjectKind::Msg => Some(false),
            ObjectKind::Mq => self.in_use(ns, local, one).map(|count| count > 0),
        };
        let lives = |process| self.lives(process);
        let leaked = one.leaked(open, &lives);
        let from_creation = matches!(one.origin, ObjectOrigin::Seen(_) | ObjectOrigin::Inferred(_));
        match leaked {
            // Unobserved processes may have used it before.
            Some(true) if !from_creation => self.left(local, one, open),
            None if !from_creation => self.left(local, one, open),
            other => other,
        }
    }

    /// For an object from before the start: whether all processes known to be related to it have exited.
    /// These are all processes for a queue, which its users have open, and for a segment without attachments.
    fn left(&self, local: ObjectId, one: &TrackedObject, open: Option<bool>) -> Option<bool> {
        let ended = |pid: Option<u32>| Some(!self.processes.contains_key(&pid?));
        match local.kind() {
            ObjectKind::Mq => open.map(|open| !open),
            ObjectKind::Shm if open == Some(false) => {
                let creator = ended(one.creator.as_ref()?.pid)?;
                // The table has no last process and no time for a segment that was never attached.
                let last = match one.last.as_ref() {
                    Some(Last::Seen { pid, .. }) => Some(*pid),
                    Some(Last::Found(last)) => last.pid,
                    None => None,
                };
                // Never attached: only its creator is related to it.
                (creator && last.is_none_or(|pid| ended(Some(pid)) == Some(true))).then_some(true)
            }
            ObjectKind::Shm | ObjectKind::Sem | ObjectKind::Msg => None,
        }
    }
}
