//! Access paths to an IPC namespace's objects other than IPC operations: one row each, with the class and its
//! texts.

use ipc_trace_common::record::AccessPath;

use super::observation::Extent;
use crate::event::finding::Class;

/// What an access path reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AccessTarget {
    /// A POSIX message queue.
    Queue,
    /// An mqueue file system, with all queues of a namespace.
    Queues,
    /// A shared memory segment. Its namespace can be determined by other means than the record's.
    Segment,
    /// A table of `/proc/sysvipc`.
    Table,
    /// A sysctl of the namespace.
    Setting,
}

/// The row of an access path.
#[derive(Clone, Copy, Debug)]
pub(super) struct AccessPathRow {
    /// The class of the finding.
    pub(super) class: Class,
    /// What is reached.
    pub(super) reached: AccessTarget,
    /// Whether the access uses the object or only holds it.
    pub(super) extent: Extent,
    /// The verb phrase of the title.
    pub(super) did: &'static str,
    /// The description in the evidence.
    pub(super) what: &'static str,
    /// The weight of the reason.
    pub(super) weight: i32,
    /// The text of the reason.
    pub(super) reason: &'static str,
}

const FILE_SYSTEM: &str =
    "the eBPF programs read the file system's namespace and the thread's in the same moment";

/// The row of an access path.
pub(super) const fn row(channel: AccessPath) -> AccessPathRow {
    use AccessTarget::{Queue, Queues, Segment, Setting, Table};
    use Extent::{Held, Used};
    const MOUNT: Class = Class::ForeignMount;
    const OBJECT: Class = Class::ForeignObject;
    const MAPPING: Class = Class::CarriedMapping;
    const VIEW: Class = Class::ForeignView;
    let (class, reached, extent, did, what, weight, reason) = match channel {
        AccessPath::QueueOpen => {
            (MOUNT, Queue, Used, "opened", "queue opened by its path", 95, FILE_SYSTEM)
        }
        AccessPath::QueueCreate => {
            (MOUNT, Queue, Used, "made", "queue made by its path", 95, FILE_SYSTEM)
        }
        AccessPath::QueueUnlink => {
            (MOUNT, Queue, Used, "unlinked", "queue unlinked by its path", 95, FILE_SYSTEM)
        }
        AccessPath::QueueRead => {
            (MOUNT, Queue, Used, "read the state of", "queue's file read", 95, FILE_SYSTEM)
        }
        AccessPath::QueuePoll => (MOUNT, Queue, Used, "polled", "queue polled", 95, FILE_SYSTEM),
        AccessPath::QueueList => (
            MOUNT,
            Queues,
            Used,
            "listed the queues of",
            "mqueue file system's root opened",
            95,
            FILE_SYSTEM,
        ),
        AccessPath::QueueMount => (
            MOUNT,
            Queues,
            Used,
            "mounted the queues of",
            "mqueue file system mounted",
            95,
            FILE_SYSTEM,
        ),
        AccessPath::QueueReceived => (
            OBJECT,
            Queue,
            Held,
            "was handed a descriptor of",
            "descriptor received",
            60,
            "the eBPF programs saw the descriptor arrive",
        ),
        AccessPath::MappingTouched => (
            MAPPING,
            Segment,
            Used,
            "touched shared memory",
            "mapped segment touched",
            95,
            "the eBPF programs saw the page fault, and read both namespaces",
        ),
        AccessPath::MappingHeld => (
            MAPPING,
            Segment,
            Held,
            "still has shared memory mapped",
            "mapped segment held",
            85,
            "the eBPF programs saw the mapping, and read both namespaces",
        ),
        AccessPath::MapFiles => (
            MAPPING,
            Segment,
            Used,
            "opened shared memory through /proc/PID/map_files",
            "segment opened through map_files",
            90,
            "the eBPF programs saw the segment's own file being opened",
        ),
        AccessPath::SysvipcRead => (
            VIEW,
            Table,
            Used,
            "read",
            "file of /proc/sysvipc read",
            95,
            "the eBPF programs compared the file's namespace with the thread's when it was read",
        ),
        AccessPath::SysvipcHeld => (
            VIEW,
            Table,
            Held,
            "holds open",
            "file of /proc/sysvipc held",
            80,
            "the file was opened in that namespace, and is still open; whether it is read is not seen",
        ),
        AccessPath::SettingWritten => (
            VIEW,
            Setting,
            Used,
            "wrote the setting",
            "setting written",
            95,
            "the eBPF programs compared the setting's namespace with the thread's",
        ),
        AccessPath::SegmentDestroyed => (
            MAPPING,
            Segment,
            Used,
            "destroyed shared memory by ending (kernel.shm_rmid_forced)",
            "segment destroyed",
            85,
            "the eBPF programs saw it, and read both namespaces",
        ),
    };
    AccessPathRow { class, reached, extent, did, what, weight, reason }
}
