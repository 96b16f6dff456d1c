//! References to namespaces and queues, which records of all kinds use.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One generation of an IPC namespace's inode number.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
)]
#[repr(C)]
pub struct NsRef {
    /// The inode number that `/proc/PID/ns/ipc` shows; `0`: none
    pub inum: u32,
    /// The generation of that number within this run, from 1
    pub generation: u32,
}

/// A POSIX queue, as found behind a descriptor.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct QueueRef {
    /// The queue's namespace; `inum` 0: none, or dead
    pub ns: NsRef,
    /// The queue's inode number; `0`: the descriptor isn't a queue, or nothing is known
    pub ino: u64,
    /// The device number of its mqueue file system
    pub dev: u32,
    /// Bits of `queue_flag`
    pub flags: u32,
}

/// Bits of [`QueueRef::flags`].
pub mod queue_flag {
    /// It was read; without this bit nothing is known.
    pub const KNOWN: u32 = 1;
    /// Its namespace is not the caller's.
    pub const FOREIGN: u32 = 1 << 1;
    /// Its namespace is dead.
    pub const DEAD: u32 = 1 << 2;
}

/// Bytes kept of a file's name: `NAME_MAX` and the terminating NUL.
pub const NAME_LEN: usize = 256;

const _: () = assert!(size_of::<QueueRef>() == 24);
