//! Calls of one thread in one record.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    header::Header,
    refs::{NsRef, QueueRef},
};

/// One call of a [`BatchRecord`]: of an operation that can block.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BatchedCall {
    /// When it returned
    pub boot_ns: u64,
    /// Time in the kernel, or `NO_DURATION`
    pub duration_ns: u64,
    /// The raw result, of operations that give an `int`
    pub ret: i32,
    /// msgsnd, mq_send: the message's length
    pub size: u32,
    /// What was called: see [`PackedCall`]
    pub what: u64,
}

/// What was called, and on which object, in one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedCall {
    /// The System V object, or the key that it was looked for by, or the queue's descriptor
    pub id: i32,
    /// A number of `Abi`
    pub abi: u8,
    /// A `Code`
    pub code: u8,
}

impl PackedCall {
    /// Its number.
    pub const fn packed(self) -> u64 {
        self.id as u32 as u64 | (self.abi as u64) << 32 | (self.code as u64) << 40
    }

    /// What a number means.
    pub const fn unpacked(what: u64) -> Self {
        Self { id: what as i32, abi: (what >> 32) as u8, code: (what >> 40) as u8 }
    }
}

/// Calls in a [`BatchRecord`], at most.
pub const BATCH: usize = 32;

/// Calls of one thread, from one namespace, that returned one after another, where calls are counted
/// and not shown: one record costs less than many.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BatchHead {
    /// No flags
    pub header: Header,
    /// As in a `CallRecord`
    pub context: u64,
    /// The thread, in the initial pid namespace
    pub tid: u32,
    /// The process, in the initial pid namespace
    pub pid: u32,
    /// The thread's IPC namespace
    pub ns: NsRef,
    /// Effective user at a call before these, in the initial user namespace
    pub euid: u32,
    /// Effective group, likewise
    pub egid: u32,
    /// The thread's name then
    pub comm: [u8; 16],
    /// The queue of all calls on queues that are among these
    pub queue: QueueRef,
    /// How many [`BatchedCall`]s follow: 1 to [`BATCH`]
    pub count: u32,
    /// Padding
    pub reserved: u32,
}

/// A [`BatchHead`] with room for all that can follow; in the ring lie those alone that there are.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BatchRecord {
    /// What they have in common
    pub head: BatchHead,
    /// Each
    pub outcomes: [BatchedCall; BATCH],
}

const _: () = {
    assert!(size_of::<BatchedCall>() == 32);
    assert!(size_of::<BatchHead>() == 88);
    assert!(size_of::<BatchRecord>() == 88 + 32 * BATCH);
};
