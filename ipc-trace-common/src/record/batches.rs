//! Calls of one thread in one record.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    header::Header,
    refs::{NsRef, QueueRef},
};

/// Equal calls of a [`BatchRecord`]: the same operation on the same object, with the same error if they failed.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BatchedGroup {
    /// A packed [`PackedCall`], and the error's number in the upper 16 bits; `0`: there is no such group
    pub what: u64,
    /// How many calls
    pub count: u64,
    /// When the last one returned
    pub last_ns: u64,
    /// msgsnd, mq_send that succeeded: the sum of the messages' lengths
    pub sent: u64,
    /// msgrcv, mq_receive that succeeded: the sum of the results
    pub results: u64,
}

impl BatchedGroup {
    /// Where the error's number begins in [`Self::what`].
    pub const ERROR_SHIFT: u32 = 48;

    /// The error's number; `0`: the calls succeeded.
    pub const fn error(&self) -> u16 {
        (self.what >> Self::ERROR_SHIFT) as u16
    }
}

/// How long a call of a [`BatchRecord`] took, and its group, in one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct BatchedDuration(pub u32);

impl BatchedDuration {
    /// How many bits the time has, in nanoseconds; above it is the group's index.
    pub const NS_BITS: u32 = u32::BITS - GROUPS.ilog2();
    /// The longest time.
    pub const MAX_NS: u64 = (1 << Self::NS_BITS) - 1;

    /// The time in the kernel, in nanoseconds; of lookups, which can't block, 0.
    pub const fn ns(self) -> u64 {
        self.0 as u64 & Self::MAX_NS
    }

    /// The index of the group.
    pub const fn group(self) -> usize {
        (self.0 >> Self::NS_BITS) as usize
    }
}

/// The operation and its object, in one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedCall {
    /// The System V id, or the key that was looked up, or the queue's descriptor
    pub id: i32,
    /// A number of `Abi`
    pub abi: u8,
    /// A `SyscallCode`
    pub code: u8,
}

impl PackedCall {
    /// The packed number.
    pub const fn packed(self) -> u64 {
        self.id as u32 as u64 | (self.abi as u64) << 32 | (self.code as u64) << 40
    }

    /// Unpacks a number.
    pub const fn unpacked(what: u64) -> Self {
        Self { id: what as i32, abi: (what >> 32) as u8, code: (what >> 40) as u8 }
    }
}

/// The largest number of calls in a [`BatchRecord`].
pub const BATCH: usize = 256;
/// The largest number of groups of equal calls in a [`BatchRecord`].
pub const GROUPS: usize = 16;
/// The longest time between the first and the last call of a [`BatchRecord`], so that the last one's time does for
/// all.
pub const BATCH_NS: u64 = 1_000_000_000;

/// Consecutive calls of one thread from one namespace, where calls are counted but not shown: one record costs less
/// than many.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BatchHead {
    /// `flag::UNTIMED`, or no flag
    pub header: Header,
    /// As in a `CallRecord`
    pub context: u64,
    /// The thread, in the initial pid namespace
    pub tid: u32,
    /// The process, in the initial pid namespace
    pub pid: u32,
    /// The thread's IPC namespace
    pub ns: NsRef,
    /// Effective user at an earlier call, in the initial user namespace
    pub euid: u32,
    /// Effective group, likewise
    pub egid: u32,
    /// The thread's name at that time
    pub comm: [u8; 16],
    /// The queue of all the batch's calls on queues
    pub queue: QueueRef,
    /// When the first call returned
    pub first_ns: u64,
    /// How many calls: 1 to [`BATCH`]; if they were not timed, 1
    pub count: u32,
    /// Padding
    pub reserved: u32,
}

/// A [`BatchHead`] with room for the largest batch; the ring holds only as many durations as there are calls.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BatchRecord {
    /// What the calls have in common
    pub head: BatchHead,
    /// What there is of each group, in no order
    pub groups: [BatchedGroup; GROUPS],
    /// Each call, in the order of their returns
    pub durations: [BatchedDuration; BATCH],
}

const _: () = {
    assert!(size_of::<BatchedGroup>() == 40);
    assert!(size_of::<BatchHead>() == 96);
    assert!(size_of::<BatchRecord>() == 96 + 40 * GROUPS + 4 * BATCH);
};
