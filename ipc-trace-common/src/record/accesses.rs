//! Queues' names, and accesses to a namespace's objects without an IPC call.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    header::Header,
    refs::{NAME_LEN, NsRef, QueueRef},
};

/// A queue's name, sent before the first call that refers to the queue by descriptor.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct QueueRecord {
    /// `DETAIL`: the name is valid
    pub header: Header,
    /// When
    pub boot_ns: u64,
    /// The queue
    pub queue: QueueRef,
    /// Bytes of `name`
    pub name_len: u32,
    /// Padding
    pub reserved: u32,
    /// The file's name, without a slash, any bytes
    pub name: [u8; NAME_LEN],
}

/// An access path to an IPC namespace's objects without an IPC call. The value in [`Header::code`] of an
/// [`AccessRecord`]; readers treat other values as unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum AccessPath {
    /// A queue's file was opened by its path in an mqueue file system
    QueueOpen = 1,
    /// A queue was created by its path
    QueueCreate = 2,
    /// A queue was unlinked by its path
    QueueUnlink = 3,
    /// A queue's state was read from its file
    QueueRead = 4,
    /// A queue's descriptor was polled
    QueuePoll = 5,
    /// The root of an mqueue file system was opened
    QueueList = 6,
    /// An mqueue file system was mounted that belongs to another namespace (`fsopen`)
    QueueMount = 7,
    /// A descriptor of a queue was received: over a socket, by `pidfd_getfd`
    QueueReceived = 8,
    /// A mapped segment was touched
    MappingTouched = 9,
    /// A segment is mapped
    MappingHeld = 10,
    /// A segment was opened through `/proc/PID/map_files`
    MapFiles = 11,
    /// A file of `/proc/sysvipc` was read
    SysvipcRead = 12,
    /// A file of `/proc/sysvipc` is held
    SysvipcHeld = 13,
    /// A setting of a namespace was written
    SettingWritten = 14,
    /// A segment was destroyed
    SegmentDestroyed = 15,
}

impl AccessPath {
    /// All access paths, in the order of their numbers from 1.
    pub const ALL: [Self; 15] = [
        Self::QueueOpen,
        Self::QueueCreate,
        Self::QueueUnlink,
        Self::QueueRead,
        Self::QueuePoll,
        Self::QueueList,
        Self::QueueMount,
        Self::QueueReceived,
        Self::MappingTouched,
        Self::MappingHeld,
        Self::MapFiles,
        Self::SysvipcRead,
        Self::SysvipcHeld,
        Self::SettingWritten,
        Self::SegmentDestroyed,
    ];
}

/// A thread accessed an object of an IPC namespace that is not its own, or may not be: sent unless the eBPF programs
/// have seen that they are the same.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct AccessRecord {
    /// Its code is an [`AccessPath`]; `DETAIL`: the name is valid
    pub header: Header,
    /// When
    pub boot_ns: u64,
    /// With the tid: which `ContextRecord` describes the thread; `0` where none could be sent
    pub context: u64,
    /// The thread, in the initial pid namespace
    pub tid: u32,
    /// Its process
    pub pid: u32,
    /// Effective user, in the initial user namespace
    pub euid: u32,
    /// Effective group, likewise
    pub egid: u32,
    /// The thread's IPC namespace
    pub ns: NsRef,
    /// The object and its namespace: for a queue as in other records; for a segment `ino` is its id, for others `0`.
    /// Without `KNOWN` user space finds the namespace otherwise.
    pub object: QueueRef,
    /// The segment's key
    pub key: u32,
    /// How many such accesses this record stands for, at least 1
    pub count: u32,
    /// Distinguishes the file from all others that exist, if the eBPF programs know it; else `0`
    pub file: u64,
    /// The thread's name
    pub comm: [u8; 16],
    /// Bytes of `name`
    pub name_len: u32,
    /// Padding
    pub reserved: u32,
    /// The name of the file, without a slash, any bytes
    pub name: [u8; NAME_LEN],
}

const _: () = {
    assert!(size_of::<QueueRecord>() == 48 + NAME_LEN);
    assert!(size_of::<AccessRecord>() == 112 + NAME_LEN);
};
