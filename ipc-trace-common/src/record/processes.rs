//! Descriptions of threads, ends of threads, and the cgroups by which containers are identified.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{header::Header, refs::NsRef};

/// Bytes of [`ContextRecord::exe`] that can be used.
pub const EXE_LEN: usize = 1024;

/// Bytes kept of a process's arguments.
pub const ARGS_LEN: usize = 512;

/// The largest number of ancestors in a context.
pub const ANCESTORS: usize = 8;

/// The largest number of extents stored inside a user namespace's map (`UID_GID_MAP_MAX_BASE_EXTENTS`,
/// include/linux/user_namespace.h); a map with more extents is not read here.
pub const UID_EXTENTS: usize = 5;

/// An ancestor of a process.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct AncestorRecord {
    /// When it started
    pub start_boot_ns: u64,
    /// Its cgroup, as [`ContextRecord::cgroup`]
    pub cgroup: u64,
    /// The name of its first thread
    pub comm: [u8; 16],
    /// Its pid, in the initial pid namespace
    pub pid: u32,
    /// Padding
    pub reserved: u32,
}

/// A part of a user namespace's map (`struct uid_gid_extent`, include/linux/user_namespace.h).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct UidExtent {
    /// The first user, in the namespace
    pub first: u32,
    /// The first user, in the initial namespace
    pub lower_first: u32,
    /// The number of users
    pub count: u32,
}

/// A description of a thread: sent once, before its first call, and again after exec, setns, unshare and a move to
/// another cgroup. With `DETAIL`, [`ARGS_LEN`] bytes follow: the first `args_len` are the process's arguments as they
/// lie in its memory, each followed by a NUL.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ContextRecord {
    /// `TRUNCATED` and `DELETED` refer to `exe`, `FAULT` to the arguments; `CUT`: there are more ancestors
    pub header: Header,
    /// When it was made
    pub boot_ns: u64,
    /// The number by which calls refer to it
    pub context: u64,
    /// When the process started
    pub start_boot_ns: u64,
    /// The thread, in the initial pid namespace
    pub tid: u32,
    /// The process
    pub pid: u32,
    /// The parent process
    pub ppid: u32,
    /// Effective user
    pub euid: u32,
    /// Effective group
    pub egid: u32,
    /// Inode number of its pid namespace; `0`: unknown
    pub pid_ns: u32,
    /// Inode number of its mount namespace
    pub mnt_ns: u32,
    /// Inode number of its user namespace
    pub user_ns: u32,
    /// Its IPC namespace
    pub ns: NsRef,
    /// Its cgroup, in the hierarchy that user space chose; `0`: unknown
    pub cgroup: u64,
    /// The thread's name
    pub comm: [u8; 16],
    /// Effective capabilities, as bits
    pub capabilities: u64,
    /// The arguments' length, even if not all of them fit
    pub args_len: u64,
    /// Its tid in its own pid namespace; `0`: unknown
    pub ns_pid: u32,
    /// Extents of its user namespace's map; more than [`UID_EXTENTS`]: `uid_map` is not filled
    pub uid_extents: u32,
    /// The user namespace's map
    pub uid_map: [UidExtent; UID_EXTENTS],
    /// How many `ancestors` there are
    pub ancestor_count: u32,
    /// Its parent, its parent's parent, and so on
    pub ancestors: [AncestorRecord; ANCESTORS],
    /// Bytes used of `exe`
    pub exe_len: u32,
    /// Padding
    pub reserved: u32,
    /// The executable's path, last component first, each followed by a NUL
    pub exe: [u8; EXE_LEN],
}

/// A thread whose context was sent has ended.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ExitRecord {
    /// No flags
    pub header: Header,
    /// When
    pub boot_ns: u64,
    /// Its last context
    pub context: u64,
    /// The thread
    pub tid: u32,
    /// The process
    pub pid: u32,
}

/// Bytes kept of a cgroup's path: the kernel's limit at its tracepoints (`TRACE_CGROUP_PATH_LEN`,
/// kernel/cgroup/cgroup-internal.h).
pub const CGROUP_PATH_LEN: usize = 1024;

/// A cgroup of the hierarchy that user space chose was created or removed.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CgroupRecord {
    /// `DELETED`: it was removed
    pub header: Header,
    /// When
    pub boot_ns: u64,
    /// Its number, which is never reused (`kernfs_node.id`)
    pub id: u64,
    /// Bytes of `path`
    pub path_len: u32,
    /// Padding
    pub reserved: u32,
    /// From the root of the hierarchy, any bytes; missing if it was removed
    pub path: [u8; CGROUP_PATH_LEN],
}

const _: () = {
    assert!(size_of::<AncestorRecord>() == 40);
    assert!(size_of::<UidExtent>() == 12);
    assert!(size_of::<ContextRecord>() == 192 + 40 * ANCESTORS + EXE_LEN);
    assert!(size_of::<CgroupRecord>() == 32 + CGROUP_PATH_LEN);
    assert!(size_of::<ExitRecord>() == 32);
};
