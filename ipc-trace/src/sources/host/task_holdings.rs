//! Threads, descriptors and mappings, from all sources: the eBPF programs' lists, or `/proc`.

use std::collections::BTreeMap;

use ipc_trace_common::record::{
    self, DescriptorRecord, MappingRecord, NamespaceRecord, TaskRecord, flag,
};

use crate::{
    event::{NsInodes, ls::DescriptorOf, value::OsBytes},
    sources::kernel::task_iter::Tasks,
};

/// A namespace that the kernel lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The kernel's unique id
    pub ns_id: Option<u64>,
    /// Device number of its mqueue file system
    pub mqueue_dev: Option<libc::dev_t>,
    /// The number of queues counted against its limit
    pub queues: Option<u32>,
}

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Thread {
    /// Its tid
    pub tid: u32,
    /// Its process
    pub pid: u32,
    /// The parent process
    pub ppid: Option<u32>,
    /// Its name
    pub comm: OsBytes<'static>,
    /// Effective user
    pub uid: Option<u32>,
    /// Effective group
    pub gid: Option<u32>,
    /// When its process started
    pub start_boot_ns: Option<u64>,
    /// Its IPC namespace
    pub ipc_ns: u32,
    /// Its other namespaces
    pub ns: NsInodes,
}

/// The namespace of a descriptor or a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Belongs {
    /// The namespace with this number; 0: a dead one
    Namespace(u32),
    /// The namespace whose mqueue file system has this device
    Device(libc::dev_t),
}

/// A descriptor related to an IPC namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// The process that has it
    pub pid: u32,
    /// The descriptor's number
    pub fd: u32,
    /// The kind of its file
    pub of: DescriptorOf,
    /// Its namespace
    pub belongs: Belongs,
    /// Name of the queue or file
    pub name: Option<OsBytes<'static>>,
    /// A queue's inode number, if it is unlinked
    pub unlinked: Option<u64>,
}

/// A mapped segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeldMapping {
    /// The process that has it
    pub pid: u32,
    /// The segment's id
    pub shmid: i32,
    /// Its namespace; `None`: not known from this source
    pub ipc_ns: Option<u32>,
    /// The key at its creation, if the source shows it
    pub key: Option<u32>,
    /// Bytes
    pub bytes: u64,
}

/// Threads, descriptors and mappings.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    /// The namespaces that the kernel lists
    pub listed: BTreeMap<u32, Listed>,
    /// Whether the list is complete
    pub complete: bool,
    /// Threads
    pub threads: Vec<Thread>,
    /// Descriptors
    pub descriptors: Vec<Descriptor>,
    /// Mapped segments
    pub mappings: Vec<HeldMapping>,
    /// What could not be seen, one sentence each
    pub unseen: Vec<String>,
}

fn nonzero(inum: u32) -> Option<u32> {
    (inum != 0).then_some(inum)
}

/// The kernel's `dev_t` (12 bits of major, 20 of minor number: include/linux/kdev_t.h) in the form of stat(2).
fn device(dev: u32) -> Option<libc::dev_t> {
    (dev != 0).then(|| libc::makedev(dev >> 20, dev & 0xf_ffff))
}

impl From<&NamespaceRecord> for Listed {
    fn from(alive: &NamespaceRecord) -> Self {
        Self {
            ns_id: (alive.ns_id != 0).then_some(alive.ns_id),
            mqueue_dev: device(alive.mqueue_dev),
            queues: (alive.mq_queues != record::UNKNOWN_COUNT).then_some(alive.mq_queues),
        }
    }
}

impl Thread {
    fn from_record(record: &TaskRecord) -> Option<Self> {
        let TaskRecord { tid, pid, ppid, euid, egid, start_boot_ns, .. } = *record;
        Some(Self {
            tid,
            pid,
            ppid: Some(ppid),
            comm: OsBytes::until_nul(&record.comm).into_owned(),
            uid: Some(euid),
            gid: Some(egid),
            start_boot_ns: Some(start_boot_ns),
            ipc_ns: nonzero(record.ipc_ns)?,
            ns: NsInodes {
                pid: nonzero(record.pid_ns),
                mnt: nonzero(record.mnt_ns),
                user: nonzero(record.user_ns),
            },
        })
    }
}

impl Holdings {
    /// Adds the threads and namespaces that the kernel lists.
    pub(crate) fn add_tasks(&mut self, tasks: &Tasks) {
        self.complete = tasks.complete;
        self.listed.extend(tasks.namespaces.iter().map(|one| (one.ns.inum, one.into())));
        self.threads.extend(tasks.tasks.iter().filter_map(Thread::from_record));
    }

    /// Adds descriptors that the kernel lists, after the threads.
    pub(crate) fn add_descriptors(&mut self, records: &[DescriptorRecord]) {
        const NAMESPACE: u32 = record::DescriptorKind::Namespace as u32;
        const QUEUE: u32 = record::DescriptorKind::Queue as u32;
        for one in records {
            let (of, ipc_ns) = match one.of {
                // Of any kind: only those of IPC namespaces are used.
                NAMESPACE => (DescriptorOf::Namespace, one.ino as u32),
                QUEUE => (DescriptorOf::Queue, one.ipc_ns),
                _ => (DescriptorOf::Sysvipc, one.ipc_ns),
            };
            let name = one.name.get(..one.name_len as usize).unwrap_or_default();
            let named = one.header.flags & flag::DETAIL != 0;
            self.descriptors.push(Descriptor {
                pid: one.pid,
                fd: one.fd,
                of,
                belongs: Belongs::Namespace(ipc_ns),
                name: named.then(|| OsBytes(name.to_vec().into())),
                unlinked: (of == DescriptorOf::Queue && one.links == 0).then_some(one.ino),
            });
        }
    }

    /// Adds mappings that the kernel lists. It lists one again for each thread that does not share its process's
    /// descriptors.
    pub(crate) fn add_mappings(&mut self, records: &[MappingRecord]) {
        let distinct: BTreeMap<_, _> =
            records.iter().map(|one| ((one.pid, one.start), one)).collect();
        self.mappings.extend(distinct.into_values().map(|one| HeldMapping {
            pid: one.pid,
            shmid: one.shmid,
            ipc_ns: Some(one.ipc_ns),
            key: None,
            bytes: one.end.saturating_sub(one.start),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_matches_stat() {
        assert_eq!(device(0x13), Some(libc::makedev(0, 0x13)));
        assert_eq!(device(8 << 20 | 0x1_2345), Some(libc::makedev(8, 0x1_2345)));
        assert_eq!(device(0), None);
    }
}
