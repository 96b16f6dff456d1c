//! Combines holders and the namespaces' contents into snapshots of namespaces: pure.

use std::collections::{BTreeMap, BTreeSet};

use ipc_trace_common::{op::ObjectKind, state::HOST_INUM};

use super::{
    lines::{IpcMount, Mounted},
    mqueue::kernel_device,
    namespace_contents::NamespaceContents,
    task_holdings::{Belongs, Descriptor, HeldMapping, Holdings, Thread},
};
use crate::event::{
    ls::{
        DescriptorOf, Holder, LimitName, MountOf, NamespaceSnapshot, ProcessInfo, Unseen,
        UnseenWhat,
    },
    objects::ObjectInfo,
    value::{Hex32, KindName, OsBytes},
};

/// A mount, and a process that sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountSeen {
    /// The mount namespace that it is in
    pub mnt_ns: u32,
    /// A process that sees it
    pub pid: u32,
    /// The mount
    pub mount: IpcMount,
}

/// The raw results of a snapshot.
#[derive(Debug)]
pub(crate) struct Observations {
    /// Threads, descriptors and mappings
    pub found: Holdings,
    /// Mounts
    pub mounts: Vec<MountSeen>,
    /// The contents of each namespace
    pub insides: BTreeMap<u32, NamespaceContents>,
    /// The namespace of each mqueue file system, by its device
    pub devices: BTreeMap<libc::dev_t, u32>,
    /// Bytes of a page
    pub page: u64,
}

impl Holdings {
    /// The inode numbers of the existing namespaces, from all sources.
    #[must_use]
    pub(crate) fn namespaces(&self, mounts: &[MountSeen]) -> BTreeSet<u32> {
        let mut all: BTreeSet<u32> = self.listed.keys().copied().collect();
        all.extend(self.threads.iter().map(|thread| thread.ipc_ns));
        // If the kernel does not list all namespaces, descriptors and mounts are those of IPC namespaces by their
        // names; the kernel's own lists have namespaces of any kind.
        if !self.complete {
            let descriptors = self.descriptors.iter().filter_map(|one| match one {
                Descriptor {
                    of: DescriptorOf::Namespace,
                    belongs: Belongs::Namespace(inum),
                    ..
                } => Some(*inum),
                Descriptor { .. } => None,
            });
            all.extend(descriptors);
        }
        all.extend(mounts.iter().filter_map(|seen| match seen.mount.of {
            Mounted::Namespace(inum) => Some(inum),
            Mounted::Mqueue(..) => None,
        }));
        all
    }
}

/// Threads of a process in one namespace.
struct Members<'a> {
    speaker: &'a Thread,
    count: u32,
}

impl Observations {
    /// The namespaces that were read, the host's first, then by number; and the number of mappings whose namespace is
    /// unknown.
    #[must_use]
    pub(crate) fn namespaces(mut self) -> (Vec<NamespaceSnapshot>, u64) {
        let insides = std::mem::take(&mut self.insides);
        let mut all: BTreeMap<u32, NamespaceSnapshot> = BTreeMap::new();
        let mut counted: BTreeMap<u32, Option<u32>> = BTreeMap::new();
        for (inum, inside) in insides {
            let (ns_id, queues) = match self.found.listed.get(&inum) {
                Some(one) => (one.ns_id, one.queues),
                None => (None, None),
            };
            let NamespaceContents { mut objects, limits, mut unseen, mqueue_dev, listed } = inside;
            objects.sort_by(|a, b| order(a).cmp(&order(b)));
            unseen.dedup();
            unseen.extend(unseen_queues(&objects, &unseen, queues));
            counted.insert(inum, queues);
            all.insert(
                inum,
                NamespaceSnapshot {
                    inum,
                    r#gen: 1,
                    ns_id,
                    host: inum == HOST_INUM,
                    created: None,
                    destroyed: None,
                    containers: Vec::new(),
                    sharing: None,
                    processes: Vec::new(),
                    holders: Vec::new(),
                    objects,
                    limits,
                    unseen,
                    mqueue_dev: mqueue_dev.map(kernel_device),
                    listed,
                },
            );
        }
        self.processes(&mut all);
        self.descriptors(&mut all);
        self.mounts(&mut all);
        let unknown = self.mappings(&mut all);
        for namespace in all.values_mut() {
            namespace.holders.sort();
            let queues = counted.get(&namespace.inum).copied().flatten();
            fill(namespace, self.page, queues.map(u64::from));
        }
        let (mut host, others): (Vec<_>, Vec<_>) = all.into_values().partition(|ns| ns.host);
        host.extend(others);
        (host, unknown)
    }

    fn processes(&self, all: &mut BTreeMap<u32, NamespaceSnapshot>) {
        let mut members: BTreeMap<(u32, u32), Members<'_>> = BTreeMap::new();
        for thread in &self.found.threads {
            let entry = members
                .entry((thread.ipc_ns, thread.pid))
                .or_insert(Members { speaker: thread, count: 0 });
            entry.count += 1;
            if thread.tid == thread.pid {
                entry.speaker = thread;
            }
        }
        for ((inum, pid), Members { speaker, count }) in members {
            let Some(namespace) = all.get_mut(&inum) else { continue };
            let Thread { ppid, comm, uid, gid, start_boot_ns, ns, .. } = speaker.clone();
            namespace.holders.push(Holder::Process { pid, threads: count });
            namespace.processes.push(ProcessInfo {
                pid,
                ppid: ppid.filter(|ppid| *ppid != 0),
                comm,
                exe: None,
                uid,
                gid,
                start_boot_ns,
                ns,
                container: None,
                cgroup: None,
                threads: count,
            });
        }
    }

    /// Names of processes, from their main threads.
    fn comms(&self) -> BTreeMap<u32, &OsBytes<'static>> {
        let main = self.found.threads.iter().filter(|thread| thread.pid == thread.tid);
        main.map(|thread| (thread.pid, &thread.comm)).collect()
    }

    fn descriptors(&self, all: &mut BTreeMap<u32, NamespaceSnapshot>) {
        let comms = self.comms();
        for one in &self.found.descriptors {
            let inum = match one.belongs {
                Belongs::Namespace(inum) => Some(inum),
                Belongs::Device(device) => self.devices.get(&device).copied(),
            };
            let Some(namespace) = inum.and_then(|inum| all.get_mut(&inum)) else { continue };
            namespace.holders.push(Holder::Descriptor {
                pid: one.pid,
                comm: comms.get(&one.pid).copied().cloned(),
                fd: one.fd,
                of: one.of,
                name: one.name.clone(),
                // A superblock of mqueue does not hold its namespace (mq_clear_sbinfo, ipc/mqueue.c).
                pins: one.of != DescriptorOf::Queue,
            });
        }
    }

    fn mounts(&self, all: &mut BTreeMap<u32, NamespaceSnapshot>) {
        for MountSeen { mnt_ns, pid, mount } in &self.mounts {
            let (inum, of) = match mount.of {
                Mounted::Namespace(inum) => (Some(inum), MountOf::Namespace),
                Mounted::Mqueue(major, minor) => {
                    (self.devices.get(&libc::makedev(major, minor)).copied(), MountOf::Mqueue)
                }
            };
            let Some(namespace) = inum.and_then(|inum| all.get_mut(&inum)) else { continue };
            namespace.holders.push(Holder::Mount {
                mnt_ns: *mnt_ns,
                pid: *pid,
                mount_point: OsBytes(mount.point.clone().into()),
                of,
                pins: of == MountOf::Namespace,
            });
        }
    }

    fn mappings(&self, all: &mut BTreeMap<u32, NamespaceSnapshot>) -> u64 {
        let mut unknown = 0;
        let comms = self.comms();
        let mut sums: BTreeMap<(u32, u32, i32, bool), (u32, u64)> = BTreeMap::new();
        for mapping in &self.found.mappings {
            let inum = mapping.ipc_ns.or_else(|| self.guess(mapping, all));
            let Some(inum) = inum else {
                unknown += 1;
                continue;
            };
            let key = (inum, mapping.pid, mapping.shmid, mapping.ipc_ns.is_some());
            let (count, bytes) = sums.entry(key).or_default();
            *count += 1;
            *bytes = bytes.saturating_add(mapping.bytes);
        }
        for ((inum, pid, shmid, exact), (mappings, bytes)) in sums {
            let Some(namespace) = all.get_mut(&inum) else { continue };
            let comm = comms.get(&pid).copied().cloned();
            namespace.holders.push(Holder::Mapping { pid, comm, shmid, mappings, bytes, exact });
        }
        unknown
    }

    /// The namespace of a mapped segment: the only one of all with such a segment, or else that of the process.
    fn guess(&self, mapping: &HeldMapping, all: &BTreeMap<u32, NamespaceSnapshot>) -> Option<u32> {
        let is_it = |object: &ObjectInfo| {
            object.kind == KindName(ObjectKind::Shm)
                && object.id == Some(mapping.shmid)
                && object.attached != Some(0)
                // A removed segment has lost its key (do_shm_rmid, ipc/shm.c).
                && (object.removed || object.key == mapping.key.map(Hex32))
        };
        let mut fits = all.values().filter(|ns| ns.objects.iter().any(is_it)).map(|ns| ns.inum);
        let (first, second) = (fits.next()?, fits.next());
        let all_seen =
            self.found.complete && !all.values().any(|ns| ns.is_unseen(UnseenWhat::Sysv));
        if second.is_none() && all_seen {
            return Some(first);
        }
        let own: BTreeSet<u32> = self
            .found
            .threads
            .iter()
            .filter(|thread| thread.pid == mapping.pid)
            .map(|thread| thread.ipc_ns)
            .collect();
        let mut fits = [first].into_iter().chain(second).chain(fits).filter(|ns| own.contains(ns));
        fits.next().filter(|_| fits.next().is_none())
    }
}

fn order(object: &ObjectInfo) -> (ObjectKind, Option<i32>, Option<&OsBytes<'static>>) {
    (object.kind.0, object.id, object.name.as_ref())
}

/// Queues that the kernel counts but the snapshot lacks: they have no name, and no process has a descriptor. Unknown
/// if the queues could not be listed.
fn unseen_queues(
    objects: &[ObjectInfo],
    unseen: &[Unseen],
    counted: Option<u32>,
) -> Option<Unseen> {
    if unseen.iter().any(|one| one.what == UnseenWhat::Queues) {
        return None;
    }
    let seen = objects.iter().filter(|one| one.kind == KindName(ObjectKind::Mq)).count() as u64;
    let reason = match u64::from(counted?).checked_sub(seen)? {
        0 => return None,
        1 => {
            "1 unlinked queue that no descriptor of a process leads to: it is on its way through a \
              socket, or otherwise held by the kernel"
                .to_owned()
        }
        more => format!(
            "{more} unlinked queues that no descriptor of a process leads to: they are on their way \
             through sockets, or otherwise held by the kernel"
        ),
    };
    Some(Unseen { what: UnseenWhat::UnlinkedQueues, reason })
}

/// Fills in the use of each limit, as far as objects were seen. `queues`: the kernel's count.
fn fill(namespace: &mut NamespaceSnapshot, page: u64, queues: Option<u64>) {
    let of = |kind| namespace.objects.iter().filter(move |one| one.kind == KindName(kind));
    let count = |kind| of(kind).count() as u64;
    let sum = |kind, of_size: &dyn Fn(u64) -> u64| {
        of(kind).filter_map(|one| one.size).map(of_size).fold(0_u64, u64::saturating_add)
    };
    let sysv = [
        (LimitName::Shmmni, count(ObjectKind::Shm)),
        // `newseg` (ipc/shm.c) counts whole pages.
        (LimitName::Shmall, sum(ObjectKind::Shm, &|size| size.div_ceil(page.max(1)))),
        (LimitName::Semmni, count(ObjectKind::Sem)),
        (LimitName::Semmns, sum(ObjectKind::Sem, &|size| size)),
        (LimitName::Msgmni, count(ObjectKind::Msg)),
    ];
    let seen = (!namespace.is_unseen(UnseenWhat::Queues)).then(|| count(ObjectKind::Mq));
    let mut used = Vec::new();
    if !namespace.is_unseen(UnseenWhat::Sysv) {
        used.extend(sysv);
    }
    used.extend(queues.or(seen).map(|queues| (LimitName::QueuesMax, queues)));
    for (name, used) in used {
        if let Some(limit) = namespace.limits.get_mut(&name) {
            limit.used = Some(used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{NsInodes, ls::Limit},
        sources::host::{sysvipc, task_holdings::Listed},
    };

    fn thread(pid: u32, tid: u32, ipc_ns: u32) -> Thread {
        Thread {
            tid,
            pid,
            ppid: Some(0),
            comm: OsBytes(format!("t{tid}").into_bytes().into()),
            uid: Some(0),
            gid: Some(0),
            start_boot_ns: None,
            ipc_ns,
            ns: NsInodes::default(),
        }
    }

    /// The contents: segments by id, with key, size and whether they are removed.
    fn inside(segments: &[(i32, i32, u64, bool)]) -> NamespaceContents {
        let names = "key shmid perms size cpid nattch uid gid cuid cgid\n";
        let rows = segments.iter().map(|(id, key, size, removed)| {
            let perms = if *removed { 1600 } else { 600 };
            format!("{key} {id} {perms} {size} 0 1 0 0 0 0\n")
        });
        let table = names.to_owned() + &rows.collect::<String>();
        NamespaceContents {
            objects: sysvipc::parse(ObjectKind::Shm, &table).unwrap(),
            limits: LimitName::ALL.map(|name| (name, Limit { limit: 9, used: None })).into(),
            ..NamespaceContents::default()
        }
    }

    fn seen(
        found: Holdings,
        insides: impl IntoIterator<Item = (u32, NamespaceContents)>,
    ) -> (Vec<NamespaceSnapshot>, u64) {
        let insides = insides.into_iter().collect();
        let devices = BTreeMap::new();
        Observations { found, mounts: Vec::new(), insides, devices, page: 4096 }.namespaces()
    }

    #[test]
    fn process_is_in_namespaces_of_its_threads() {
        let found = Holdings {
            threads: vec![thread(5, 6, 10), thread(5, 5, 20), thread(5, 7, 10), thread(5, 8, 20)],
            ..Holdings::default()
        };
        let (all, _) = seen(found, [(10, inside(&[])), (20, inside(&[])), (30, inside(&[]))]);
        let processes: Vec<Vec<_>> = all
            .iter()
            .map(|ns| ns.processes.iter().map(|p| (p.pid, p.threads, p.comm.to_string())).collect())
            .collect();
        let at = |threads, comm: &str| vec![(5, threads, comm.to_owned())];
        assert_eq!(processes, [at(2, "t6"), at(2, "t5"), vec![]]);
    }

    #[test]
    fn queue_limit_uses_kernel_count() {
        let listed = |queues| Listed { queues, ..Listed::default() };
        let fill_limit = |queues, closed: bool| {
            let found = Holdings { listed: [(10, listed(queues))].into(), ..Holdings::default() };
            let mut inside = inside(&[]);
            if closed {
                inside.unseen = NamespaceContents::closed("no way").unseen;
            }
            let (all, _) = seen(found, [(10, inside)]);
            let one = &all[0];
            let what: Vec<_> = one.unseen.iter().map(|one| one.what).collect();
            (one.limits[&LimitName::QueuesMax].used, what)
        };
        assert_eq!(fill_limit(None, false), (Some(0), vec![]));
        assert_eq!(fill_limit(Some(0), false), (Some(0), vec![]));
        assert_eq!(fill_limit(Some(2), false), (Some(2), vec![UnseenWhat::UnlinkedQueues]));
        let closed = vec![UnseenWhat::Sysv, UnseenWhat::Queues, UnseenWhat::Limits];
        assert_eq!(fill_limit(Some(2), true), (Some(2), closed.clone()));
        assert_eq!(fill_limit(None, true), (None, closed));
    }

    #[test]
    fn ambiguous_mapping_uses_only_candidate() {
        let mapping =
            |pid, shmid, key| HeldMapping { pid, shmid, ipc_ns: None, key: Some(key), bytes: 1 };
        let found = Holdings {
            threads: vec![thread(5, 5, 10), thread(6, 6, 30)],
            mappings: vec![
                mapping(5, 1, 7),
                mapping(5, 1, 7),
                mapping(5, 2, 7),
                mapping(6, 2, 7),
                mapping(6, 3, 7),
                mapping(6, 4, 7),
            ],
            complete: true,
            ..Holdings::default()
        };
        let insides = [
            (10, inside(&[(1, 8, 1, false), (2, 7, 1, false)])),
            (20, inside(&[(1, 0, 1, true), (2, 7, 1, false), (3, 7, 4097, false)])),
        ];
        let (all, unknown) = seen(found, insides);
        let mappings: Vec<(u32, u32, i32, u32)> = all
            .iter()
            .flat_map(|ns| ns.holders.iter().map(move |holder| (ns.inum, holder)))
            .filter_map(|(inum, holder)| match holder {
                Holder::Mapping { pid, shmid, mappings, exact: false, .. } => {
                    Some((inum, *pid, *shmid, *mappings))
                }
                Holder::Mapping { .. }
                | Holder::Process { .. }
                | Holder::Descriptor { .. }
                | Holder::Mount { .. } => None,
            })
            .collect();
        // By its key, by its process, by its number; 2 of process 6 may belong to either, 4 to none.
        assert_eq!(mappings, [(10, 5, 2, 1), (20, 5, 1, 2), (20, 6, 3, 1)]);
        assert_eq!(unknown, 2);
        assert_eq!(all[1].limits[&LimitName::Shmall].used, Some(1 + 1 + 2));
    }
}
