//! Layouts of the structures read from the caller's memory.
//!
//! A layout depends on the *entry* into the kernel, which isn't always what the caller's ABI suggests: x32
//! has the native layouts except for mq_notify.

use ipc_trace_common::{
    op::{Abi, Op, Timeout},
    record::{Sembuf, flag},
};

use super::PERMISSIONS;
use crate::{
    event::{
        args::{IpcSet, MqAttr, Sigevent, Sop, Timespec},
        value::{FileMode, Flags},
    },
    input::Call,
    input::CallPayload,
    input::flags,
};

impl Call<'_> {
    pub(super) fn sops(&self, nsops: usize) -> Option<Vec<Sop>> {
        if !self.has(flag::DETAIL) {
            return None;
        }
        let sop = |sop: &Sembuf| Sop {
            sem_num: sop.sem_num,
            sem_op: sop.sem_op,
            sem_flg: Flags { bits: u64::from(sop.sem_flg.cast_unsigned()), names: flags::SEMOP },
        };
        match &self.part {
            CallPayload::InlineSemop(one) => {
                Some(std::iter::once(one).take(nsops).map(sop).collect())
            }
            CallPayload::Semop(part) => Some(part.sops.iter().take(nsops).map(sop).collect()),
            CallPayload::None
            | CallPayload::Msg(_)
            | CallPayload::Ctl(_)
            | CallPayload::Queue(_)
            | CallPayload::Name(_) => None,
        }
    }

    /// The message's type, for msgsnd and msgrcv, if it was read.
    pub(crate) fn mtype(&self) -> Option<i64> {
        let CallPayload::Msg(part) = self.part else { return None };
        self.has(flag::DETAIL).then_some(part.mtype)
    }

    pub(super) fn priority(&self) -> Option<u32> {
        let CallPayload::Queue(part) = self.part else { return None };
        let priority = Int(0, 4).unsigned(&part.output)?;
        self.has(flag::EXTRA).then_some(priority as u32)
    }

    /// The time limit, if there is one and it was read.
    pub(crate) fn timeout(&self) -> Option<Timespec> {
        let bytes: &[u8] = match self.part {
            CallPayload::Semop(part) => &part.timeout,
            CallPayload::Queue(part) => &part.input,
            CallPayload::None
            | CallPayload::InlineSemop(_)
            | CallPayload::Msg(_)
            | CallPayload::Ctl(_)
            | CallPayload::Name(_) => {
                return None;
            }
        };
        let len = match self.code.timeout() {
            Timeout::None => return None,
            Timeout::Time64 => 8,
            Timeout::Time32 => 4,
        };
        if !self.has(flag::TIMEOUT) {
            return None;
        }
        let mut tv_nsec = Int(len, len).signed(bytes)?;
        // The upper half is padding there (get_timespec64, kernel/time/time.c, 6.12).
        if len == 8 && (self.abi.is_32_bit() || self.abi == Abi::X32) {
            tv_nsec &= 0xffff_ffff;
        }
        Some(Timespec { tv_sec: Int(0, len).signed(bytes)?, tv_nsec })
    }

    /// `struct mq_attr`: four longs. x32's entries are the native ones, and its `__kernel_long_t`
    /// has 64 bits (arch/x86/include/uapi/asm/posix_types_x32.h).
    pub(in crate::input) fn mq_attr(&self, flag: u32) -> Option<MqAttr> {
        let bytes: &[u8] = match self.part {
            CallPayload::Queue(part) if flag == flag::OLD => &part.output,
            CallPayload::Queue(part) => &part.input,
            CallPayload::Name(part) => &part.attr,
            CallPayload::None
            | CallPayload::InlineSemop(_)
            | CallPayload::Semop(_)
            | CallPayload::Msg(_)
            | CallPayload::Ctl(_) => {
                return None;
            }
        };
        if !self.has(flag) {
            return None;
        }
        let len = if self.abi.is_32_bit() { 4 } else { 8 };
        Some(MqAttr {
            mq_flags: Flags { bits: Int(0, len).unsigned(bytes)?, names: flags::MQ_FLAGS },
            mq_maxmsg: Int(len, len).signed(bytes)?,
            mq_msgsize: Int(2 * len, len).signed(bytes)?,
            mq_curmsgs: Int(3 * len, len).signed(bytes)?,
        })
    }

    /// `struct sigevent`: the value, a pointer, comes before signal and kind. x32's mq_notify is
    /// the compat entry.
    pub(super) fn sigevent(&self) -> Option<Sigevent> {
        let CallPayload::Queue(part) = self.part else { return None };
        if !self.has(flag::DETAIL) {
            return None;
        }
        let pointer = match self.abi {
            Abi::X86_64 | Abi::Aarch64 => 8,
            Abi::I386 | Abi::X32 | Abi::Arm => 4,
        };
        let signo = Int(pointer, 4).unsigned(&part.input)?;
        let notify = Int(pointer + 4, 4).unsigned(&part.input)?;
        Some(Sigevent {
            sigev_notify: flags::sigev_notify(notify as u32),
            sigev_signo: (signo as u32).cast_signed(),
        })
    }

    /// The structure passed to `IPC_SET`; the command is argument `at`.
    pub(in crate::input) fn ipc_set(&self, at: usize) -> Option<IpcSet> {
        let CallPayload::Ctl(part) = self.part else { return None };
        if self.plain_command(at) != flags::IPC_SET || !self.has(flag::DETAIL) {
            return None;
        }
        let form = self.ipc_set_form(at);
        Some(IpcSet {
            uid: form.uid.unsigned(&part.buf)? as u32,
            gid: form.gid.unsigned(&part.buf)? as u32,
            mode: FileMode(form.mode.unsigned(&part.buf)? as u32 & PERMISSIONS),
            msg_qbytes: if self.op == Op::Msgctl { form.qbytes.unsigned(&part.buf) } else { None },
        })
    }

    /// The layout of the structure. i386's own system calls always use the new one
    /// (`COMPAT_SYSCALL_DEFINE3(shmctl`, ipc/shm.c, 6.12); ipc(2) and all of arm's, which are the `old_`
    /// ones, check `IPC_64` (`compat_ipc_parse_version`, ipc/util.h).
    fn ipc_set_form(&self, at: usize) -> &'static SetForm {
        let asks = match self.abi {
            Abi::X86_64 | Abi::X32 | Abi::Aarch64 => return &SetForm::NATIVE,
            Abi::I386 => self.has(flag::MULTIPLEXED),
            Abi::Arm => true,
        };
        if asks && self.uint(at) & flags::IPC_64 == 0 { &SetForm::OLD } else { &SetForm::COMPAT }
    }
}

/// An integer within a structure: offset and bytes, at most 8. All ABIs are little-endian.
#[derive(Clone, Copy)]
struct Int(usize, usize);

impl Int {
    fn unsigned(self, bytes: &[u8]) -> Option<u64> {
        let from = bytes.get(self.0..)?.get(..self.1)?;
        Some(from.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn signed(self, bytes: &[u8]) -> Option<i64> {
        let unused = 64 - 8 * self.1;
        Some((self.unsigned(bytes)? << unused).cast_signed() >> unused)
    }
}

/// Where `IPC_SET` finds what it sets. The permissions lie at the start of `struct shmid64_ds`,
/// `semid64_ds` and `msqid64_ds` alike; `qbytes` is the last one's `msg_qbytes`.
struct SetForm {
    uid: Int,
    gid: Int,
    mode: Int,
    qbytes: Int,
}

impl SetForm {
    /// `struct ipc64_perm`, `msqid64_ds` (include/uapi/asm-generic/{ipcbuf,msgbuf}.h); of x32 the
    /// same (arch/x86/include/uapi/asm/msgbuf.h).
    const NATIVE: Self =
        Self { uid: Int(4, 4), gid: Int(8, 4), mode: Int(20, 4), qbytes: Int(88, 8) };
    /// `struct compat_ipc64_perm`, `compat_msqid64_ds` (include/asm-generic/compat.h, 6.12).
    const COMPAT: Self =
        Self { uid: Int(4, 4), gid: Int(8, 4), mode: Int(20, 2), qbytes: Int(68, 4) };
    /// `struct compat_ipc_perm` (ipc/util.h), `compat_msqid_ds` (ipc/msg.c, 6.12).
    const OLD: Self = Self { uid: Int(4, 2), gid: Int(6, 2), mode: Int(12, 2), qbytes: Int(48, 2) };
}
