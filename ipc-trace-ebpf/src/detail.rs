//! What belongs to one operation and lies in the caller's memory: semaphore operations, message
//! types, names, attributes, time limits. Read at the return, when it has been faulted in.

use ipc_trace_common::{
    op::{Abi, Op, Timeout},
    record::{
        CtlPart, MsgPart, NAME_LEN, NamePart, QueuePart, QueueRef, SOPS, Sembuf, SemopPart, flag,
    },
};

use crate::{
    constants::constant,
    filters::failed,
    memory::{masked, user, user_bytes},
    queues,
    registers::Call,
};

/// The call's facts that the parts depend on.
#[derive(Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) call: Call,
    pub(crate) op: Op,
    pub(crate) ret: i64,
    pub(crate) args: [u64; 5],
    /// Flags about the arguments
    pub(crate) flags: u32,
}

impl Facts {
    fn wide(self) -> bool {
        // x32 has 64-bit longs in these structures (COMPAT_USE_64BIT_TIME,
        // arch/x86/include/asm/compat.h; uapi/asm-x86 sizes).
        !self.call.abi.is_32_bit()
    }
}

/// Reads a time limit: 16 bytes, or 8 with 32-bit time.
#[inline(always)]
unsafe fn timeout(facts: Facts, address: u64, to: *mut u8) -> u32 {
    let len = match facts.call.code.timeout() {
        Timeout::None => return 0,
        Timeout::Time64 => 16,
        Timeout::Time32 => 8,
    };
    if address == 0 {
        return 0;
    }
    // SAFETY: `to` has room for 16 bytes, as the callers see to.
    if unsafe { user_bytes(to, len, address) } { flag::TIMEOUT } else { flag::FAULT }
}

/// What belongs to an operation, behind a call's record.
pub(crate) trait Part {
    /// Fills it, and may change what the record says of the arguments. Flags to add.
    ///
    /// # Safety
    /// `part` is valid for writing.
    unsafe fn fill(part: *mut Self, facts: &mut Facts, queue: &QueueRef) -> u32;
}

/// Of operations whose arguments say all.
impl Part for () {
    #[inline(always)]
    unsafe fn fill(_part: *mut Self, _facts: &mut Facts, _queue: &QueueRef) -> u32 {
        0
    }
}

/// No part: of a semop whose operation fits into the arguments.
pub(crate) struct Inline;

/// Whether a semop has no more than one operation and no time limit, as nearly all have: its record
/// then needs two cache lines and not three.
#[inline(always)]
pub(crate) fn fits_inline(call: Call, args: &[u64; 5]) -> bool {
    if constant!(ARGUMENTS) == 0 {
        return true;
    }
    let [_, _, nsops, timeout, _] = *args;
    nsops as u32 <= 1 && (matches!(call.code.timeout(), Timeout::None) || timeout == 0)
}

impl Part for Inline {
    #[inline(always)]
    unsafe fn fill(_part: *mut Self, facts: &mut Facts, _queue: &QueueRef) -> u32 {
        let mut sembuf = 0u64;
        let mut read = flag::INLINE;
        if constant!(ARGUMENTS) != 0 {
            let len = masked::<7>((facts.args[2] & 1) * size_of::<Sembuf>() as u64) as u32;
            let to = core::ptr::addr_of_mut!(sembuf).cast();
            // SAFETY: `sembuf` has 8 bytes, `len` is 0 or 6.
            let there = unsafe { user_bytes(to, len, facts.args[1]) };
            read |= if there { flag::DETAIL } else { flag::FAULT };
        }
        facts.args[4] = sembuf;
        read
    }
}

/// Of semop: the operations and the time limit. Flags to add.
///
/// # Safety
/// `part` is valid for writing.
#[inline(always)]
unsafe fn semop(part: *mut SemopPart, facts: Facts) -> u32 {
    let nsops = facts.args[2] as u32;
    let count = if nsops > SOPS as u32 { SOPS as u32 } else { nsops };
    // SAFETY: at most SOPS operations are read; 63 bytes are no more than the part has.
    unsafe {
        let to = core::ptr::addr_of_mut!((*part).sops).cast();
        // At most 48; the verifier may have lost that, as compilers keep values in two places.
        let len = masked::<63>(u64::from(count) * size_of::<Sembuf>() as u64);
        let read = user_bytes(to, len as u32, facts.args[1]);
        let to = core::ptr::addr_of_mut!((*part).timeout).cast();
        let limit = timeout(facts, facts.args[3], to);
        limit | if read { flag::DETAIL } else { flag::FAULT }
    }
}

/// Of msgsnd and msgrcv: the message's type.
///
/// # Safety
/// `part` is valid for writing.
#[inline(always)]
unsafe fn message(part: *mut MsgPart, facts: Facts) -> u32 {
    if constant!(ARGUMENTS) == 0 || matches!(facts.op, Op::Msgrcv) && failed(facts.ret) {
        return 0;
    }
    // struct msgbuf { long mtype; … } / struct compat_msgbuf { compat_long_t mtype; … }
    let mtype = if facts.call.abi.is_32_bit() {
        user::<i32>(facts.args[1]).map(i64::from)
    } else {
        user::<i64>(facts.args[1])
    };
    match mtype {
        Some(mtype) => {
            // SAFETY: as the caller says.
            unsafe { (*part).mtype = mtype };
            flag::DETAIL
        }
        None => flag::FAULT,
    }
}

/// `IPC_SET`; on 32-bit ABIs `IPC_64` (0x100) may be added (include/uapi/linux/ipc.h).
const IPC_SET: u64 = 1;
const IPC_64: u64 = 0x100;

/// Of shmctl, semctl, msgctl with `IPC_SET`: the structure.
///
/// # Safety
/// `part` is valid for writing.
#[inline(always)]
unsafe fn ctl(part: *mut CtlPart, facts: Facts) -> u32 {
    let (cmd, buf) = if matches!(facts.op, Op::Semctl) {
        (facts.args[2], facts.args[3])
    } else {
        (facts.args[1], facts.args[2])
    };
    if cmd & 0xffff_ffff & !IPC_64 != IPC_SET {
        return 0;
    }
    // No more than the kernel looks at, which may end where mapped memory ends: up to `mode`, and
    // of msgctl up to `msg_qbytes`. Native: struct ipc64_perm, msqid64_ds (uapi/asm-generic/
    // {ipcbuf,msgbuf}.h); compat: compat_ipc64_perm, compat_msqid64_ds (asm-generic/compat.h);
    // and, without IPC_64, compat_ipc_perm (ipc/util.h), compat_msqid_ds (ipc/msg.c, 6.12).
    // i386's own system calls imply IPC_64; ipc(2) and arm's ask for it.
    let asks = facts.call.multiplexed != 0 || matches!(facts.call.abi, Abi::Arm);
    let old = asks && cmd & IPC_64 == 0;
    let len = match (matches!(facts.op, Op::Msgctl), facts.wide(), old) {
        (false, true, _) => 24,
        (false, false, false) => 22,
        (false, false, true) => 14,
        (true, true, _) => 96,
        (true, false, false) => 72,
        (true, false, true) => 50,
    };
    // SAFETY: `part` has room for 104 bytes.
    unsafe {
        let to = core::ptr::addr_of_mut!((*part).buf).cast();
        if user_bytes(to, len, buf) { flag::DETAIL } else { flag::FAULT }
    }
}

/// Of mq_send, mq_receive, mq_notify, mq_getsetattr: all but `queue`.
///
/// # Safety
/// `part` is valid for writing.
#[inline(always)]
unsafe fn queue(part: *mut QueuePart, facts: Facts) -> u32 {
    if constant!(ARGUMENTS) == 0 {
        return 0;
    }
    // SAFETY: both areas have 32 bytes, and no read is longer.
    unsafe {
        let input: *mut u8 = core::ptr::addr_of_mut!((*part).input).cast();
        let output: *mut u8 = core::ptr::addr_of_mut!((*part).output).cast();
        match facts.op {
            Op::MqSend => timeout(facts, facts.args[4], input),
            Op::MqReceive => {
                let limit = timeout(facts, facts.args[4], input);
                let prio = facts.args[3];
                if failed(facts.ret) || prio == 0 {
                    limit
                } else if user_bytes(output, 4, prio) {
                    limit | flag::EXTRA
                } else {
                    limit | flag::FAULT
                }
            }
            Op::MqNotify => optional(facts.args[1], input, 16, flag::DETAIL),
            _ => {
                let len = attr_len(facts.call.abi);
                let new = optional(facts.args[1], input, len, flag::DETAIL);
                if failed(facts.ret) {
                    new
                } else {
                    new | optional(facts.args[2], output, len, flag::OLD)
                }
            }
        }
    }
}

/// Of mq_open and mq_unlink: all but `queue` and `mode`.
///
/// # Safety
/// `part` is valid for writing.
#[inline(always)]
unsafe fn name(part: *mut NamePart, facts: Facts) -> u32 {
    // SAFETY: both areas are as long as what is read to them.
    unsafe {
        let to: *mut u8 = core::ptr::addr_of_mut!((*part).name).cast();
        let len = aya_ebpf::helpers::generated::bpf_probe_read_user_str(
            to.cast(),
            NAME_LEN as u32,
            facts.args[0] as *const _,
        );
        // With its NUL; but 0 for an empty string before 6.18 (`strncpy_from_user_nofault`, mm/maccess.c).
        let mut flags = if len >= 0 {
            (*part).name_len = if len > 0 { len as u32 - 1 } else { 0 };
            flag::DETAIL
        } else {
            (*part).name_len = 0;
            flag::FAULT
        };
        /// `O_CREAT`: without it the kernel looks at neither mode nor attributes.
        const O_CREAT: u64 = 0o100;
        if matches!(facts.op, Op::MqOpen) && facts.args[1] & O_CREAT != 0 {
            let to = core::ptr::addr_of_mut!((*part).attr).cast();
            flags |= optional(facts.args[3], to, attr_len(facts.call.abi), flag::EXTRA);
        }
        flags
    }
}

/// The part of `struct mq_attr` that means something: four longs.
#[inline(always)]
fn attr_len(abi: Abi) -> u32 {
    match abi {
        Abi::I386 | Abi::Arm => 16,
        Abi::X86_64 | Abi::X32 | Abi::Aarch64 => 32,
    }
}

/// Reads what a pointer that may be NULL leads to.
#[inline(always)]
unsafe fn optional(address: u64, to: *mut u8, len: u32, flag: u32) -> u32 {
    if address == 0 {
        return 0;
    }
    // SAFETY: `to` has room, as the callers see to.
    if unsafe { user_bytes(to, len, address) } { flag } else { flag::FAULT }
}

/// The parts that are filled by the functions above.
macro_rules! parts {
    ($($part:ty, |$at:ident, $facts:ident, $queue:ident| $fill:expr;)*) => {$(
        impl Part for $part {
            #[inline(always)]
            unsafe fn fill($at: *mut Self, $facts: &mut Facts, $queue: &QueueRef) -> u32 {
                let $facts = *$facts;
                // SAFETY: as the caller says.
                unsafe { $fill }
            }
        }
    )*};
}

parts! {
    SemopPart, |part, facts, _queue| semop(part, facts);
    MsgPart, |part, facts, _queue| message(part, facts);
    CtlPart, |part, facts, _queue| ctl(part, facts);
    QueuePart, |part, facts, queue| {
        queues::write(core::ptr::addr_of_mut!((*part).queue), queue);
        self::queue(part, facts)
    };
    NamePart, |part, facts, queue| {
        queues::write(core::ptr::addr_of_mut!((*part).queue), queue);
        (*part).mode = queues::mode(facts.ret, queue);
        name(part, facts)
    };
}
