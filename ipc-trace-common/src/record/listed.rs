//! What iterators list: the namespace list ([`PendingRecord`], [`EndRecord`]) and the task iterator.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    header::Header,
    refs::{NAME_LEN, NsRef, QueueRef},
};

/// A call that has not returned yet, as the namespace list finds it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PendingRecord {
    /// ABI and code
    pub header: Header,
    /// When it entered the kernel
    pub enter_boot_ns: u64,
    /// Its thread's context; `0`: none was sent
    pub context: u64,
    /// The thread
    pub tid: u32,
    /// The process
    pub pid: u32,
    /// The caller's namespace
    pub ns: NsRef,
    /// The queue behind the descriptor
    pub queue: QueueRef,
    /// The first argument: semid, msqid or mqdes
    pub arg0: u64,
    /// The thread's name
    pub comm: [u8; 16],
}

/// The end of a namespace list: without it the list is incomplete.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EndRecord {
    /// `TRUNCATED`: more namespaces exist than could be listed
    pub header: Header,
    /// When the namespace list began
    pub boot_ns: u64,
    /// Namespaces listed; `u64::MAX`: they could not be listed
    pub namespaces: u64,
    /// The process that reads the namespace list, in the initial pid namespace
    pub self_pid: u32,
    /// Inode number of its IPC namespace, as the programs read it
    pub self_ns_inum: u32,
}

impl EndRecord {
    /// Whether all namespaces were listed.
    pub const fn is_complete(&self) -> bool {
        self.header.flags & super::flag::TRUNCATED == 0 && self.namespaces != u64::MAX
    }
}

/// A thread that exists, as a task iterator finds it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TaskRecord {
    /// No flags
    pub header: Header,
    /// When its process started
    pub start_boot_ns: u64,
    /// The thread, in the initial pid namespace
    pub tid: u32,
    /// Its process
    pub pid: u32,
    /// The parent process
    pub ppid: u32,
    /// Effective user
    pub euid: u32,
    /// Effective group
    pub egid: u32,
    /// Inode number of its IPC namespace; `0`: the thread is ending and has none
    pub ipc_ns: u32,
    /// Inode number of its pid namespace; `0`: unknown
    pub pid_ns: u32,
    /// Inode number of its mount namespace
    pub mnt_ns: u32,
    /// Inode number of its user namespace
    pub user_ns: u32,
    /// Padding
    pub reserved: u32,
    /// The thread's name, NUL-padded, any bytes
    pub comm: [u8; 16],
}

/// The kind of a descriptor's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DescriptorKind {
    /// A namespace of any kind: `ino` is its number
    Namespace = 1,
    /// A queue, or the root of an mqueue file system
    Queue = 2,
    /// A file of `/proc/sysvipc`
    Sysvipc = 3,
}

/// A descriptor related to an IPC namespace.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DescriptorRecord {
    /// `DETAIL`: the name is valid
    pub header: Header,
    /// The file's inode number
    pub ino: u64,
    /// The process that has it
    pub pid: u32,
    /// The thread of that process through which it was found
    pub tid: u32,
    /// The descriptor's number
    pub fd: u32,
    /// A [`DescriptorKind`]
    pub of: u32,
    /// Inode number of the IPC namespace that the file belongs to; `0`: that namespace is dead
    pub ipc_ns: u32,
    /// Links to the file: `0` is a queue that was unlinked
    pub links: u32,
    /// Bytes of `name`
    pub name_len: u32,
    /// Padding
    pub reserved: u32,
    /// The file's name, without a slash but for the root's, any bytes
    pub name: [u8; NAME_LEN],
}

/// A mapped shared memory segment.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MappingRecord {
    /// No flags
    pub header: Header,
    /// Where the mapping starts
    pub start: u64,
    /// Where it ends
    pub end: u64,
    /// The process that has it
    pub pid: u32,
    /// The segment
    pub shmid: i32,
    /// Inode number of the segment's IPC namespace
    pub ipc_ns: u32,
    /// Padding
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<TaskRecord>() == 72);
    assert!(size_of::<DescriptorRecord>() == 48 + NAME_LEN);
    assert!(size_of::<MappingRecord>() == 40);
    assert!(size_of::<PendingRecord>() == 88);
    assert!(size_of::<EndRecord>() == 32);
};
