//! Queues: their names, and the namespaces of their file systems.

use std::borrow::Cow;

use ipc_trace_common::record::{NAME_LEN, NsRef, QueueRecord, QueueRef, flag, queue_flag};
use minicbor::{Decode, Encode};

use super::two_gen::TwoGenCache;
use crate::{
    event::{ReadFrom, value::OsBytes},
    input::Call,
    input::CallPayload,
};

/// A queue: device number of its file system, inode number.
type QueueKey = (u32, u64);

/// The queues' names and namespaces.
#[derive(Debug, Default, Encode, Decode)]
pub(crate) struct Queues {
    #[n(0)]
    names: TwoGenCache<QueueKey, (Box<[u8]>, ReadFrom)>,
    #[n(1)]
    namespaces: TwoGenCache<u32, NsRef>,
}

impl Queues {
    /// Adds a queue's record.
    pub(crate) fn insert(&mut self, record: &QueueRecord) {
        self.remember_namespace(&record.queue);
        if record.header.flags & flag::DETAIL != 0 {
            let len = (record.name_len as usize).min(NAME_LEN);
            let name = record.name.get(..len).unwrap_or_default();
            self.remember_name(&record.queue, name, ReadFrom::Kernel);
        }
    }

    /// Adds a queue found by a snapshot.
    pub(crate) fn insert_from_snapshot(&mut self, queue: &QueueRef, name: &[u8]) {
        self.remember_namespace(queue);
        self.remember_name(queue, name, ReadFrom::Kernel);
    }

    /// Adds a queue opened by a call. The name passed by the caller is used only until the queue's own is
    /// known.
    pub(crate) fn opened(&mut self, call: &Call<'_>) {
        if let CallPayload::Name(part) = call.part
            && part.queue.flags & queue_flag::KNOWN != 0
            && call.has(flag::DETAIL)
        {
            self.remember_namespace(&part.queue);
            let name = part.name.get(..part.name_len as usize).unwrap_or_default();
            self.remember_name(&part.queue, name, call.args_from());
        }
    }

    fn remember_namespace(&mut self, queue: &QueueRef) {
        if queue.flags & queue_flag::DEAD == 0
            && queue.ns.inum != 0
            && self.namespaces.get(&queue.dev) != Some(&queue.ns)
        {
            self.namespaces.insert(queue.dev, queue.ns);
        }
    }

    /// Keeps a known name rather than one from a weaker source.
    fn remember_name(&mut self, queue: &QueueRef, name: &[u8], from: ReadFrom) {
        let key = (queue.dev, queue.ino);
        let better =
            |known: &(Box<[u8]>, ReadFrom)| from < known.1 || from == known.1 && *known.0 != *name;
        if self.names.get(&key).is_none_or(better) {
            self.names.insert(key, (name.into(), from));
        }
    }

    /// A queue's name and its source.
    #[must_use]
    pub(crate) fn name(&self, queue: &QueueRef) -> Option<(OsBytes<'_>, ReadFrom)> {
        if queue.flags & queue_flag::KNOWN == 0 {
            return None;
        }
        let (name, from) = self.names.get(&(queue.dev, queue.ino))?;
        Some((OsBytes(Cow::Borrowed(&**name)), *from))
    }

    /// The namespace that a file system belonged to while it was alive.
    #[must_use]
    pub(crate) fn namespace_of(&self, dev: u32) -> Option<NsRef> {
        self.namespaces.get(&dev).copied()
    }

    /// Number of evicted names and file systems.
    #[must_use]
    #[cfg(test)]
    pub(crate) fn forgotten(&self) -> u64 {
        self.names.forgotten() + self.namespaces.forgotten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::track::two_gen::MAX_ENTRIES;
    use zerocopy::FromZeros as _;

    fn record(dev: u32, ino: u64, ns: NsRef, name: &[u8], flags: u32) -> QueueRecord {
        let mut record = QueueRecord::new_zeroed();
        record.header.flags = flag::DETAIL;
        record.queue = QueueRef { ns, ino, dev, flags: queue_flag::KNOWN | flags };
        record.name_len = name.len() as u32;
        record.name[..name.len()].copy_from_slice(name);
        record
    }

    const NS: NsRef = NsRef { inum: 4_026_532_200, generation: 2 };

    #[test]
    fn the_namespace_of_a_dead_file_system_is_kept() {
        let mut queues = Queues::default();
        queues.insert(&record(9, 5, NS, b"jobs", 0));
        let dead = record(9, 5, NsRef::default(), b"jobs", queue_flag::DEAD);
        queues.insert(&dead);
        assert_eq!(queues.namespace_of(9), Some(NS));
        assert_eq!(queues.name(&dead.queue).unwrap().0.to_str(), "jobs");
        assert_eq!(queues.namespace_of(8), None);
    }

    #[test]
    fn a_reused_device_number_maps_to_the_new_namespace() {
        let mut queues = Queues::default();
        queues.insert(&record(9, 5, NS, b"a", 0));
        let next = NsRef { generation: 3, ..NS };
        queues.insert(&record(9, 6, next, b"b", 0));
        assert_eq!(queues.namespace_of(9), Some(next));
    }

    #[test]
    fn names_are_bounded_and_evictions_counted() {
        let mut queues = Queues::default();
        for ino in 0..2 * MAX_ENTRIES as u64 {
            queues.insert(&record(1, ino, NS, b"q", 0));
        }
        assert!(queues.names.len() <= MAX_ENTRIES);
        assert!(queues.forgotten() >= MAX_ENTRIES as u64);
    }
}
