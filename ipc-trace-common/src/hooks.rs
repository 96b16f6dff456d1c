//! The hook table: every system call that is, or multiplexes, an IPC operation, for each ABI with
//! its number and entry function.
//!
//! The dispatch tables of backend `syscall`, the programs of backend `function`, `doctor` and the documents are
//! derived from it. To add a system call, add a row.
//!
//! Sources: `arch/x86/entry/syscalls/syscall_{64,32}.tbl`, `include/uapi/asm-generic/unistd.h`,
//! `arch/arm64/tools/syscall_32.tbl` (6.12), and the symbol tables of 5.10 to 7.2.

mod aux_probes;
mod names;

pub use aux_probes::{AUX_PROBES, AuxProbe, Stimulus, all_aux_probes, probe_of};
use names::equal;

use crate::op::{
    Abi, Op, SyscallCode,
    Timeout::{None as Untimed, Time32, Time64},
};

/// One system call of one ABI.
#[derive(Clone, Copy, Debug)]
pub struct SyscallEntry {
    /// The calling convention that the number belongs to
    pub abi: Abi,
    /// The system-call number, without x32's bit 30
    pub number: u16,
    /// The operation, or another call that the programs handle
    pub code: SyscallCode,
    /// The kernel functions that implement it; the first one that exists is used
    pub functions: &'static [&'static str],
}

/// Placeholders in the eBPF programs that user space patches while loading: immediates that occur nowhere else.
pub mod patch {
    /// Whether the function's system call is one of a 32-bit ABI: 1, or 0
    pub const COMPAT: u64 = 0x4350_4154_4350_4154;
    /// Whether it takes a queue's descriptor: 1, or 0
    pub const QUEUE: u64 = 0x5155_4555_5155_4555;
    /// Whether it looks up an object: 1, or 0
    pub const LOOKUP: u64 = 0x4c4f_4f4b_4c4f_4f4b;
    /// Whether it sends or receives a message: 1, or 0
    pub const MESSAGE: u64 = 0x4d53_4753_4d53_4753;
    /// In a load, added to a field's number (`layout::Field`): where the field lies
    pub const LOAD: i16 = 0x7f00;
    /// In a move, likewise: its offset, or `layout::ABSENT`
    pub const OFFSET: u32 = 0x4f46_0000;
    /// The system call of the function, as in `record::PackedCall` without the id
    pub const WHAT: u64 = 0x5748_4154_5748_4154;
    /// The array with the program that serves all functions
    pub const ALL: u64 = 0x4f46_414c_4f46_414c;
    /// In place of a helper's number: a call of the kernel function `bpf_rdonly_cast`
    pub const CAST: u32 = 0x4f43_5354;
}

const fn row(
    abi: Abi,
    number: u16,
    op: Op,
    timeout: crate::op::Timeout,
    functions: &'static [&'static str],
) -> SyscallEntry {
    SyscallEntry { abi, number, code: SyscallCode::new(op, timeout), functions }
}

const fn other(
    abi: Abi,
    number: u16,
    code: SyscallCode,
    functions: &'static [&'static str],
) -> SyscallEntry {
    SyscallEntry { abi, number, code, functions }
}

use Abi::{Aarch64, Arm, I386, X32, X86_64};

/// All system calls.
#[rustfmt::skip]
pub const SYSCALLS: &[SyscallEntry] = &[
    // x86_64
    row(X86_64, 29, Op::Shmget, Untimed, &["__x64_sys_shmget"]),
    row(X86_64, 30, Op::Shmat, Untimed, &["__x64_sys_shmat"]),
    row(X86_64, 31, Op::Shmctl, Untimed, &["__x64_sys_shmctl"]),
    row(X86_64, 64, Op::Semget, Untimed, &["__x64_sys_semget"]),
    row(X86_64, 65, Op::Semop, Untimed, &["__x64_sys_semop"]),
    row(X86_64, 66, Op::Semctl, Untimed, &["__x64_sys_semctl"]),
    row(X86_64, 67, Op::Shmdt, Untimed, &["__x64_sys_shmdt"]),
    row(X86_64, 68, Op::Msgget, Untimed, &["__x64_sys_msgget"]),
    row(X86_64, 69, Op::Msgsnd, Untimed, &["__x64_sys_msgsnd"]),
    row(X86_64, 70, Op::Msgrcv, Untimed, &["__x64_sys_msgrcv"]),
    row(X86_64, 71, Op::Msgctl, Untimed, &["__x64_sys_msgctl"]),
    row(X86_64, 220, Op::Semop, Time64, &["__x64_sys_semtimedop"]),
    row(X86_64, 240, Op::MqOpen, Untimed, &["__x64_sys_mq_open"]),
    row(X86_64, 241, Op::MqUnlink, Untimed, &["__x64_sys_mq_unlink"]),
    row(X86_64, 242, Op::MqSend, Time64, &["__x64_sys_mq_timedsend"]),
    row(X86_64, 243, Op::MqReceive, Time64, &["__x64_sys_mq_timedreceive"]),
    row(X86_64, 244, Op::MqNotify, Untimed, &["__x64_sys_mq_notify"]),
    row(X86_64, 245, Op::MqGetsetattr, Untimed, &["__x64_sys_mq_getsetattr"]),
    other(X86_64, 272, SyscallCode::UNSHARE, &["__x64_sys_unshare"]),
    other(X86_64, 308, SyscallCode::SETNS, &["__x64_sys_setns"]),
    // x32: as x86_64, but for mq_notify
    row(X32, 29, Op::Shmget, Untimed, &["__x64_sys_shmget"]),
    row(X32, 30, Op::Shmat, Untimed, &["__x64_sys_shmat"]),
    row(X32, 31, Op::Shmctl, Untimed, &["__x64_sys_shmctl"]),
    row(X32, 64, Op::Semget, Untimed, &["__x64_sys_semget"]),
    row(X32, 65, Op::Semop, Untimed, &["__x64_sys_semop"]),
    row(X32, 66, Op::Semctl, Untimed, &["__x64_sys_semctl"]),
    row(X32, 67, Op::Shmdt, Untimed, &["__x64_sys_shmdt"]),
    row(X32, 68, Op::Msgget, Untimed, &["__x64_sys_msgget"]),
    row(X32, 69, Op::Msgsnd, Untimed, &["__x64_sys_msgsnd"]),
    row(X32, 70, Op::Msgrcv, Untimed, &["__x64_sys_msgrcv"]),
    row(X32, 71, Op::Msgctl, Untimed, &["__x64_sys_msgctl"]),
    row(X32, 220, Op::Semop, Time64, &["__x64_sys_semtimedop"]),
    row(X32, 240, Op::MqOpen, Untimed, &["__x64_sys_mq_open"]),
    row(X32, 241, Op::MqUnlink, Untimed, &["__x64_sys_mq_unlink"]),
    row(X32, 242, Op::MqSend, Time64, &["__x64_sys_mq_timedsend"]),
    row(X32, 243, Op::MqReceive, Time64, &["__x64_sys_mq_timedreceive"]),
    row(X32, 245, Op::MqGetsetattr, Untimed, &["__x64_sys_mq_getsetattr"]),
    row(X32, 527, Op::MqNotify, Untimed, &["__x64_compat_sys_mq_notify", "__x32_compat_sys_mq_notify"]),
    other(X32, 272, SyscallCode::UNSHARE, &["__x64_sys_unshare"]),
    other(X32, 308, SyscallCode::SETNS, &["__x64_sys_setns"]),
    // i386
    other(I386, 117, SyscallCode::IPC, &["__ia32_compat_sys_ipc"]),
    row(I386, 277, Op::MqOpen, Untimed, &["__ia32_compat_sys_mq_open"]),
    row(I386, 278, Op::MqUnlink, Untimed, &["__ia32_sys_mq_unlink"]),
    row(I386, 279, Op::MqSend, Time32, &["__ia32_sys_mq_timedsend_time32"]),
    row(I386, 280, Op::MqReceive, Time32, &["__ia32_sys_mq_timedreceive_time32"]),
    row(I386, 281, Op::MqNotify, Untimed, &["__ia32_compat_sys_mq_notify"]),
    row(I386, 282, Op::MqGetsetattr, Untimed, &["__ia32_compat_sys_mq_getsetattr"]),
    other(I386, 310, SyscallCode::UNSHARE, &["__ia32_sys_unshare"]),
    other(I386, 346, SyscallCode::SETNS, &["__ia32_sys_setns"]),
    row(I386, 393, Op::Semget, Untimed, &["__ia32_sys_semget"]),
    row(I386, 394, Op::Semctl, Untimed, &["__ia32_compat_sys_semctl"]),
    row(I386, 395, Op::Shmget, Untimed, &["__ia32_sys_shmget"]),
    row(I386, 396, Op::Shmctl, Untimed, &["__ia32_compat_sys_shmctl"]),
    row(I386, 397, Op::Shmat, Untimed, &["__ia32_compat_sys_shmat"]),
    row(I386, 398, Op::Shmdt, Untimed, &["__ia32_sys_shmdt"]),
    row(I386, 399, Op::Msgget, Untimed, &["__ia32_sys_msgget"]),
    row(I386, 400, Op::Msgsnd, Untimed, &["__ia32_compat_sys_msgsnd"]),
    row(I386, 401, Op::Msgrcv, Untimed, &["__ia32_compat_sys_msgrcv"]),
    row(I386, 402, Op::Msgctl, Untimed, &["__ia32_compat_sys_msgctl"]),
    row(I386, 418, Op::MqSend, Time64, &["__ia32_sys_mq_timedsend"]),
    row(I386, 419, Op::MqReceive, Time64, &["__ia32_sys_mq_timedreceive"]),
    row(I386, 420, Op::Semop, Time64, &["__ia32_sys_semtimedop"]),
    // arm64
    other(Aarch64, 97, SyscallCode::UNSHARE, &["__arm64_sys_unshare"]),
    row(Aarch64, 180, Op::MqOpen, Untimed, &["__arm64_sys_mq_open"]),
    row(Aarch64, 181, Op::MqUnlink, Untimed, &["__arm64_sys_mq_unlink"]),
    row(Aarch64, 182, Op::MqSend, Time64, &["__arm64_sys_mq_timedsend"]),
    row(Aarch64, 183, Op::MqReceive, Time64, &["__arm64_sys_mq_timedreceive"]),
    row(Aarch64, 184, Op::MqNotify, Untimed, &["__arm64_sys_mq_notify"]),
    row(Aarch64, 185, Op::MqGetsetattr, Untimed, &["__arm64_sys_mq_getsetattr"]),
    row(Aarch64, 186, Op::Msgget, Untimed, &["__arm64_sys_msgget"]),
    row(Aarch64, 187, Op::Msgctl, Untimed, &["__arm64_sys_msgctl"]),
    row(Aarch64, 188, Op::Msgrcv, Untimed, &["__arm64_sys_msgrcv"]),
    row(Aarch64, 189, Op::Msgsnd, Untimed, &["__arm64_sys_msgsnd"]),
    row(Aarch64, 190, Op::Semget, Untimed, &["__arm64_sys_semget"]),
    row(Aarch64, 191, Op::Semctl, Untimed, &["__arm64_sys_semctl"]),
    row(Aarch64, 192, Op::Semop, Time64, &["__arm64_sys_semtimedop"]),
    row(Aarch64, 193, Op::Semop, Untimed, &["__arm64_sys_semop"]),
    row(Aarch64, 194, Op::Shmget, Untimed, &["__arm64_sys_shmget"]),
    row(Aarch64, 195, Op::Shmctl, Untimed, &["__arm64_sys_shmctl"]),
    row(Aarch64, 196, Op::Shmat, Untimed, &["__arm64_sys_shmat"]),
    row(Aarch64, 197, Op::Shmdt, Untimed, &["__arm64_sys_shmdt"]),
    other(Aarch64, 268, SyscallCode::SETNS, &["__arm64_sys_setns"]),
    // 32-bit arm on arm64
    row(Arm, 274, Op::MqOpen, Untimed, &["__arm64_compat_sys_mq_open"]),
    row(Arm, 275, Op::MqUnlink, Untimed, &["__arm64_sys_mq_unlink"]),
    row(Arm, 276, Op::MqSend, Time32, &["__arm64_sys_mq_timedsend_time32"]),
    row(Arm, 277, Op::MqReceive, Time32, &["__arm64_sys_mq_timedreceive_time32"]),
    row(Arm, 278, Op::MqNotify, Untimed, &["__arm64_compat_sys_mq_notify"]),
    row(Arm, 279, Op::MqGetsetattr, Untimed, &["__arm64_compat_sys_mq_getsetattr"]),
    row(Arm, 298, Op::Semop, Untimed, &["__arm64_sys_semop"]),
    row(Arm, 299, Op::Semget, Untimed, &["__arm64_sys_semget"]),
    row(Arm, 300, Op::Semctl, Untimed, &["__arm64_compat_sys_old_semctl"]),
    row(Arm, 301, Op::Msgsnd, Untimed, &["__arm64_compat_sys_msgsnd"]),
    row(Arm, 302, Op::Msgrcv, Untimed, &["__arm64_compat_sys_msgrcv"]),
    row(Arm, 303, Op::Msgget, Untimed, &["__arm64_sys_msgget"]),
    row(Arm, 304, Op::Msgctl, Untimed, &["__arm64_compat_sys_old_msgctl"]),
    row(Arm, 305, Op::Shmat, Untimed, &["__arm64_compat_sys_shmat"]),
    row(Arm, 306, Op::Shmdt, Untimed, &["__arm64_sys_shmdt"]),
    row(Arm, 307, Op::Shmget, Untimed, &["__arm64_sys_shmget"]),
    row(Arm, 308, Op::Shmctl, Untimed, &["__arm64_compat_sys_old_shmctl"]),
    row(Arm, 312, Op::Semop, Time32, &["__arm64_sys_semtimedop_time32"]),
    other(Arm, 337, SyscallCode::UNSHARE, &["__arm64_sys_unshare"]),
    other(Arm, 375, SyscallCode::SETNS, &["__arm64_sys_setns"]),
    row(Arm, 418, Op::MqSend, Time64, &["__arm64_sys_mq_timedsend"]),
    row(Arm, 419, Op::MqReceive, Time64, &["__arm64_sys_mq_timedreceive"]),
    row(Arm, 420, Op::Semop, Time64, &["__arm64_sys_semtimedop"]),
];

/// The calls of `ipc(2)` that are operations: `call & 0xffff` and its code (`include/uapi/linux/ipc.h`). Time limits
/// are 32-bit there (`compat_ksys_ipc`, ipc/syscall.c).
pub const MULTIPLEXED: [(u8, SyscallCode); 12] = [
    (1, SyscallCode::new(Op::Semop, Untimed)),
    (2, SyscallCode::new(Op::Semget, Untimed)),
    (3, SyscallCode::new(Op::Semctl, Untimed)),
    (4, SyscallCode::new(Op::Semop, Time32)),
    (11, SyscallCode::new(Op::Msgsnd, Untimed)),
    (12, SyscallCode::new(Op::Msgrcv, Untimed)),
    (13, SyscallCode::new(Op::Msgget, Untimed)),
    (14, SyscallCode::new(Op::Msgctl, Untimed)),
    (21, SyscallCode::new(Op::Shmat, Untimed)),
    (22, SyscallCode::new(Op::Shmdt, Untimed)),
    (23, SyscallCode::new(Op::Shmget, Untimed)),
    (24, SyscallCode::new(Op::Shmctl, Untimed)),
];

/// Calls that aren't IPC calls, but use files that may belong to an IPC namespace: calls that return descriptors, and
/// calls that read from them. Backend `syscall` inspects them when they return; backend `function` has cheaper hooks.
#[rustfmt::skip]
pub const ACCESSES: &[(Abi, u16, SyscallCode)] = &[
    (X86_64, 0, SyscallCode::READ),      // read
    (X86_64, 2, SyscallCode::OPEN),      // open
    (X86_64, 17, SyscallCode::READ),     // pread64
    (X86_64, 19, SyscallCode::READ),     // readv
    (X86_64, 85, SyscallCode::OPEN),     // creat
    (X86_64, 257, SyscallCode::OPEN),    // openat
    (X86_64, 295, SyscallCode::READ),    // preadv
    (X86_64, 304, SyscallCode::OPEN),    // open_by_handle_at
    (X86_64, 327, SyscallCode::READ),    // preadv2
    (X86_64, 432, SyscallCode::MOUNT),   // fsmount
    (X86_64, 437, SyscallCode::OPEN),    // openat2
    (X86_64, 438, SyscallCode::RECEIVE), // pidfd_getfd
    (X32, 0, SyscallCode::READ),
    (X32, 2, SyscallCode::OPEN),
    (X32, 17, SyscallCode::READ),
    (X32, 85, SyscallCode::OPEN),
    (X32, 257, SyscallCode::OPEN),
    (X32, 304, SyscallCode::OPEN),
    (X32, 432, SyscallCode::MOUNT),
    (X32, 437, SyscallCode::OPEN),
    (X32, 438, SyscallCode::RECEIVE),
    (X32, 515, SyscallCode::READ),       // readv
    (X32, 534, SyscallCode::READ),       // preadv
    (X32, 546, SyscallCode::READ),       // preadv2
    (I386, 3, SyscallCode::READ),        // read
    (I386, 5, SyscallCode::OPEN),        // open
    (I386, 8, SyscallCode::OPEN),        // creat
    (I386, 145, SyscallCode::READ),      // readv
    (I386, 180, SyscallCode::READ),      // pread64
    (I386, 295, SyscallCode::OPEN),      // openat
    (I386, 333, SyscallCode::READ),      // preadv
    (I386, 342, SyscallCode::OPEN),      // open_by_handle_at
    (I386, 378, SyscallCode::READ),      // preadv2
    (I386, 432, SyscallCode::MOUNT),
    (I386, 437, SyscallCode::OPEN),
    (I386, 438, SyscallCode::RECEIVE),
    (Aarch64, 56, SyscallCode::OPEN),    // openat
    (Aarch64, 63, SyscallCode::READ),    // read
    (Aarch64, 65, SyscallCode::READ),    // readv
    (Aarch64, 67, SyscallCode::READ),    // pread64
    (Aarch64, 69, SyscallCode::READ),    // preadv
    (Aarch64, 265, SyscallCode::OPEN),   // open_by_handle_at
    (Aarch64, 286, SyscallCode::READ),   // preadv2
    (Aarch64, 432, SyscallCode::MOUNT),
    (Aarch64, 437, SyscallCode::OPEN),
    (Aarch64, 438, SyscallCode::RECEIVE),
    (Arm, 3, SyscallCode::READ),         // read
    (Arm, 5, SyscallCode::OPEN),         // open
    (Arm, 8, SyscallCode::OPEN),         // creat
    (Arm, 145, SyscallCode::READ),       // readv
    // Not 180, pread64, which is mq_open of arm64.
    (Arm, 322, SyscallCode::OPEN),       // openat
    (Arm, 361, SyscallCode::READ),       // preadv
    (Arm, 371, SyscallCode::OPEN),       // open_by_handle_at
    (Arm, 392, SyscallCode::READ),       // preadv2
    (Arm, 432, SyscallCode::MOUNT),
    (Arm, 437, SyscallCode::OPEN),
    (Arm, 438, SyscallCode::RECEIVE),
];

/// The kinds of code in [`ACCESSES`].
pub const ACCESS_KINDS: u32 = SyscallCode::OPEN.bit() | SyscallCode::READ.bit();

/// How the programs handle the return of a call with a given number, in any ABI.
pub mod dispatch_kind {
    /// Nothing
    pub const NONE: u8 = 0;
    /// An operation, or a move between namespaces
    pub const CALL: u8 = 1;
    /// A call that reads from a descriptor
    pub const READ: u8 = 2;
    /// A call that returns a descriptor
    pub const OPEN: u8 = 3;
}

/// x32's bit in a system-call number (`__X32_SYSCALL_BIT`, arch/x86/include/uapi/asm/unistd.h).
pub const X32_BIT: u64 = 0x4000_0000;

/// System-call numbers that a dispatch table covers.
pub const NUMBERS: usize = 1024;

/// The tables of one architecture, one after the other: 64-bit calls, 32-bit calls, x32, and an empty one that makes
/// their size a power of two.
pub type Dispatch = [u8; 4 * NUMBERS];

/// The index of a call in [`Dispatch`].
pub const fn place(abi: Abi, number: u16) -> usize {
    let table = match abi {
        Abi::X86_64 | Abi::Aarch64 => 0,
        Abi::I386 | Abi::Arm => 1,
        Abi::X32 => 2,
    };
    table * NUMBERS + number as usize
}

/// Whether a machine with that native ABI supports this one.
const fn is_one_of(abi: Abi, native: Abi) -> bool {
    matches!(abi, Abi::Aarch64 | Abi::Arm) == matches!(native, Abi::Aarch64 | Abi::Arm)
}

/// The contents of [`Dispatch`] for a native ABI, limited to the kinds of code in `kinds` (bits of
/// [`SyscallCode::bit`]).
pub const fn dispatch(native: Abi, kinds: u32) -> Dispatch {
    let mut table = [0; 4 * NUMBERS];
    let mut i = 0;
    while i < SYSCALLS.len() {
        let entry = &SYSCALLS[i];
        i += 1;
        if kinds & entry.code.bit() == 0 {
            continue;
        }
        if is_one_of(entry.abi, native) {
            table[place(entry.abi, entry.number)] = entry.code.0;
        }
    }
    let mut i = 0;
    while i < ACCESSES.len() {
        let (abi, number, code) = ACCESSES[i];
        i += 1;
        if kinds & code.bit() != 0 && is_one_of(abi, native) {
            table[place(abi, number)] = code.0;
        }
    }
    table
}

/// The kinds of code for which `ipc(2)` must be inspected: the operations that it multiplexes.
pub const fn multiplexed_kinds() -> u32 {
    let mut kinds = 0;
    let mut i = 0;
    while i < MULTIPLEXED.len() {
        kinds |= MULTIPLEXED[i].1.bit();
        i += 1;
    }
    kinds
}

/// The functions in all rows; some occur more than once.
pub fn functions() -> impl Iterator<Item = &'static str> {
    SYSCALLS.iter().flat_map(|entry| entry.functions).copied()
}

/// The first row whose system call `function` implements. The programs of backend `function` refer to their rows by
/// it: a function that isn't in the table doesn't compile.
///
/// # Panics
/// No row contains it.
pub const fn row_of(function: &str) -> usize {
    let mut i = 0;
    while i < SYSCALLS.len() {
        let mut j = 0;
        while j < SYSCALLS[i].functions.len() {
            if equal(SYSCALLS[i].functions[j], function) {
                return i;
            }
            j += 1;
        }
        i += 1;
    }
    panic!("no row of the hook table names this function");
}

/// For each number, one of [`dispatch_kind`]: what it means in any table of `dispatch`. The programs check this table
/// first, so that unrelated calls cost as little as possible. No number is an operation in one ABI and an access in
/// another; a number that reads in one and opens in another is handled as one that opens.
pub const fn any(dispatch: &Dispatch) -> [u8; NUMBERS] {
    let mut table = [dispatch_kind::NONE; NUMBERS];
    let mut i = 0;
    while i < dispatch.len() {
        let code = SyscallCode(dispatch[i]);
        let what = if code.0 == 0 {
            dispatch_kind::NONE
        } else if code.bit() == SyscallCode::READ.bit() {
            dispatch_kind::READ
        } else if code.bit() == SyscallCode::OPEN.bit() {
            dispatch_kind::OPEN
        } else {
            dispatch_kind::CALL
        };
        if what > table[i % NUMBERS] {
            table[i % NUMBERS] = what;
        }
        i += 1;
    }
    table
}

/// [`MULTIPLEXED`] by call number.
pub const fn multiplexed() -> [u8; 32] {
    let mut table = [0; 32];
    let mut i = 0;
    while i < MULTIPLEXED.len() {
        table[MULTIPLEXED[i].0 as usize] = MULTIPLEXED[i].1.0;
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_within_abi() {
        for (i, a) in SYSCALLS.iter().enumerate() {
            assert!((a.number as usize) < NUMBERS);
            for b in &SYSCALLS[i + 1..] {
                assert!(a.abi != b.abi || a.number != b.number, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn number_is_operation_or_access_in_all_abis() {
        for (i, (abi, number, code)) in ACCESSES.iter().enumerate() {
            assert!((*number as usize) < NUMBERS && code.bit() & ACCESS_KINDS != 0);
            for other in &ACCESSES[i + 1..] {
                assert!((*abi, *number) != (other.0, other.1), "{abi:?} {number}");
            }
            for entry in SYSCALLS.iter().filter(|entry| is_one_of(entry.abi, *abi)) {
                assert!(entry.number != *number, "{abi:?} {number} and {entry:?}");
            }
        }
    }

    #[test]
    fn reads_and_opens_have_their_own_dispatch_kind() {
        let table = any(&dispatch(Abi::X86_64, u32::MAX));
        let of = |number: usize| table[number];
        assert_eq!(
            (of(0), of(257), of(220), of(110)),
            (dispatch_kind::READ, dispatch_kind::OPEN, dispatch_kind::CALL, 0)
        );
        // readv of i386 is mlock of x86_64; open of i386 is fstat.
        assert_eq!((of(145), of(5)), (dispatch_kind::READ, dispatch_kind::OPEN));
        let entry = any(&dispatch(Abi::X86_64, !ACCESS_KINDS));
        assert_eq!((entry[0], entry[257], entry[220]), (0, 0, dispatch_kind::CALL));
    }

    #[test]
    fn every_abi_has_every_operation() {
        for abi in Abi::ALL {
            for op in Op::ALL {
                let direct = SYSCALLS.iter().any(|e| e.abi == abi && e.code.op() == Some(op));
                let through_ipc =
                    abi == Abi::I386 && MULTIPLEXED.iter().any(|m| m.1.op() == Some(op));
                assert!(direct || through_ipc, "{} {}", abi.name(), op.name());
            }
        }
    }

    #[test]
    fn codes_keep_operation_and_timeout() {
        for op in Op::ALL {
            for timeout in [Untimed, Time64, Time32] {
                let code = SyscallCode::new(op, timeout);
                assert_eq!((code.op(), code.timeout()), (Some(op), timeout));
            }
        }
        for code in [SyscallCode::IPC, SyscallCode::UNSHARE, SyscallCode::SETNS] {
            assert_eq!(code.op(), None);
        }
    }

    #[test]
    fn function_has_one_code_in_all_abis() {
        for entry in SYSCALLS {
            for function in entry.functions {
                let first = &SYSCALLS[row_of(function)];
                assert_eq!(first.code, entry.code, "{function}");
            }
        }
    }

    #[test]
    fn dispatch_table_has_only_wanted_kinds() {
        let semop = dispatch(Abi::X86_64, Op::Semop.bit());
        assert_eq!(semop.iter().filter(|code| **code != 0).count(), 2 + 1 + 2);
        assert_eq!(semop[29], 0);
        assert!(dispatch(Abi::X86_64, 0).iter().all(|code| *code == 0));
    }
}
