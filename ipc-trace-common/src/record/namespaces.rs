//! Namespaces, and threads that entered them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{header::Header, refs::NsRef};

/// A namespace: its first appearance in a ring, or its line in the namespace list.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NamespaceRecord {
    /// `FOUND`
    pub header: Header,
    /// When it was seen
    pub boot_ns: u64,
    /// The namespace; in the namespace list, generation `0`: it is being created
    pub ns: NsRef,
    /// The kernel's unique id (`ns_id`); `0`: it has none
    pub ns_id: u64,
    /// In the namespace list: the device number of its mqueue file system, as the kernel has it (`dev_t`,
    /// include/linux/kdev_t.h)
    pub mqueue_dev: u32,
    /// In the namespace list: the number of POSIX queues counted against its limit; [`UNKNOWN_COUNT`]: not known
    pub mq_queues: u32,
}

/// [`NamespaceRecord::mq_queues`] if the kernel does not report it.
pub const UNKNOWN_COUNT: u32 = u32::MAX;

/// How a thread entered a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum NsSwitchKind {
    /// `clone` with `CLONE_NEWIPC`: the namespace is new, the thread too
    Clone = 1,
    /// `unshare`: the namespace is new
    Unshare = 2,
    /// `setns`: the namespace existed
    Setns = 3,
}

/// A thread entered another namespace.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NsSwitchRecord {
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
    /// The namespace that the thread left
    pub from: NsRef,
    /// The namespace of the thread now: the same thread, or with [`NsSwitchKind::Clone`] the new one
    pub to: NsRef,
    /// With [`NsSwitchKind::Clone`]: the new thread
    pub child_context: u64,
    /// Its tid
    pub child_tid: u32,
    /// Its process
    pub child_pid: u32,
    /// The kernel's unique id of the new namespace (`ns_id`); `0`: it has none
    pub ns_id: u64,
    /// A [`NsSwitchKind`]
    pub way: u32,
    /// Padding
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<NamespaceRecord>() == 40);
    assert!(size_of::<NsSwitchRecord>() == 80);
};
