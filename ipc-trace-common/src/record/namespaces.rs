//! Namespaces, and who got into them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{header::Header, refs::NsRef};

/// A namespace: its first appearance in a ring, or its line in the census.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NamespaceRecord {
    /// `FOUND`
    pub header: Header,
    /// When it was seen
    pub boot_ns: u64,
    /// Which; in the census, generation `0`: it is being made
    pub ns: NsRef,
    /// The kernel's own number; `0`: it has none
    pub ns_id: u64,
    /// In the census: the device number of its mqueue file system, as the kernel has it (`dev_t`,
    /// include/linux/kdev_t.h)
    pub mqueue_dev: u32,
    /// In the census: the POSIX queues that count for its limit; [`UNKNOWN_COUNT`]: not known
    pub mq_queues: u32,
}

/// [`NamespaceRecord::mq_queues`] where the kernel does not tell.
pub const UNKNOWN_COUNT: u32 = u32::MAX;

/// How a thread got into a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Way {
    /// `clone` with `CLONE_NEWIPC`: the namespace is new, the thread too
    Clone = 1,
    /// `unshare`: the namespace is new
    Unshare = 2,
    /// `setns`: the namespace existed
    Setns = 3,
}

/// A thread got into another namespace.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MoveRecord {
    /// `TRACER`
    pub header: Header,
    /// When
    pub boot_ns: u64,
    /// The thread that made the call
    pub context: u64,
    /// Its tid
    pub tid: u32,
    /// Its process
    pub pid: u32,
    /// Where it was
    pub from: NsRef,
    /// Where the thread is now: the same one, or with [`Way::Clone`] the new one
    pub to: NsRef,
    /// With [`Way::Clone`]: the new thread
    pub child_context: u64,
    /// Its tid
    pub child_tid: u32,
    /// Its process
    pub child_pid: u32,
    /// The namespace's own number; `0`: it has none
    pub ns_id: u64,
    /// A [`Way`]
    pub way: u32,
    /// Padding
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<NamespaceRecord>() == 40);
    assert!(size_of::<MoveRecord>() == 80);
};
