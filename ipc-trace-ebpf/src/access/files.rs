//! Files that may belong to another IPC namespace than the thread that uses them: queues and the roots of their file
//! systems, segments, tables of `/proc/sysvipc`.
//!
//! Reads are the most frequent call of all, so backend `syscall` inspects only the reads of processes that hold
//! another namespace's table, and none while there is no such process. The programs search for such tables when a
//! thread enters another namespace, and when a descriptor is copied from another process.

use aya_ebpf::{
    bindings::BPF_NOEXIST, helpers::bpf_get_current_pid_tgid, macros::map, maps::HashMap,
};
use ipc_trace_common::{layout::Field, op::SyscallCode, record::AccessPath, state::Diagnostic};

use crate::{
    access::accesses::{NAMELESS, QUEUE, UNREPORTED, report_access, what},
    base::{
        counts,
        memory::{current_task, exists, field, kernel, kernel_field, typed_field, unknown},
    },
    metadata::{namespaces, queues, queues::MQUEUE_MAGIC},
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

/// The current thread's IPC namespace, as a number.
#[inline(always)]
pub(crate) fn own() -> u64 {
    unknown(namespaces::of_task(current_task()))
}

/// Whether a file that is opened may belong to an IPC namespace: it is of an mqueue file system, or looks like a
/// segment, which has no parent (see [`segment`]). `file`: the argument of a hooked function. Most files that a host
/// opens end here, after plain loads.
#[inline(always)]
pub(crate) fn may_be_of_ipc(file: u64) -> bool {
    let inode: u64 = typed_field(file, Field::FileInode);
    let sb: u64 = typed_field(inode, Field::InodeSb);
    let magic: u64 = typed_field(sb, Field::SbMagic);
    if magic == TMPFS_MAGIC || magic == HUGETLBFS_MAGIC {
        let dentry: u64 = typed_field(file, Field::FileDentry);
        return typed_field::<u64>(dentry, Field::DentryParent) == dentry;
    }
    magic == MQUEUE_MAGIC
}

/// Whether the page fault `vmf` (the argument of a hooked function) is in a mapping of another namespace's segment
/// than the current thread's.
#[inline(always)]
pub(crate) fn is_foreign_segment(vmf: u64) -> bool {
    if !exists(Field::FaultVma)
        || !exists(Field::VmaFile)
        || !exists(Field::FilePrivate)
        || !exists(Field::ShmFileNs)
    {
        return false;
    }
    let file: u64 = typed_field(typed_field(vmf, Field::FaultVma), Field::VmaFile);
    // The verifier knows no type of it.
    let data: u64 = typed_field(file, Field::FilePrivate);
    let ipc_ns: u64 = kernel_field(data, Field::ShmFileNs);
    ipc_ns != 0 && ipc_ns != namespaces::of_task(current_task())
}

/// A call returned a descriptor to the current thread.
#[inline(always)]
pub(crate) fn given(code: SyscallCode, fd: u32) {
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

/// The current thread got a file: reports it, if it belongs to another namespace.
///
/// A global function, so that the verifier checks it once.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn got(file: u64, how: u64) -> u64 {
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
        // Opened with O_PATH it gives no access yet; fsmount returns such a descriptor.
        if how == How::Opened as u64 && mode & FMODE_PATH != 0 {
            return 0;
        }
        let channel = if how == How::Mounted as u64 {
            what(AccessPath::QueueMount) | NAMELESS
        } else if is_root {
            what(AccessPath::QueueList) | NAMELESS
        } else if how == How::Received as u64 {
            what(AccessPath::QueueReceived)
        } else if mode & FMODE_CREATED != 0 {
            what(AccessPath::QueueCreate)
        } else {
            what(AccessPath::QueueOpen)
        };
        return report_access(channel | QUEUE, ipc_ns, dentry, inode, 0);
    }
    if magic == TMPFS_MAGIC || magic == HUGETLBFS_MAGIC {
        let segment = segment(dentry, inode);
        if segment != 0 {
            return report_access(
                what(AccessPath::MapFiles) | UNREPORTED | NAMELESS,
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
            return report_access(what(AccessPath::SysvipcHeld), ipc_ns, dentry, inode, 0);
        }
    }
    0
}

/// Id and key of the segment behind a file, plus 1; `0`: it is no segment. Such a file has no parent, and its name is
/// made of the key (`newseg`, ipc/shm.c). No process can create another file like that: those of memfd_create have a
/// prefix (`memfd_create`, mm/memfd.c), and all others have parents.
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

/// Whether a file of proc is in `/proc/sysvipc` (`ipc_init_proc_interface`, ipc/util.c). The name of its directory is
/// short, so it lies in the dentry with its NUL.
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

/// The namespace of a file of `/proc/sysvipc`; `0`: another file.
///
/// A global function, like [`got`].
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

/// How many processes hold another namespace's table: the number of entries in [`READERS`]. A variable, whose address
/// the verifier knows: every read checks it.
#[unsafe(no_mangle)]
static mut HOLDERS: u64 = 0;

/// Whether any process holds one.
#[inline(always)]
pub(crate) fn are_held() -> bool {
    // SAFETY: the variable is there; programs change it by atomic additions.
    unsafe { (&raw const HOLDERS).read_volatile() != 0 }
}

/// A process holds another namespace's table: its reads are inspected from now on.
#[inline(always)]
fn hold(pid: u32) {
    if READERS.insert(&pid, &0, u64::from(BPF_NOEXIST)).is_ok() {
        counts::add(&raw mut HOLDERS, 1);
    } else if READERS.get_ptr(&pid).is_none() {
        counts::diagnose(Diagnostic::ReadersFull);
    }
}

/// A process was forked: it inherits the descriptors.
#[inline(always)]
pub(crate) fn forked(parent: u32, child: u32) {
    if READERS.get_ptr(&parent).is_some() {
        hold(child);
    }
}

/// A thread ended. Its process closes its files if it was the last one: do_exit has decremented the count before the
/// tracepoint (kernel/exit.c).
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
    if READERS.get_ptr(&pid).is_none() {
        return;
    }
    let file = queues::file(current_task(), fd);
    if file != 0 {
        table_was_read(file);
    }
}

/// The current thread read from a file, which may be another namespace's table.
///
/// A global function, like [`got`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn table_was_read(file: u64) -> u64 {
    let ipc_ns = table_of(file);
    if ipc_ns == 0 || ipc_ns == own() {
        return 0;
    }
    let dentry: u64 = kernel_field(file, Field::FileDentry);
    let inode: u64 = kernel_field(file, Field::FileInode);
    report_access(what(AccessPath::SysvipcRead), ipc_ns, dentry, inode, 0)
}

/// How many descriptors are inspected per row, and how many rows.
const ROW: u64 = 64;
const ROWS: u64 = 64;

/// A thread entered the namespace `ipc_ns`. `reports`: it is the current one, and the tables it holds are reported:
/// of several, the first. Reads of the others are reported, too.
#[inline(always)]
pub(crate) fn moved(task: u64, pid: u32, ipc_ns: u64, reports: bool) {
    let files: u64 = kernel_field(task, Field::TaskFiles);
    let file = visit_table(kernel_field(files, Field::FilesFdt), unknown(ipc_ns));
    if file == 0 {
        return;
    }
    hold(pid);
    if reports {
        // Here and not where it was found: the stack has no room for all of them.
        let dentry: u64 = kernel_field(file, Field::FileDentry);
        let inode: u64 = kernel_field(file, Field::FileInode);
        report_access(what(AccessPath::SysvipcHeld), table_of(file), dentry, inode, 0);
    }
}

/// The first file among the descriptors in `fdt` that is another namespace's table; `0`: there is none.
///
/// A global function, like [`got`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn visit_table(fdt: u64, ipc_ns: u64) -> u64 {
    let count = u64::from(kernel_field::<u32>(fdt, Field::FdtableMax));
    let table: u64 = kernel_field(fdt, Field::FdtableFd);
    let mut row = 0;
    // The condition comes last, here and below: kernels up to 6.1 require a loop to go back by a jump, not by falling
    // through to its beginning (`check_cfg`, kernel/bpf/verifier.c).
    loop {
        let found = visit_row(table + row * ROW * 8, ipc_ns);
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

/// As [`visit_table`], for one row of descriptors. A table has at least one row (`alloc_fdtable`, fs/file.c: a
/// multiple of BITS_PER_LONG).
///
/// A global function, like [`got`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn visit_row(files: u64, ipc_ns: u64) -> u64 {
    let mut at = 0;
    loop {
        let found = visit_slot(files + at * 8, ipc_ns);
        at += 1;
        if found != 0 || at == ROW {
            return found;
        }
    }
}

/// The file whose address is at `place`, if it is another namespace's table; else `0`.
///
/// A global function, like [`got`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn visit_slot(place: u64, ipc_ns: u64) -> u64 {
    let file: u64 = kernel(place);
    let whose = if file == 0 { 0 } else { table_of(file) };
    if whose == 0 || whose == ipc_ns { 0 } else { file }
}
