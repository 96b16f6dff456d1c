//! The data of one operation in the caller's memory: semaphore operations, message types, names, attributes, time
//! limits. Data that the kernel takes was read at the entry (`inputs`), if possible; data that it returns is read at
//! the return.

use ipc_trace_common::{
    op::{Abi, Op, Timeout},
    record::{
        CtlPart, GIVEN_NAME_LEN, MsgPart, NamePart, QueuePart, QueueRef, SOPS, Sembuf, SemopPart,
        flag,
    },
};

use crate::{
    base::{
        constants::constant,
        memory::{kernel_bytes, user, user_bytes},
        registers::{Call, failed},
        words::{copy_words, masked},
    },
    metadata::queues,
    thread::slots::{LARGE_INPUTS, LargeInput, Slot},
};

/// The properties of a call that the payloads depend on.
#[derive(Clone, Copy)]
pub(crate) struct CallInfo {
    pub(crate) call: Call,
    pub(crate) op: Op,
    pub(crate) ret: i64,
    pub(crate) args: [u64; 5],
    /// Flags about the arguments
    pub(crate) flags: u32,
}

impl CallInfo {
    fn wide(self) -> bool {
        // x32 has 64-bit longs in these structures (COMPAT_USE_64BIT_TIME,
        // arch/x86/include/asm/compat.h; uapi/asm-x86 sizes).
        !self.call.abi.is_32_bit()
    }
}

/// A thread's slot, with the data read when its call entered the kernel.
pub(crate) type Entered = Option<&'static Slot>;

/// The flags of the data read at the entry, in a slot; none if it was not read.
#[inline(always)]
fn flags_of(slot: Entered) -> u32 {
    match slot {
        Some(slot) => slot.input.flags,
        None => 0,
    }
}

/// Reads a time limit: 16 bytes, or 8 with 32-bit time.
#[inline(always)]
unsafe fn timeout(info: CallInfo, address: u64, to: *mut u8) -> u32 {
    let len = match info.call.code.timeout() {
        Timeout::None => return 0,
        Timeout::Time64 => 16,
        Timeout::Time32 => 8,
    };
    if address == 0 {
        return 0;
    }
    // SAFETY: `to` has room for 16 bytes, as the callers ensure.
    if unsafe { user_bytes(to, len, address) } { flag::TIMEOUT } else { flag::FAULT }
}

/// An operation's payload, after a call's record.
pub(crate) trait Part {
    /// Fills it, and may change the record's arguments. Returns flags to add.
    ///
    /// # Safety
    /// `part` is valid for writing.
    unsafe fn fill(part: *mut Self, info: &mut CallInfo, queue: &QueueRef, slot: Entered) -> u32;
}

/// For operations without a payload.
impl Part for () {
    #[inline(always)]
    unsafe fn fill(_part: *mut Self, _info: &mut CallInfo, _queue: &QueueRef, _: Entered) -> u32 {
        0
    }
}

/// No payload: for a semop whose operation fits into the arguments.
pub(crate) struct Inline;

/// Whether a semop has no more than one operation and no time limit, as nearly all have: its record then needs two
/// cache lines and not three.
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
    unsafe fn fill(_part: *mut Self, info: &mut CallInfo, _queue: &QueueRef, slot: Entered) -> u32 {
        let mut one = 0u64;
        let mut read = 0;
        if constant!(ARGUMENTS) != 0 {
            read = flags_of(slot);
            if let (Some(slot), true) = (slot, read != 0) {
                let [first, ..] = slot.input.bytes;
                one = first & 0xffff_ffff_ffff;
            } else {
                // SAFETY: `one` has 8 bytes.
                read = unsafe { sembuf(core::ptr::addr_of_mut!(one).cast(), *info) };
            }
        }
        info.args[4] = one;
        read | flag::INLINE
    }
}

/// Reads the only operation of a semop, if it has one.
///
/// # Safety
/// `to` has room for 8 bytes.
#[inline(always)]
pub(crate) unsafe fn sembuf(to: *mut u8, info: CallInfo) -> u32 {
    let len = masked::<7>((info.args[2] & 1) * size_of::<Sembuf>() as u64) as u32;
    // SAFETY: as the caller says; `len` is 0 or 6.
    if unsafe { user_bytes(to, len, info.args[1]) } { flag::DETAIL } else { flag::FAULT }
}

/// Reads the operations of a semop and its time limit.
///
/// # Safety
/// `part` is valid for writing.
#[inline(always)]
pub(crate) unsafe fn semop(part: *mut SemopPart, info: CallInfo) -> u32 {
    let nsops = info.args[2] as u32;
    let count = if nsops > SOPS as u32 { SOPS as u32 } else { nsops };
    // SAFETY: at most SOPS operations are read; 63 bytes are no more than the payload has.
    unsafe {
        let to = core::ptr::addr_of_mut!((*part).sops).cast();
        // At most 48; the verifier may have lost that bound, as compilers keep values in two registers.
        let len = masked::<63>(u64::from(count) * size_of::<Sembuf>() as u64);
        let read = user_bytes(to, len as u32, info.args[1]);
        let to = core::ptr::addr_of_mut!((*part).timeout).cast();
        let limit = timeout(info, info.args[3], to);
        limit | if read { flag::DETAIL } else { flag::FAULT }
    }
}

/// Reads a message's type.
///
/// # Safety
/// `to` is valid for writing.
#[inline(always)]
pub(crate) unsafe fn mtype(to: *mut i64, info: CallInfo) -> u32 {
    // struct msgbuf { long mtype; … } / struct compat_msgbuf { compat_long_t mtype; … }
    let mtype = if info.call.abi.is_32_bit() {
        user::<i32>(info.args[1]).map(i64::from)
    } else {
        user::<i64>(info.args[1])
    };
    match mtype {
        Some(mtype) => {
            // SAFETY: as the caller says.
            unsafe { to.write(mtype) };
            flag::DETAIL
        }
        None => flag::FAULT,
    }
}

/// The payload of msgsnd, which takes the type, and msgrcv, which returns it.
///
/// # Safety
/// `part` is valid for writing.
#[inline(always)]
unsafe fn message(part: *mut MsgPart, info: CallInfo, slot: Entered) -> u32 {
    if constant!(ARGUMENTS) == 0 {
        return 0;
    }
    let read = flags_of(slot);
    // SAFETY: as the caller says.
    unsafe {
        let to = core::ptr::addr_of_mut!((*part).mtype);
        if matches!(info.op, Op::Msgrcv) {
            return read | if failed(info.ret) { 0 } else { mtype(to, info) };
        }
        match slot {
            Some(slot) if read != 0 => {
                let [first, ..] = slot.input.bytes;
                to.write(first as i64);
                read
            }
            _ => mtype(to, info),
        }
    }
}

/// `IPC_SET`; on 32-bit ABIs `IPC_64` (0x100) may be added (include/uapi/linux/ipc.h).
const IPC_SET: u64 = 1;
const IPC_64: u64 = 0x100;

/// The command and the structure of shmctl, semctl, msgctl.
#[inline(always)]
fn command(info: &CallInfo) -> (u64, u64) {
    if matches!(info.op, Op::Semctl) {
        (info.args[2], info.args[3])
    } else {
        (info.args[1], info.args[2])
    }
}

/// Whether the command is `IPC_SET`, which takes a structure.
#[inline(always)]
pub(crate) fn sets(info: &CallInfo) -> bool {
    command(info).0 & 0xffff_ffff & !IPC_64 == IPC_SET
}

/// Reads the structure of shmctl, semctl, msgctl with `IPC_SET`.
///
/// # Safety
/// `to` is valid for writing.
#[inline(always)]
pub(crate) unsafe fn ctl(to: *mut CtlPart, info: CallInfo) -> u32 {
    let (cmd, buf) = command(&info);
    // No more than the kernel reads, which may end where mapped memory ends: up to `mode`, and for msgctl up to
    // `msg_qbytes`. Native: struct ipc64_perm, msqid64_ds (uapi/asm-generic/{ipcbuf,msgbuf}.h); compat:
    // compat_ipc64_perm, compat_msqid64_ds (asm-generic/compat.h); and, without IPC_64, compat_ipc_perm (ipc/util.h),
    // compat_msqid_ds (ipc/msg.c, 6.12). i386's own system calls imply IPC_64; ipc(2) and arm's require it as a flag.
    let asks = info.call.multiplexed != 0 || matches!(info.call.abi, Abi::Arm);
    let old = asks && cmd & IPC_64 == 0;
    let len = match (matches!(info.op, Op::Msgctl), info.wide(), old) {
        (false, true, _) => 24,
        (false, false, false) => 22,
        (false, false, true) => 14,
        (true, true, _) => 96,
        (true, false, false) => 72,
        (true, false, true) => 50,
    };
    // SAFETY: there is room for 104 bytes.
    if unsafe { user_bytes(to.cast(), len, buf) } { flag::DETAIL } else { flag::FAULT }
}

/// Data that was read at the entry and does not fit into a slot.
#[inline(always)]
fn large(slot: Entered) -> Option<*mut LargeInput> {
    slot.filter(|slot| slot.input.flags != 0 && slot.input.large != 0)
        .and_then(|slot| LARGE_INPUTS.get_ptr_mut(&slot.pid_tgid))
}

/// The payload of shmctl, semctl, msgctl.
///
/// # Safety
/// `part` is valid for writing.
#[inline(always)]
unsafe fn controlled(part: *mut CtlPart, info: CallInfo, slot: Entered) -> u32 {
    if !sets(&info) {
        return flags_of(slot);
    }
    match large(slot) {
        // SAFETY: the name's room is larger than the payload.
        Some(large) => unsafe {
            let from = core::ptr::addr_of!((*large).name) as u64;
            kernel_bytes(part.cast(), size_of::<CtlPart>() as u32, from);
            flags_of(slot)
        },
        // SAFETY: as the caller says.
        None => unsafe { ctl(part, info) },
    }
}

/// Reads the input of mq_send, mq_receive, mq_notify and mq_getsetattr.
///
/// # Safety
/// `to` has room for 32 bytes.
#[inline(always)]
pub(crate) unsafe fn queue_input(to: *mut u8, info: CallInfo) -> u32 {
    // SAFETY: as the caller says, and no read is longer.
    unsafe {
        match info.op {
            Op::MqSend | Op::MqReceive => timeout(info, info.args[4], to),
            Op::MqNotify => optional(info.args[1], to, 16, flag::DETAIL),
            _ => optional(info.args[1], to, attr_len(info.call.abi), flag::DETAIL),
        }
    }
}

/// The payload of mq_send, mq_receive, mq_notify, mq_getsetattr: all but `queue`.
///
/// # Safety
/// `part` is valid for writing.
#[inline(always)]
unsafe fn queue(part: *mut QueuePart, info: CallInfo, slot: Entered) -> u32 {
    if constant!(ARGUMENTS) == 0 {
        return 0;
    }
    let read = flags_of(slot);
    // SAFETY: both areas have 32 bytes and are aligned to 8, and no read is longer.
    unsafe {
        let input: *mut u8 = core::ptr::addr_of_mut!((*part).input).cast();
        let output: *mut u8 = core::ptr::addr_of_mut!((*part).output).cast();
        let taken = match slot {
            Some(slot) if read != 0 => {
                copy_words::<4>(input.cast(), slot.input.bytes.as_ptr());
                read
            }
            _ => queue_input(input, info),
        };
        if failed(info.ret) {
            return taken;
        }
        match info.op {
            Op::MqReceive => taken | optional(info.args[3], output, 4, flag::EXTRA),
            Op::MqGetsetattr => {
                taken | optional(info.args[2], output, attr_len(info.call.abi), flag::OLD)
            }
            _ => taken,
        }
    }
}

/// Reads the name passed to mq_open and mq_unlink, and the attributes of mq_open.
///
/// # Safety
/// `to` is valid for writing.
#[inline(always)]
pub(crate) unsafe fn name(to: *mut LargeInput, info: CallInfo) -> u32 {
    // SAFETY: both areas are as long as the data read to them.
    unsafe {
        let (name_len, mut flags) = given_name(core::ptr::addr_of_mut!((*to).name).cast(), info);
        (*to).name_len = name_len;
        flags |= attributes(core::ptr::addr_of_mut!((*to).attr).cast(), info);
        flags
    }
}

/// Reads a queue's name: returns its length, and flags.
///
/// # Safety
/// `to` has room for [`GIVEN_NAME_LEN`] bytes.
#[inline(always)]
unsafe fn given_name(to: *mut u8, info: CallInfo) -> (u32, u32) {
    let from = info.args[0];
    // SAFETY: as the caller says.
    let len = unsafe {
        aya_ebpf::helpers::generated::bpf_probe_read_user_str(
            to.cast(),
            GIVEN_NAME_LEN as u32,
            from as *const _,
        )
    };
    if len < 0 {
        return (0, flag::FAULT);
    }
    // With its NUL; but 0 for an empty string before 6.18 (`strncpy_from_user_nofault`, mm/maccess.c).
    let name_len = if len > 0 { len as u32 - 1 } else { 0 };
    // A longer name is cut, with the same result as one that just fits.
    let full = len == GIVEN_NAME_LEN as i64;
    if full && user::<u8>(from + GIVEN_NAME_LEN as u64 - 1) != Some(0) {
        return (name_len, flag::DETAIL | flag::TRUNCATED);
    }
    (name_len, flag::DETAIL)
}

/// Reads the attributes of a new queue.
///
/// # Safety
/// `to` has room for 32 bytes.
#[inline(always)]
unsafe fn attributes(to: *mut u8, info: CallInfo) -> u32 {
    /// `O_CREAT`: without it the kernel reads neither mode nor attributes.
    const O_CREAT: u64 = 0o100;
    if !matches!(info.op, Op::MqOpen) || info.args[1] & O_CREAT == 0 {
        return 0;
    }
    // SAFETY: as the caller says.
    unsafe { optional(info.args[3], to, attr_len(info.call.abi), flag::EXTRA) }
}

/// The payload of mq_open and mq_unlink: all but `queue` and `mode`.
///
/// # Safety
/// `part` is valid for writing.
#[inline(always)]
unsafe fn named(part: *mut NamePart, info: CallInfo, slot: Entered) -> u32 {
    // SAFETY: both areas are as long as the data written to them.
    unsafe {
        let name: *mut u8 = core::ptr::addr_of_mut!((*part).name).cast();
        let attr: *mut u8 = core::ptr::addr_of_mut!((*part).attr).cast();
        let Some(large) = large(slot) else {
            let (name_len, flags) = given_name(name, info);
            (*part).name_len = name_len;
            return flags | attributes(attr, info);
        };
        (*part).name_len = (*large).name_len;
        kernel_bytes(name, GIVEN_NAME_LEN as u32, core::ptr::addr_of!((*large).name) as u64);
        kernel_bytes(attr, 32, core::ptr::addr_of!((*large).attr) as u64);
        flags_of(slot)
    }
}

/// The used part of `struct mq_attr`: four longs.
#[inline(always)]
fn attr_len(abi: Abi) -> u32 {
    match abi {
        Abi::I386 | Abi::Arm => 16,
        Abi::X86_64 | Abi::X32 | Abi::Aarch64 => 32,
    }
}

/// Reads the data behind a pointer that may be NULL.
#[inline(always)]
unsafe fn optional(address: u64, to: *mut u8, len: u32, flag: u32) -> u32 {
    if address == 0 {
        return 0;
    }
    // SAFETY: `to` has room, as the callers ensure.
    if unsafe { user_bytes(to, len, address) } { flag } else { flag::FAULT }
}

/// The payloads that the functions above fill.
macro_rules! parts {
    ($($part:ty, |$at:ident, $info:ident, $queue:ident, $slot:ident| $fill:expr;)*) => {$(
        impl Part for $part {
            #[inline(always)]
            unsafe fn fill(
                $at: *mut Self,
                $info: &mut CallInfo,
                $queue: &QueueRef,
                $slot: Entered,
            ) -> u32 {
                let $info = *$info;
                // SAFETY: as the caller says.
                unsafe { $fill }
            }
        }
    )*};
}

parts! {
    SemopPart, |part, info, _queue, slot| {
        match (slot, flags_of(slot)) {
            (Some(slot), read) if read != 0 => {
                copy_words::<8>(part.cast(), slot.input.bytes.as_ptr());
                read
            }
            _ => semop(part, info),
        }
    };
    MsgPart, |part, info, _queue, slot| message(part, info, slot);
    CtlPart, |part, info, _queue, slot| controlled(part, info, slot);
    QueuePart, |part, info, queue, slot| {
        queues::write(core::ptr::addr_of_mut!((*part).queue), queue);
        self::queue(part, info, slot)
    };
    NamePart, |part, info, queue, slot| {
        queues::write(core::ptr::addr_of_mut!((*part).queue), queue);
        (*part).mode = queues::mode(info.ret, queue);
        named(part, info, slot)
    };
}
