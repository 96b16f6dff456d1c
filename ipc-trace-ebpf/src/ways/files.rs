//! Files that may belong to another IPC namespace than whoever has them: queues and the roots of their file
//! systems, segments, tables of `/proc/sysvipc`.
//!
//! Reads are the most frequent call of all, so backend `syscall` looks at those of processes alone that hold
//! another namespace's table, and at none while there is no such process. Which do, is looked up when a thread
//! gets into another namespace, and when a descriptor is taken from another process.

use aya_ebpf::{
    bindings::BPF_NOEXIST, helpers::bpf_get_current_pid_tgid, macros::map, maps::HashMap,
};
use ipc_trace_common::{layout::Field, op::SyscallCode, record::Channel, state::Diagnostic};

use crate::{
    base::{
        counts,
        memory::{current_task, exists, field, kernel, kernel_field, unknown},
    },
    facts::{namespaces, queues, queues::MQUEUE_MAGIC},
    ways::accesses::{NAMELESS, QUEUE, UNTOLD, report_access, what},
};

/// Processes that hold files of other namespaces' `/proc/sysvipc`.
#[map]
static READERS: HashMap<u32, u8> = HashMap::with_max_entries(1 << 12, 0);

/// `PROC_SUPER_MAGIC`, `TMPFS_MAGIC`, `HUGETLBFS_MAGIC` (include/uapi/linux/magic.h)
pub(crate) const PROC_SUPER_MAGIC: u64 = 0x9fa0;
pub(crate) const TMPFS_MAGIC: u64 = 0x0102_1994;
pub(crate) const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
/// `FMODE_PATH`, `FMODE_CREATED` (include/linux/fs.h, the same from 5.10 to 7.2)
const FMODE_PATH: u32 = 1 << 14;
const FMODE_CREATED: u32 = 1 << 20;

/// How the current thread got a file.
#[derive(Clone, Copy)]
pub(crate) enum How {
    Opened = 0,
    Mounted = 1,
    Received = 2,
}

/// Whether the fields are known that lead from a file to whose it is.
#[inline(always)]
fn able() -> bool {
    exists(Field::TaskFiles)
        && exists(Field::FileMode)
        && exists(Field::FileInode)
        && exists(Field::FileDentry)
        && exists(Field::InodeSb)
        && exists(Field::SbMagic)
        && exists(Field::SbInfo)
}

/// The current thread's IPC namespace, as a number.
#[inline(always)]
pub(crate) fn own() -> u64 {
    unknown(namespaces::of_task(current_task()))
}

/// A call gave the current thread a descriptor.
#[inline(always)]
pub(crate) fn given(code: SyscallCode, fd: u32) {
    if !able() {
        return;
    }
    let file = queues::file(current_task(), fd);
    if file == 0 {
        return;
    }
    let how = match code {
        SyscallCode::MOUNT => How::Mounted,
        SyscallCode::RECEIVE => How::Received,
        _ => How::Opened,
    };
    got(file, how as u64);
}

/// The current thread got a file: what is told of it, if it belongs to another namespace.
///
/// A global function, so that the verifier looks at it once.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn got(file: u64, how: u64) -> u64 {
    if !able() {
        return 0;
    }
    let inode: u64 = field(file, Field::FileInode);
    let sb: u64 = field(inode, Field::InodeSb);
    let magic: u64 = field(sb, Field::SbMagic);
    let dentry: u64 = field(file, Field::FileDentry);
    if magic == MQUEUE_MAGIC {
        let ipc_ns: u64 = field(sb, Field::SbInfo);
        if ipc_ns == own() {
            return 0;
        }
        let mode: u32 = field(file, Field::FileMode);
        let is_root = field::<u64>(dentry, Field::DentryParent) == dentry;
        // Opened with O_PATH it leads to nothing yet; fsmount gives such a descriptor.
        if how == How::Opened as u64 && mode & FMODE_PATH != 0 {
            return 0;
        }
        let channel = if how == How::Mounted as u64 {
            what(Channel::QueueMount) | NAMELESS
        } else if is_root {
            what(Channel::QueueList) | NAMELESS
        } else if how == How::Received as u64 {
            what(Channel::QueueReceived)
        } else if mode & FMODE_CREATED != 0 {
            what(Channel::QueueCreate)
        } else {
            what(Channel::QueueOpen)
        };
        return report_access(channel | QUEUE, ipc_ns, dentry, inode, 0);
    }
    if magic == TMPFS_MAGIC || magic == HUGETLBFS_MAGIC {
        let segment = segment(dentry, inode);
        if segment != 0 {
            return report_access(
                what(Channel::MapFiles) | UNTOLD | NAMELESS,
                0,
                dentry,
                inode,
                segment - 1,
            );
        }
        return 0;
    }
    if magic == PROC_SUPER_MAGIC && how == How::Received as u64 {
        let ipc_ns = table_of(file);
        if ipc_ns != 0 && ipc_ns != own() {
            hold((bpf_get_current_pid_tgid() >> 32) as u32);
            return report_access(what(Channel::SysvipcHeld), ipc_ns, dentry, inode, 0);
        }
    }
    0
}

/// Id and key of the segment whose file this is, and 1 more; `0`: it is no segment's. Such a file has no
/// parent, and its name is made of the key (`newseg`, ipc/shm.c): nobody else can make one that looks so, as
/// those of memfd_create have a prefix (`memfd_create`, mm/memfd.c), and all others have parents.
#[inline(always)]
pub(crate) fn segment(dentry: u64, inode: u64) -> u64 {
    const NAME: u32 = u32::from_le_bytes(*b"SYSV");
    if field::<u64>(dentry, Field::DentryParent) != dentry
        || kernel_field::<u32>(dentry, Field::DentryNameLen) != 12
    {
        return 0;
    }
    let name: u64 = kernel_field(dentry, Field::DentryName);
    let first: u64 = kernel(name);
    if first as u32 != NAME {
        return 0;
    }
    let key = u64::from(digits((first >> 32) as u32) << 16 | digits(kernel(name + 8)));
    let id: u64 = kernel_field(inode, Field::InodeNumber);
    (key << 32 | id & 0xffff_ffff).wrapping_add(1)
}

/// The number of four hexadecimal digits, the first one in the lowest byte.
#[inline(always)]
const fn digits(text: u32) -> u32 {
    // Letters have bit 6, and 1 in their low bits for 10.
    let values = (text & 0x0f0f_0f0f) + 9 * (text >> 6 & 0x0101_0101);
    (values & 0xf) << 12 | (values >> 8 & 0xf) << 8 | (values >> 16 & 0xf) << 4 | values >> 24
}

const _: () = assert!(digits(u32::from_le_bytes(*b"09af")) == 0x09af);

/// Whether a file of proc is one of `/proc/sysvipc` (`ipc_init_proc_interface`, ipc/util.c). The
/// name of its directory is short, so it lies in the dentry with its NUL.
#[inline(always)]
pub(crate) fn is_sysvipc(dentry: u64) -> bool {
    let parent: u64 = kernel_field(dentry, Field::DentryParent);
    kernel::<u64>(kernel_field(parent, Field::DentryName)) == u64::from_le_bytes(*b"sysvipc\0")
}

/// The namespace that a file of `/proc/sysvipc` was opened in: `struct ipc_proc_iter` in
/// `seq_file.private` (`sysvipc_proc_open`, ipc/util.c).
#[inline(always)]
pub(crate) fn sysvipc_namespace(file: u64) -> u64 {
    if !exists(Field::FilePrivate) || !exists(Field::SeqPrivate) || !exists(Field::IpcProcIterNs) {
        return 0;
    }
    let seq: u64 = field(file, Field::FilePrivate);
    field(field(seq, Field::SeqPrivate), Field::IpcProcIterNs)
}

/// The namespace whose table this file is; `0`: it is none.
///
/// A global function, as [`got`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn table_of(file: u64) -> u64 {
    let inode: u64 = kernel_field(file, Field::FileInode);
    let sb: u64 = kernel_field(inode, Field::InodeSb);
    if kernel_field::<u64>(sb, Field::SbMagic) != PROC_SUPER_MAGIC
        || !is_sysvipc(kernel_field(file, Field::FileDentry))
    {
        return 0;
    }
    sysvipc_namespace(file)
}

/// How many processes hold another namespace's table: as many as [`READERS`] has. A variable, whose address the
/// verifier knows: every read asks for it.
#[unsafe(no_mangle)]
static mut HOLDERS: u64 = 0;

/// Whether any process does.
#[inline(always)]
pub(crate) fn are_held() -> bool {
    // SAFETY: the variable is there; programs change it by atomic additions.
    unsafe { (&raw const HOLDERS).read_volatile() != 0 }
}

/// A process holds another namespace's table: its reads are looked at from now on.
#[inline(always)]
fn hold(pid: u32) {
    if READERS.insert(&pid, &0, u64::from(BPF_NOEXIST)).is_ok() {
        counts::add(&raw mut HOLDERS, 1);
    } else if READERS.get_ptr(&pid).is_none() {
        counts::diagnose(Diagnostic::ReadersFull);
    }
}

/// A process was made: it has the descriptors of the one that made it.
#[inline(always)]
pub(crate) fn forked(parent: u32, child: u32) {
    if READERS.get_ptr(&parent).is_some() {
        hold(child);
    }
}

/// A thread ended. Its process is done with its files when it was the last one: do_exit has counted it down
/// before the tracepoint (kernel/exit.c).
#[inline(always)]
pub(crate) fn process_ends(pid_tgid: u64) {
    if are_held() {
        let signal = field(current_task(), Field::TaskSignal);
        if field::<i32>(signal, Field::SignalLive) == 0
            && READERS.remove(&((pid_tgid >> 32) as u32)).is_ok()
        {
            counts::add(&raw mut HOLDERS, u64::MAX);
        }
    }
}

/// The current thread read from a descriptor.
#[inline(always)]
pub(crate) fn was_read(pid: u32, fd: u32) {
    if READERS.get_ptr(&pid).is_none() || !able() {
        return;
    }
    let file = queues::file(current_task(), fd);
    if file != 0 {
        table_was_read(file);
    }
}

/// The current thread read from a file, which may be another namespace's table.
///
/// A global function, as [`got`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn table_was_read(file: u64) -> u64 {
    let ipc_ns = table_of(file);
    if ipc_ns == 0 || ipc_ns == own() {
        return 0;
    }
    let dentry: u64 = kernel_field(file, Field::FileDentry);
    let inode: u64 = kernel_field(file, Field::FileInode);
    report_access(what(Channel::SysvipcRead), ipc_ns, dentry, inode, 0)
}

/// Descriptors that are looked at in a row, and rows.
const ROW: u64 = 64;
const ROWS: u64 = 64;

/// A thread has got into the namespace `ipc_ns`. `tells`: it is the current one, and what it holds is told of:
/// of several tables, the first. That the others are read is told, too.
#[inline(always)]
pub(crate) fn moved(task: u64, pid: u32, ipc_ns: u64, tells: bool) {
    if !able() {
        return;
    }
    let files: u64 = kernel_field(task, Field::TaskFiles);
    let file = look_through(kernel_field(files, Field::FilesFdt), unknown(ipc_ns));
    if file == 0 {
        return;
    }
    hold(pid);
    if tells {
        // Here and not where it was found: there is not room on the stack for all of them.
        let dentry: u64 = kernel_field(file, Field::FileDentry);
        let inode: u64 = kernel_field(file, Field::FileInode);
        report_access(what(Channel::SysvipcHeld), table_of(file), dentry, inode, 0);
    }
}

/// The first file among the descriptors in `fdt` that is another namespace's table; `0`: there is none.
///
/// A global function, as [`got`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn look_through(fdt: u64, ipc_ns: u64) -> u64 {
    let count = u64::from(kernel_field::<u32>(fdt, Field::FdtableMax));
    let table: u64 = kernel_field(fdt, Field::FdtableFd);
    let mut row = 0;
    // The condition comes last, here and below: kernels up to 6.1 want a loop to go back by a jump, not by
    // running into its beginning (`check_cfg`, kernel/bpf/verifier.c).
    loop {
        let found = look_at_row(table + row * ROW * 8, ipc_ns);
        row += 1;
        if found != 0 {
            return found;
        }
        if row == ROWS || row * ROW >= count {
            break;
        }
    }
    if count > ROWS * ROW {
        counts::diagnose(Diagnostic::ManyDescriptors);
    }
    0
}

/// As [`look_through`], of as many descriptors as a row has, which a table has no less than
/// (`alloc_fdtable`, fs/file.c: a multiple of BITS_PER_LONG).
///
/// A global function, as [`got`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn look_at_row(files: u64, ipc_ns: u64) -> u64 {
    let mut at = 0;
    loop {
        let found = look_at_place(files + at * 8, ipc_ns);
        at += 1;
        if found != 0 || at == ROW {
            return found;
        }
    }
}

/// The file whose address is at `place`, if it is another namespace's table; else `0`.
///
/// A global function, as [`got`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn look_at_place(place: u64, ipc_ns: u64) -> u64 {
    let file: u64 = kernel(place);
    let whose = if file == 0 { 0 } else { table_of(file) };
    if whose == 0 || whose == ipc_ns { 0 } else { file }
}
