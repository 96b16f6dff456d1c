//! A call that returned, and the payload of its operation.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    header::Header,
    refs::{NsRef, QueueRef},
};

/// [`CallRecord::duration_ns`] of a call whose entry was not seen, or that can't block.
pub const NO_DURATION: u64 = u64::MAX;

/// A call that returned.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CallRecord {
    /// Kind, ABI, code, flags
    pub header: Header,
    /// When it returned
    pub boot_ns: u64,
    /// Time in the kernel, or [`NO_DURATION`]
    pub duration_ns: u64,
    /// The raw result
    pub ret: i64,
    /// With the tid: identifies the `ContextRecord` of the thread; `0` if none could be sent
    pub context: u64,
    /// The thread, in the initial pid namespace
    pub tid: u32,
    /// The process, in the initial pid namespace
    pub pid: u32,
    /// The caller's IPC namespace
    pub ns: NsRef,
    /// Effective user, in the initial user namespace
    pub euid: u32,
    /// Effective group, in the initial user namespace
    pub egid: u32,
    /// The thread's name, NUL-padded, any bytes
    pub comm: [u8; 16],
    /// The arguments in the order of the native system call, whatever the ABI; for a shmat by `ipc(2)` the fourth is
    /// the returned address, `0` if it could not be read
    pub args: [u64; 5],
}

/// `struct sembuf` (`include/uapi/linux/sem.h`), the same for all ABIs.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Sembuf {
    /// Semaphore number
    pub sem_num: u16,
    /// Operation
    pub sem_op: i16,
    /// `IPC_NOWAIT`, `SEM_UNDO`
    pub sem_flg: i16,
}

/// The largest number of [`Sembuf`]s kept for a call.
pub const SOPS: usize = 8;

/// After a [`CallRecord`] of semop: `DETAIL`: `sops` is valid; `TIMEOUT`: `timeout` is valid.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SemopPart {
    /// The first `min(nsops, SOPS)` operations
    pub sops: [Sembuf; SOPS],
    /// `struct __kernel_timespec` or `struct old_timespec32`
    pub timeout: [u8; 16],
}

/// After a [`CallRecord`] of msgsnd and msgrcv.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MsgPart {
    /// The message's type, sent or received, sign-extended; with `DETAIL`
    pub mtype: i64,
}

/// After a [`CallRecord`] of shmctl, semctl, msgctl: with `DETAIL`, the start of the structure passed to `IPC_SET`,
/// in the layout of the caller's ABI.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CtlPart {
    /// `struct shmid64_ds`, `semid64_ds`, `msqid64_ds` or an older form
    pub buf: [u8; 104],
}

/// After a [`CallRecord`] of mq_send, mq_receive, mq_notify, mq_getsetattr.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct QueuePart {
    /// The queue behind the descriptor when the call entered the kernel
    pub queue: QueueRef,
    /// mq_send, mq_receive: the time limit (`TIMEOUT`); mq_notify: `struct sigevent` (`DETAIL`);
    /// mq_getsetattr: the new `struct mq_attr` (`DETAIL`)
    pub input: [u8; 32],
    /// mq_receive: the message's priority, a `u32` (`EXTRA`); mq_getsetattr: the old `struct
    /// mq_attr` (`OLD`)
    pub output: [u8; 32],
}

/// Bytes kept of a queue's name as the caller passed it, with the terminating NUL: more than a valid name has, so
/// that a name that is too long is recognised.
pub const GIVEN_NAME_LEN: usize = 264;

/// After a [`CallRecord`] of mq_open and mq_unlink.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NamePart {
    /// mq_open that succeeded: the queue
    pub queue: QueueRef,
    /// mq_open: `struct mq_attr` (`EXTRA`)
    pub attr: [u8; 32],
    /// Bytes of `name` that were read, without the NUL
    pub name_len: u32,
    /// mq_open that succeeded: `i_mode` of the queue; `0`: not known
    pub mode: u32,
    /// The name as the caller passed it to the kernel, any bytes (`DETAIL`); with `CUT` it is longer
    pub name: [u8; GIVEN_NAME_LEN],
}

const _: () = {
    assert!(size_of::<CallRecord>() == 120);
    assert!(size_of::<SemopPart>() == 64);
    assert!(size_of::<MsgPart>() == 8);
    assert!(size_of::<CtlPart>() == 104);
    assert!(size_of::<QueuePart>() == 88);
    assert!(size_of::<NamePart>() == 24 + 32 + 8 + GIVEN_NAME_LEN);
};
