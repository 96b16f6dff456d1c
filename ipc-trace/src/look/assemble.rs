//! From who holds what, and what is inside, to namespaces: pure.

use std::collections::{BTreeMap, BTreeSet};

use ipc_trace_common::{op::Family, state::HOST_INUM};

use super::{
    found::{Belongs, Descriptor, Found, Listed, Mapping, Thread},
    inside::Inside,
    lines::{Mount, Mounted},
};
use crate::event::{
    ls::{
        DescriptorOf, Holder, LimitName, MountOf, NamespaceLook, ObjectLook, ProcessLook,
        UnseenWhat,
    },
    value::{FamilyName, Hex32, Text},
};

/// A mount, and how it is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSeen {
    /// The mount namespace that it is in
    pub mnt_ns: u32,
    /// A process that sees it
    pub pid: u32,
    /// The mount
    pub mount: Mount,
}

/// All that was seen.
#[derive(Debug)]
pub struct Seen {
    /// Who holds what
    pub found: Found,
    /// Mounts
    pub mounts: Vec<MountSeen>,
    /// By namespace, what is inside
    pub insides: BTreeMap<u32, Inside>,
    /// Bytes of a page
    pub page: u64,
}

impl Found {
    /// Numbers of the namespaces that exist by any sign.
    #[must_use]
    pub fn namespaces(&self, mounts: &[MountSeen]) -> BTreeSet<u32> {
        let mut all: BTreeSet<u32> = self.listed.keys().copied().collect();
        all.extend(self.threads.iter().map(|thread| thread.ipc_ns));
        // Where the kernel does not list all namespaces, descriptors and mounts are those of IPC
        // namespaces by their names; its own lists are of any kind of namespace.
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

impl Seen {
    /// The namespaces that were looked into, the host's first, then by number.
    #[must_use]
    pub fn namespaces(mut self) -> Vec<NamespaceLook> {
        let insides = std::mem::take(&mut self.insides);
        let mut all: BTreeMap<u32, NamespaceLook> = BTreeMap::new();
        let mut devices = BTreeMap::new();
        for (inum, inside) in insides {
            let Listed { ns_id, mqueue_dev } =
                self.found.listed.get(&inum).copied().unwrap_or_default();
            let dev = inside.mqueue_dev.or(mqueue_dev);
            devices.extend(dev.map(|dev| (dev, inum)));
            let Inside { mut objects, limits, mut unseen, mqueue_dev: _ } = inside;
            objects.sort_by(|a, b| order(a).cmp(&order(b)));
            unseen.dedup();
            all.insert(
                inum,
                NamespaceLook {
                    inum,
                    r#gen: 1,
                    ns_id,
                    host: inum == HOST_INUM,
                    created: None,
                    destroyed: None,
                    processes: Vec::new(),
                    holders: Vec::new(),
                    objects,
                    limits,
                    unseen,
                },
            );
        }
        self.processes(&mut all);
        self.descriptors(&mut all, &devices);
        self.mounts(&mut all, &devices);
        self.mappings(&mut all);
        for namespace in all.values_mut() {
            namespace.holders.sort();
            fill(namespace, self.page);
        }
        let (mut host, others): (Vec<_>, Vec<_>) = all.into_values().partition(|ns| ns.host);
        host.extend(others);
        host
    }

    fn processes(&self, all: &mut BTreeMap<u32, NamespaceLook>) {
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
            namespace.processes.push(ProcessLook {
                pid,
                ppid: ppid.filter(|ppid| *ppid != 0),
                comm,
                exe: None,
                uid,
                gid,
                start_boot_ns,
                ns,
                threads: count,
            });
        }
    }

    /// Names of processes by their main threads.
    fn comms(&self) -> BTreeMap<u32, &Text<'static>> {
        let main = self.found.threads.iter().filter(|thread| thread.pid == thread.tid);
        main.map(|thread| (thread.pid, &thread.comm)).collect()
    }

    fn descriptors(
        &self,
        all: &mut BTreeMap<u32, NamespaceLook>,
        devices: &BTreeMap<libc::dev_t, u32>,
    ) {
        let comms = self.comms();
        for one in &self.found.descriptors {
            let inum = match one.belongs {
                Belongs::Namespace(inum) => Some(inum),
                Belongs::Device(device) => devices.get(&device).copied(),
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

    fn mounts(&self, all: &mut BTreeMap<u32, NamespaceLook>, devices: &BTreeMap<libc::dev_t, u32>) {
        for MountSeen { mnt_ns, pid, mount } in &self.mounts {
            let (inum, of) = match mount.of {
                Mounted::Namespace(inum) => (Some(inum), MountOf::Namespace),
                Mounted::Mqueue(major, minor) => {
                    (devices.get(&libc::makedev(major, minor)).copied(), MountOf::Mqueue)
                }
            };
            let Some(namespace) = inum.and_then(|inum| all.get_mut(&inum)) else { continue };
            namespace.holders.push(Holder::Mount {
                mnt_ns: *mnt_ns,
                pid: *pid,
                mount_point: Text(mount.point.clone().into()),
                of,
                pins: of == MountOf::Namespace,
            });
        }
    }

    fn mappings(&self, all: &mut BTreeMap<u32, NamespaceLook>) {
        let comms = self.comms();
        let mut sums: BTreeMap<(u32, u32, i32, bool), (u32, u64)> = BTreeMap::new();
        for mapping in &self.found.mappings {
            let inum = mapping.ipc_ns.or_else(|| self.guess(mapping, all));
            let Some(inum) = inum else { continue };
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
    }

    /// The namespace that a mapped segment must be of: the only one with such a segment, or else
    /// that of the process.
    fn guess(&self, mapping: &Mapping, all: &BTreeMap<u32, NamespaceLook>) -> Option<u32> {
        let is_it = |object: &ObjectLook| {
            object.kind == FamilyName(Family::Shm)
                && object.id == Some(mapping.shmid)
                && object.attached != Some(0)
                // A removed segment has lost its key (do_shm_rmid, ipc/shm.c).
                && (object.removed || object.key == mapping.key.map(Hex32))
        };
        let mut fits = all.values().filter(|ns| ns.objects.iter().any(is_it)).map(|ns| ns.inum);
        let (first, second) = (fits.next()?, fits.next());
        if second.is_none() {
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

fn order(object: &ObjectLook) -> (Family, Option<i32>, Option<&Text<'static>>) {
    (object.kind.0, object.id, object.name.as_ref())
}

/// Fills in how much of each limit is used, as far as objects were seen.
fn fill(namespace: &mut NamespaceLook, page: u64) {
    let of = |kind| namespace.objects.iter().filter(move |one| one.kind == FamilyName(kind));
    let count = |kind| of(kind).count() as u64;
    let sum = |kind, of_size: &dyn Fn(u64) -> u64| {
        of(kind).filter_map(|one| one.size).map(of_size).fold(0_u64, u64::saturating_add)
    };
    let sysv = [
        (LimitName::Shmmni, count(Family::Shm)),
        // `newseg` (ipc/shm.c) counts whole pages.
        (LimitName::Shmall, sum(Family::Shm, &|size| size.div_ceil(page.max(1)))),
        (LimitName::Semmni, count(Family::Sem)),
        (LimitName::Semmns, sum(Family::Sem, &|size| size)),
        (LimitName::Msgmni, count(Family::Msg)),
    ];
    let queues = [(LimitName::QueuesMax, count(Family::Mq))];
    let mut used = Vec::new();
    if !namespace.is_unseen(UnseenWhat::Sysv) {
        used.extend(sysv);
    }
    if !namespace.is_unseen(UnseenWhat::Queues) {
        used.extend(queues);
    }
    for (name, used) in used {
        if let Some(limit) = namespace.limits.get_mut(&name) {
            limit.used = Some(used);
        }
    }
}
