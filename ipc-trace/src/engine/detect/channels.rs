//! Ways to what belongs to an IPC namespace that are no operations: what classes say of each, a row each.

use ipc_trace_common::record::Channel;

use super::observation::Extent;
use crate::event::finding::Class;

/// What is reached by a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AccessTarget {
    /// A queue
    Queue,
    /// A file system, with all queues of a namespace
    Queues,
    /// A segment: whose it is can be told by other means than the record's
    Segment,
    /// A table of `/proc/sysvipc`
    Table,
    /// A setting
    Setting,
}

/// What there is to say of a way.
#[derive(Clone, Copy, Debug)]
pub(super) struct AccessPathRow {
    /// The class whose finding it is
    pub(super) class: Class,
    /// What is reached
    pub(super) reached: AccessTarget,
    /// Whether it is used by that
    pub(super) extent: Extent,
    /// What was done, as a title says it
    pub(super) did: &'static str,
    /// What was done, as evidence says it
    pub(super) what: &'static str,
    /// How sure it is
    pub(super) weight: i32,
    /// Why it is so sure
    pub(super) reason: &'static str,
}

const FILE_SYSTEM: &str =
    "the eBPF programs read the file system's namespace and the thread's in the same moment";

/// The table.
pub(super) const fn row(channel: Channel) -> AccessPathRow {
    use AccessTarget::{Queue, Queues, Segment, Setting, Table};
    use Extent::{Held, Used};
    const MOUNT: Class = Class::ForeignMount;
    const OBJECT: Class = Class::ForeignObject;
    const MAPPING: Class = Class::CarriedMapping;
    const VIEW: Class = Class::ForeignView;
    let (class, reached, extent, did, what, weight, reason) = match channel {
        Channel::QueueOpen => {
            (MOUNT, Queue, Used, "opened", "queue opened by its path", 95, FILE_SYSTEM)
        }
        Channel::QueueCreate => {
            (MOUNT, Queue, Used, "made", "queue made by its path", 95, FILE_SYSTEM)
        }
        Channel::QueueUnlink => {
            (MOUNT, Queue, Used, "unlinked", "queue unlinked by its path", 95, FILE_SYSTEM)
        }
        Channel::QueueRead => {
            (MOUNT, Queue, Used, "read the state of", "queue's file read", 95, FILE_SYSTEM)
        }
        Channel::QueuePoll => (MOUNT, Queue, Used, "polled", "queue polled", 95, FILE_SYSTEM),
        Channel::QueueList => (
            MOUNT,
            Queues,
            Used,
            "listed the queues of",
            "mqueue file system's root opened",
            95,
            FILE_SYSTEM,
        ),
        Channel::QueueMount => (
            MOUNT,
            Queues,
            Used,
            "mounted the queues of",
            "mqueue file system mounted",
            95,
            FILE_SYSTEM,
        ),
        Channel::QueueReceived => (
            OBJECT,
            Queue,
            Held,
            "was handed a descriptor of",
            "descriptor received",
            60,
            "the eBPF programs saw the descriptor arrive",
        ),
        Channel::MappingTouched => (
            MAPPING,
            Segment,
            Used,
            "touched shared memory",
            "mapped segment touched",
            95,
            "the eBPF programs saw the page fault, and read both namespaces",
        ),
        Channel::MappingHeld => (
            MAPPING,
            Segment,
            Held,
            "still has shared memory mapped",
            "mapped segment held",
            85,
            "the eBPF programs saw the mapping, and read both namespaces",
        ),
        Channel::MapFiles => (
            MAPPING,
            Segment,
            Used,
            "opened shared memory through /proc/PID/map_files",
            "segment opened through map_files",
            90,
            "the eBPF programs saw the segment's own file being opened",
        ),
        Channel::SysvipcRead => (
            VIEW,
            Table,
            Used,
            "read",
            "file of /proc/sysvipc read",
            95,
            "the eBPF programs compared the file's namespace with the thread's when it was read",
        ),
        Channel::SysvipcHeld => (
            VIEW,
            Table,
            Held,
            "holds open",
            "file of /proc/sysvipc held",
            80,
            "the file was opened in that namespace, and is still open; whether it is read is not seen",
        ),
        Channel::SettingWritten => (
            VIEW,
            Setting,
            Used,
            "wrote the setting",
            "setting written",
            95,
            "the eBPF programs compared the setting's namespace with the thread's",
        ),
        Channel::SegmentDestroyed => (
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
