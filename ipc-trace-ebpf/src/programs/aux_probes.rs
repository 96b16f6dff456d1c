//! The auxiliary probes: functions on access paths to other namespaces' objects without an IPC call, and functions
//! that create objects. Backend `function` hooks them, while `syscall` sees only the returns of calls.
//!
//! The former run at a function's entry, determine the object's namespace, and end after a few instructions if it is
//! the thread's own. The latter run at the return, and mark the thread's current call. They exist as fentry and fexit
//! programs, one for each function, and as one fprobe program for all (`nopreempt`).

use aya_ebpf::{
    EbpfContext as _,
    helpers::bpf_get_current_pid_tgid,
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};
use ipc_trace_common::{
    hooks,
    layout::Field,
    op::{Op, SyscallCode},
    record::AccessPath,
    state::way_fired_at,
};

use crate::{
    access::{
        accesses::{NAMELESS, QUEUE, report_access, what},
        files::{self, How, own, segment},
    },
    base::{
        gate::{self, gate},
        hooked::value,
        memory::{
            PLAIN, bytes, current_task, exists, field, kernel_field, unknown, user_registers,
        },
        registers::{Call, number},
    },
    thread::slots,
};

/// Whether a program is to do its work for the current process. Not during the self-test, which only checks that the
/// program of this row ran.
#[inline(always)]
pub(crate) fn wanted(row: usize) -> bool {
    let gate = gate();
    if !gate.keeps_out((bpf_get_current_pid_tgid() >> 32) as u32) {
        return true;
    }
    if gate.is_test() {
        gate::fired(way_fired_at(row));
    }
    false
}

/// A file is about to be opened, or is received as a descriptor.
#[inline(always)]
pub(crate) fn file(file: u64, how: How) {
    files::got(unknown(file), how as u64);
}

/// `fsmount(2)` returned a descriptor.
#[inline(always)]
pub(crate) fn mounted(ret: i64) {
    if ret >= 0 {
        files::given(SyscallCode::MOUNT, ret as u32);
    }
}

/// A table of `/proc/sysvipc` is read: `seq` is a `struct seq_file *`.
#[inline(always)]
pub(crate) fn table(seq: u64) {
    if exists(Field::SeqFile) {
        files::table_was_read(field(unknown(seq), Field::SeqFile));
    }
}

/// A queue's file is read or polled.
#[inline(always)]
pub(crate) fn queue(file: u64, channel: AccessPath) {
    let file = unknown(file);
    let inode: u64 = kernel_field(file, Field::FileInode);
    let dentry: u64 = kernel_field(file, Field::FileDentry);
    queue_of(kernel_field(inode, Field::InodeSb), dentry, inode, what(channel));
}

/// A queue is unlinked by its path, not necessarily by mq_unlink.
#[inline(always)]
pub(crate) fn unlinked(dentry: u64) {
    if exists(Field::DentrySb) && exists(Field::DentryInode) {
        let dentry = unknown(dentry);
        let inode: u64 = field(dentry, Field::DentryInode);
        queue_of(field(dentry, Field::DentrySb), dentry, inode, what(AccessPath::QueueUnlink));
    }
}

/// A global function, like `files::got`; so are the next ones.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn queue_of(sb: u64, dentry: u64, inode: u64, channel: u64) -> u64 {
    let ipc_ns: u64 = field(sb, Field::SbInfo);
    if ipc_ns == own() {
        return 0;
    }
    report_access(channel | QUEUE, ipc_ns, dentry, inode, 0)
}

/// A mapped segment is touched for the first time, or since its page was reclaimed: `vmf` is a `struct vm_fault *`.
#[inline(always)]
pub(crate) fn touched(vmf: u64) {
    segment_touched_by(unknown(vmf));
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn segment_touched_by(vmf: u64) -> u64 {
    if !exists(Field::FaultVma) || !exists(Field::VmaFile) || !exists(Field::ShmFileNs) {
        return 0;
    }
    let file: u64 = field(field(vmf, Field::FaultVma), Field::VmaFile);
    let data: u64 = field(file, Field::FilePrivate);
    let ipc_ns: u64 = field(data, Field::ShmFileNs);
    if ipc_ns == 0 || ipc_ns == own() {
        return 0;
    }
    of_segment(what(AccessPath::MappingTouched), ipc_ns, file)
}

/// A segment of the namespace `ipc_ns` is destroyed: `shp` is its `struct shmid_kernel *`. Kernel threads destroy
/// those of dead namespaces on their own.
#[inline(always)]
pub(crate) fn destroyed(ipc_ns: u64, shp: u64) {
    segment_destroyed_by(unknown(ipc_ns), unknown(shp));
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn segment_destroyed_by(ipc_ns: u64, shp: u64) -> u64 {
    /// `PF_KTHREAD` (include/linux/sched.h)
    const KERNEL_THREAD: u32 = 0x0020_0000;
    if !exists(Field::SegmentFile) {
        return 0;
    }
    let task = unknown(current_task());
    if ipc_ns == own() || field::<u32>(task, Field::TaskFlags) & KERNEL_THREAD != 0 {
        return 0;
    }
    of_segment(what(AccessPath::SegmentDestroyed), ipc_ns, field(shp, Field::SegmentFile))
}

#[inline(always)]
fn of_segment(channel: u64, ipc_ns: u64, file: u64) -> u64 {
    let dentry: u64 = kernel_field(file, Field::FileDentry);
    let inode: u64 = kernel_field(file, Field::FileInode);
    match segment(dentry, inode) {
        0 => 0,
        found => report_access(channel | NAMELESS, ipc_ns, dentry, inode, found - 1),
    }
}

/// A setting is written: `iocb` is a `struct kiocb *` of a file of `/proc/sys`.
#[inline(always)]
pub(crate) fn setting(iocb: u64) {
    setting_written_by(unknown(iocb));
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn setting_written_by(iocb: u64) -> u64 {
    if !exists(Field::IocbFile)
        || !exists(Field::ProcInode)
        || !exists(Field::ProcSysctl)
        || !exists(Field::SysctlSet)
        || !exists(Field::IpcNsSet)
        || !exists(Field::IpcNsMqSet)
        || !exists(Field::IpcNsOps)
    {
        return 0;
    }
    let file: u64 = field(iocb, Field::IocbFile);
    let inode: u64 = kernel_field(file, Field::FileInode);
    let sysctl: u64 = field(inode - bytes(Field::ProcInode), Field::ProcSysctl);
    let set: u64 = field(sysctl, Field::SysctlSet);
    let own = own();
    // Each namespace contains its own set of settings (`setup_ipc_sysctls`, ipc/ipc_sysctl.c, 5.19); the set's
    // operations identify the kind of namespace.
    let operations: u64 = field(own, Field::IpcNsOps);
    let of_ipc = set - bytes(Field::IpcNsSet);
    let of_queues = set - bytes(Field::IpcNsMqSet);
    if of_ipc == own || of_queues == own || operations == 0 {
        return 0;
    }
    let whose = if field::<u64>(of_ipc, Field::IpcNsOps) == operations {
        of_ipc
    } else if field::<u64>(of_queues, Field::IpcNsOps) == operations {
        of_queues
    } else {
        return 0;
    };
    let dentry: u64 = kernel_field(file, Field::FileDentry);
    report_access(what(AccessPath::SettingWritten), whose, dentry, inode, 0)
}

/// A System V object was created, by the current thread's call of `op`: only calls of that operation call the
/// function that creates such objects. Its result is the id, or an error.
///
/// If this run is skipped, because a program is running on that CPU already, or a thread that was preempted there
/// accesses a map (`mmap.rs` of user space), the object is treated as one that existed: it has no creator, and never
/// a wrong one. The run counts as missed. Where programs aren't preempted, no function that creates an object can
/// interrupt another one.
#[inline(always)]
pub(crate) fn made(op: Op, ret: u64) {
    let ret = i64::from(ret as i32);
    if ret >= 0 {
        slots::note_creation(bpf_get_current_pid_tgid(), op, ret);
    }
}

/// A queue was created, unless `ret` is not 0.
#[inline(always)]
pub(crate) fn made_queue(ret: u64) {
    if ret as i32 == 0 && opens_queue() {
        slots::note_creation(bpf_get_current_pid_tgid(), Op::MqOpen, 0);
    }
}

/// Whether the current thread is in a call of mq_open. open(2) in an mqueue file system (`mqueue_create`,
/// ipc/mqueue.c), or a worker of io_uring, can also create a queue. If that is unknown, mq_open is assumed.
#[inline(always)]
fn opens_queue() -> bool {
    let regs = user_registers();
    let number = number(regs);
    !PLAIN && regs == 0 || Call::new(current_task(), regs, number, Op::MqOpen.bit()).is_some()
}

/// The actions at the entries of functions, by row, with the first one or two arguments; and each as an fentry
/// program. `if`: a condition on the first argument that is cheap in an fentry program, which knows its type; while
/// tracing, where it does not hold there is nothing to do.
macro_rules! at_entry {
    ($($name:ident: |$first:ident $(, $second:ident)?| $body:expr $(, if $condition:path)?;)+) => {
        #[cfg(not(feature = "probe"))]
        #[inline(always)]
        pub(crate) fn entered(row: usize, first: u64, second: u64) {
            $(if row == const { hooks::probe_of(stringify!($name)) } {
                let $first = first;
                $(let $second = second;)?
                $body;
            })+
            let _ = second;
        }

        $(#[fentry(function = "")]
        fn $name(ctx: FEntryContext) -> i32 {
            $(if PLAIN && gate().is_open() && !$condition(value::<0>(ctx.as_ptr())) {
                return 0;
            })?
            if wanted(const { hooks::probe_of(stringify!($name)) }) {
                let $first = value::<0>(ctx.as_ptr());
                $(let $second = value::<8>(ctx.as_ptr());)?
                $body;
            }
            0
        })+
    };
}

// The names of these programs are those of `hooks::AUX_PROBES`.
at_entry! {
    file_opened: |opened| file(opened, How::Opened), if files::may_be_of_ipc;
    file_received: |received| file(received, How::Received);
    table_read: |seq| table(seq);
    queue_read: |read| queue(read, AccessPath::QueueRead);
    queue_polled: |polled| queue(polled, AccessPath::QueuePoll);
    queue_unlinked: |_dir, dentry| unlinked(dentry);
    segment_touched: |vmf| touched(vmf), if files::is_foreign_segment;
    segment_destroyed: |ipc_ns, shp| destroyed(ipc_ns, shp);
    setting_written: |iocb| setting(iocb);
}

/// Likewise at returns, with the result, which follows the arguments.
macro_rules! at_return {
    ($($name:ident: |$result:ident = $at:literal| $body:expr;)+) => {
        #[cfg(not(feature = "probe"))]
        #[inline(always)]
        pub(crate) fn returned(row: usize, result: u64) {
            $(if row == const { hooks::probe_of(stringify!($name)) } {
                let $result = result;
                $body;
            })+
        }

        $(#[fexit(function = "")]
        fn $name(ctx: FExitContext) -> i32 {
            if wanted(const { hooks::probe_of(stringify!($name)) }) {
                let $result = value::<$at>(ctx.as_ptr());
                $body;
            }
            0
        })+
    };
}

at_return! {
    queues_mounted: |ret = 8| mounted(ret as i64);
    segment_made: |ret = 16| made(Op::Shmget, ret);
    set_made: |ret = 16| made(Op::Semget, ret);
    messages_made: |ret = 16| made(Op::Msgget, ret);
    queue_made: |ret = 24| made_queue(ret);
}
